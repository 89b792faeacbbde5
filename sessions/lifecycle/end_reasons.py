"""Why a run ended, in words, and whether trying again is safe: one table, one pure function."""

from dataclasses import dataclass

from runtimes.base import Cause, Observed
from sessions.choices import Intent


@dataclass(frozen=True, slots=True)
class Advice:
    """What a verdict means to people, and to the next try. `words` may hold {detail}, {code}, {by}."""

    words: str
    next: str
    retry_safe: bool  # nothing can have been done by half: the same again does no harm
    failure: bool  # the work is not done
    retries: bool = False  # Berth tries again by itself, after a pause and a few times


ADVICE = {
    Cause.COMPLETED: Advice("The agent finished.", "A new message starts the next run.", True, False),
    Cause.CLOSED: Advice("Closed{by} as asked.", "A new message resumes the conversation.", True, False),
    Cause.IDLE: Advice(
        "Closed after waiting long enough for a follow-up.", "A new message resumes the conversation.", True, False
    ),
    Cause.PREEMPTED: Advice(
        "Closed while it had nothing to do, to make room for others.", "A new message resumes it.", True, False
    ),
    Cause.STOPPED: Advice("Stopped{by}.", "A new message resumes the conversation.", True, False),
    Cause.DEADLINE: Advice(
        "Ended at its time limit{detail}.",
        "A new message resumes it; raise the profile's deadline for long work.",
        False,
        True,
    ),
    Cause.TURN_TIMEOUT: Advice(
        "Ended since the agent worked too long without a word{detail}.",
        "Look where it got stuck; raise the profile's turn limit for work that is silent for long.",
        False,
        True,
    ),
    Cause.HUNG: Advice(
        "Ended since its courier fell silent while the agent's process lived{detail}.",
        "If it happens again, look at the node and at the courier's log.",
        False,
        True,
        retries=True,
    ),
    Cause.AGENT_ERROR: Advice(
        "The agent ended with exit code {code}{detail}.", "Read its last lines.", False, True, retries=True
    ),
    Cause.OOM: Advice(
        "The agent ran out of memory{detail}.",
        "Raise the profile's memory or give it less to do.",
        False,
        True,
        retries=True,
    ),
    Cause.IMAGE_PULL: Advice(
        "The image can't be pulled{detail}.",
        "Correct the profile's image or the cluster's access to its registry.",
        True,
        True,
        retries=True,
    ),
    Cause.UNSCHEDULABLE: Advice(
        "No node can take it{detail}.",
        "Ask for less in the profile, or add capacity to the cluster.",
        True,
        True,
        retries=True,
    ),
    Cause.REJECTED: Advice("The start was refused{detail}.", "Correct what it names in the profile.", True, True),
    Cause.QUOTA: Advice(
        "The group's quota in the cluster is used up{detail}.",
        "It starts when something of the group ends.",
        True,
        False,
    ),
    Cause.MOUNT: Advice(
        "A volume or secret can't be mounted{detail}.", "Correct what it names.", True, True, retries=True
    ),
    Cause.EVICTED: Advice(
        "The cluster evicted it{detail}.", "Nothing, unless it happens again.", False, True, retries=True
    ),
    Cause.NODE_LOST: Advice(
        "Its node was lost{detail}.", "Nothing, unless it happens again.", False, True, retries=True
    ),
    Cause.START_TIMEOUT: Advice(
        "It did not start in time{detail}.", "Look at what it waited for.", True, True, retries=True
    ),
    Cause.VANISHED: Advice(
        "It was removed from outside{detail}.", "Ask who deletes what Berth makes.", False, True, retries=True
    ),
    Cause.UNREACHABLE: Advice(
        "The runtime can't be reached{detail}.", "It goes on when the runtime is back.", True, True, retries=True
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What the courier last told of a run."""

    exit_code: int | None = None  # of the agent, as its wrapper saw it
    peak_bytes: int | None = None  # the most memory that the agent's container used
    unanswered: bool = False  # a message was handed over, and its turn has not ended


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a run ended."""

    cause: Cause
    words: str
    exit_code: int | None = None
    last_lines: str = ""

    @property
    def retry_safe(self) -> bool:
        """Whether the same work may be tried again without harm."""
        return ADVICE[self.cause].retry_safe

    @property
    def failure(self) -> bool:
        """Whether the work is not done."""
        return ADVICE[self.cause].failure

    @property
    def retries(self) -> bool:
        """Whether Berth tries again by itself."""
        return ADVICE[self.cause].retries


# What Berth asked for decides, whatever the processes did on their way out.
OF_INTENT = {
    Intent.STOP: Cause.STOPPED,
    Intent.SHUTDOWN: Cause.STOPPED,
    Intent.DEADLINE: Cause.DEADLINE,
    Intent.START_TIMEOUT: Cause.START_TIMEOUT,
    Intent.TURN_TIMEOUT: Cause.TURN_TIMEOUT,
    Intent.HUNG: Cause.HUNG,
    Intent.CLOSE: Cause.CLOSED,
    Intent.IDLE: Cause.IDLE,
    Intent.PREEMPT: Cause.PREEMPTED,
}
GENTLE = frozenset({Cause.CLOSED, Cause.IDLE, Cause.PREEMPTED})
# A run that was asked to finish its turn and met one of these did not finish it.
BROKEN = frozenset({Cause.AGENT_ERROR, Cause.OOM, Cause.EVICTED, Cause.NODE_LOST, Cause.VANISHED, Cause.DEADLINE})
# How the processes went down, once they were asked to, is no news.
NO_DETAIL = GENTLE | {Cause.STOPPED, Cause.DEADLINE, Cause.TURN_TIMEOUT, Cause.HUNG, Cause.COMPLETED}


def judge(observed: Observed, intent: Intent, report: Report = Report(), by: str = "") -> Verdict:
    """The verdict on a run that is over: of what the runtime sees, what Berth asked for, the courier's last report."""
    code = observed.exit_code if observed.exit_code is not None else report.exit_code
    seen = observed.cause or (Cause.COMPLETED if code == 0 else Cause.AGENT_ERROR if code else Cause.VANISHED)
    cause = OF_INTENT.get(intent, seen)
    if cause is Cause.START_TIMEOUT and observed.cause:
        cause = observed.cause  # what held it up tells more than that it took long
    if cause in GENTLE and seen in BROKEN and (report.unanswered or seen is Cause.OOM):
        cause = seen
    if cause is Cause.AGENT_ERROR and code is None:
        code = -1
    detail = "" if cause in NO_DETAIL else _memory(observed, report) if cause is Cause.OOM else observed.words
    if cause is Cause.AGENT_ERROR and detail == f"the agent ended with exit code {code}":
        detail = ""  # the words say so already
    return say(cause, detail=detail, code=code, by=by, last_lines=observed.last_lines)


def _memory(observed: Observed, report: Report) -> str:
    """How much memory an agent had, and how much it used, as far as anybody knows."""
    if report.peak_bytes is None:
        return observed.words
    return f"{observed.words} (peak {report.peak_bytes / 1024**2:.0f}Mi)"


def say(cause: Cause, *, detail: str = "", code: int | None = None, by: str = "", last_lines: str = "") -> Verdict:
    """Put a cause into words, with what to do about it."""
    advice = ADVICE[cause]
    words = advice.words.format(
        detail=": " + detail.rstrip(".") if detail else "", code=code, by=f" by {by}" if by else ""
    )
    return Verdict(cause, f"{words} {advice.next}", code, last_lines)
