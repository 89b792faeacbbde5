"""Why a run ended: one pure function, `end_reason`, and one table of what that means to people and to the next try."""

from dataclasses import dataclass

from runtimes.base import Observed, Phase, RuntimeFault
from sessions.choices import GRACEFUL, EndReason, Intent


@dataclass(frozen=True, slots=True)
class Advice:
    """What an end reason means to people, and to the next try. `message` may hold {detail}, {code}, {by}."""

    message: str
    next: str
    retry_safe: bool  # nothing can have been done by half: the same again does no harm
    failure: bool  # the work is not done
    retries: bool = False  # Berth tries again by itself, after a pause and a few times


ADVICE = {
    EndReason.COMPLETED: Advice("The agent finished.", "A new message starts the next run.", True, False),
    EndReason.CLOSED: Advice("Closed{by} as asked.", "A new message resumes the conversation.", True, False),
    EndReason.IDLE: Advice(
        "Closed after waiting long enough for a follow-up.", "A new message resumes the conversation.", True, False
    ),
    EndReason.PREEMPTED: Advice(
        "Closed while it had nothing to do, to make room for others.", "A new message resumes it.", True, False
    ),
    EndReason.STOPPED: Advice("Stopped{by}.", "A new message resumes the conversation.", True, False),
    EndReason.DEADLINE: Advice(
        "Ended at its time limit{detail}.",
        "A new message resumes it; raise the profile's deadline for long work.",
        False,
        True,
    ),
    EndReason.TURN_TIMEOUT: Advice(
        "Ended since the agent worked too long without a word{detail}.",
        "Look where it got stuck; raise the profile's turn limit for work that is silent for long.",
        False,
        True,
    ),
    EndReason.HUNG: Advice(
        "Ended since its courier fell silent while the agent's process lived{detail}.",
        "If it happens again, look at the node and at the courier's log.",
        False,
        True,
        retries=True,
    ),
    EndReason.AGENT_ERROR: Advice(
        "The agent ended with exit code {code}{detail}.", "Read its last lines.", False, True, retries=True
    ),
    EndReason.OOM: Advice(
        "The agent ran out of memory{detail}.",
        "Raise the profile's memory or give it less to do.",
        False,
        True,
        retries=True,
    ),
    EndReason.IMAGE_PULL: Advice(
        "The image can't be pulled{detail}.",
        "Correct the profile's image or the cluster's access to its registry.",
        True,
        True,
        retries=True,
    ),
    EndReason.UNSCHEDULABLE: Advice(
        "No node can take it{detail}.",
        "Ask for less in the profile, or add capacity to the cluster.",
        True,
        True,
        retries=True,
    ),
    EndReason.REJECTED: Advice("The start was refused{detail}.", "Correct what it names in the profile.", True, True),
    EndReason.QUOTA: Advice(
        "The group's quota in the cluster is used up{detail}.",
        "It starts when something of the group ends.",
        True,
        False,
    ),
    EndReason.MOUNT: Advice(
        "A volume or secret can't be mounted{detail}.", "Correct what it names.", True, True, retries=True
    ),
    EndReason.EVICTED: Advice(
        "The cluster evicted it{detail}.", "Nothing, unless it happens again.", False, True, retries=True
    ),
    EndReason.NODE_LOST: Advice(
        "Its node was lost{detail}.", "Nothing, unless it happens again.", False, True, retries=True
    ),
    EndReason.START_TIMEOUT: Advice(
        "It did not start in time{detail}.", "Look at what it waited for.", True, True, retries=True
    ),
    EndReason.VANISHED: Advice(
        "It was removed from outside{detail}.", "Ask who deletes what Berth makes.", False, True, retries=True
    ),
    EndReason.UNREACHABLE: Advice(
        "The runtime can't be reached{detail}.", "It goes on when the runtime is back.", True, True, retries=True
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a run's courier last told."""

    exit_code: int | None = None  # of the agent, as its wrapper saw it
    peak_bytes: int | None = None  # the most memory that the agent's container used
    unanswered: bool = False  # a message was handed over, and its turn has not ended
    ignored: bool = False  # messages wait, and the agent took none


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a run ended, in words for people."""

    reason: EndReason
    message: str
    exit_code: int | None = None
    last_lines: str = ""

    @property
    def retry_safe(self) -> bool:
        """Whether the same work may be tried again without harm."""
        return ADVICE[self.reason].retry_safe

    @property
    def failure(self) -> bool:
        """Whether the work is not done."""
        return ADVICE[self.reason].failure

    @property
    def retries(self) -> bool:
        """Whether Berth tries again by itself."""
        return ADVICE[self.reason].retries


OF_INTENT = {
    Intent.STOP: EndReason.STOPPED,
    Intent.SHUTDOWN: EndReason.STOPPED,
    Intent.DEADLINE: EndReason.DEADLINE,
    Intent.TURN_TIMEOUT: EndReason.TURN_TIMEOUT,
    Intent.HUNG: EndReason.HUNG,
    Intent.CLOSE: EndReason.CLOSED,
    Intent.IDLE: EndReason.IDLE,
    Intent.PREEMPT: EndReason.PREEMPTED,
}
# A run that was asked to finish its turn and met one of these did not finish it.
BROKEN = frozenset(
    {
        EndReason.AGENT_ERROR,
        EndReason.OOM,
        EndReason.EVICTED,
        EndReason.NODE_LOST,
        EndReason.VANISHED,
        EndReason.DEADLINE,
    }
)
# How the processes went down, once they were asked to, is no news.
NO_DETAIL = frozenset(OF_INTENT.values()) | {EndReason.COMPLETED}


def end_reason(
    intent: Intent, observed: Observed, report: Report = Report(), fault: RuntimeFault | None = None
) -> EndReason:
    """Why a run is over, by what Berth asked of it, what its runtime sees, what its courier told, and the fault for
    which its start was given up, if there is one.
    """
    if fault and intent is not Intent.STOP:
        return EndReason(fault.cause)
    seen = _seen(observed, report)
    if intent is Intent.NONE:
        return EndReason.AGENT_ERROR if seen is EndReason.COMPLETED and report.ignored else seen
    if intent in GRACEFUL and seen in BROKEN and (report.unanswered or seen is EndReason.OOM):
        return seen
    return OF_INTENT[intent]  # what was asked for decides, whatever the processes did on their way out


def _seen(observed: Observed, report: Report) -> EndReason:
    """Why a run ended, if nobody asked it to."""
    if observed.cause:
        return EndReason(observed.cause)
    if observed.phase in (Phase.PENDING, Phase.RUNNING):
        return EndReason.START_TIMEOUT  # it is ended for no other reason
    code = _exit_code(observed, report)
    return EndReason.VANISHED if code is None else EndReason.AGENT_ERROR if code else EndReason.COMPLETED


def verdict(
    intent: Intent,
    observed: Observed,
    report: Report = Report(),
    fault: RuntimeFault | None = None,
    *,
    by: str = "",
    start_seconds: int = 0,
) -> Verdict:
    """The end reason of a run in words: `by` whom its end was asked for, and what its start's limit was."""
    reason, code = end_reason(intent, observed, report, fault), _exit_code(observed, report)
    if reason is EndReason.AGENT_ERROR and code is None:
        code = -1
    return describe(
        reason,
        detail=_detail(reason, code, observed, report, fault, start_seconds),
        code=code,
        by=by,
        last_lines=observed.last_lines,
    )


def _detail(
    reason: EndReason,
    code: int | None,
    observed: Observed,
    report: Report,
    fault: RuntimeFault | None,
    start_seconds: int,
) -> str:
    """What there is to say beyond the reason; empty if there is nothing."""
    if reason in NO_DETAIL:
        return ""
    if fault:
        return str(fault)
    if reason is EndReason.START_TIMEOUT:
        return observed.message or f"waited {start_seconds} s"
    if reason is EndReason.OOM and report.peak_bytes is not None:
        return f"{observed.message} (peak {report.peak_bytes / 1024**2:.0f}Mi)"
    if reason is EndReason.AGENT_ERROR and code == 0 and report.ignored:
        return "it ended before it took a message"
    if reason is EndReason.AGENT_ERROR and observed.message == f"the agent ended with exit code {code}":
        return ""  # the message says so already
    return observed.message


def _exit_code(observed: Observed, report: Report) -> int | None:
    return report.exit_code if observed.exit_code is None else observed.exit_code


def describe(
    reason: EndReason, *, detail: str = "", code: int | None = None, by: str = "", last_lines: str = ""
) -> Verdict:
    """Put an end reason into words, with what to do about it."""
    advice = ADVICE[reason]
    message = advice.message.format(
        detail=": " + detail.rstrip(".") if detail else "", code=code, by=f" by {by}" if by else ""
    )
    return Verdict(reason, f"{message} {advice.next}", code, last_lines)
