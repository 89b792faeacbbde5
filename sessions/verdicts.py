"""Why a run ended, in words, and whether trying again is safe: one table, one pure function."""

from dataclasses import dataclass

from k8s_adapter.runtime import Cause, Observed
from sessions.states import Intent


@dataclass(frozen=True, slots=True)
class Advice:
    """What a verdict means to people. `words` may hold {detail}, {code}, {by}."""

    words: str
    next: str
    retry_safe: bool
    failure: bool  # the session is shown as failed, and its queued messages wait for a person


ADVICE = {
    Cause.COMPLETED: Advice("The agent finished.", "A new message starts the next run.", True, False),
    Cause.IDLE: Advice("Closed{by}{detail}.", "A new message resumes the conversation.", True, False),
    Cause.STOPPED: Advice("Stopped{by}{detail}.", "A new message resumes the conversation.", True, False),
    Cause.DEADLINE: Advice(
        "Ended at its time limit{detail}.",
        "A new message resumes it; raise the profile's deadline for long work.",
        False,
        True,
    ),
    Cause.AGENT_ERROR: Advice(
        "The agent ended with exit code {code}{detail}.", "Read its last lines; a new message tries again.", False, True
    ),
    Cause.OOM: Advice(
        "The agent ran out of memory{detail}.", "Raise the profile's memory or give it less to do.", False, True
    ),
    Cause.IMAGE_PULL: Advice(
        "The image can't be pulled{detail}.",
        "Correct the profile's image or the cluster's access to its registry.",
        True,
        True,
    ),
    Cause.UNSCHEDULABLE: Advice(
        "No node can take it{detail}.", "Ask for less in the profile, or add capacity to the cluster.", True, True
    ),
    Cause.REJECTED: Advice("The start was refused{detail}.", "Correct what it names in the profile.", True, True),
    Cause.QUOTA: Advice("The group's quota is used up{detail}.", "It starts when something ends.", True, True),
    Cause.MOUNT: Advice("A volume or secret can't be mounted{detail}.", "Correct what it names.", True, True),
    Cause.EVICTED: Advice("The cluster evicted it{detail}.", "A new message tries again.", True, True),
    Cause.NODE_LOST: Advice("Its node was lost{detail}.", "A new message tries again.", True, True),
    Cause.START_TIMEOUT: Advice("It did not start in time{detail}.", "A new message tries again.", True, True),
    Cause.VANISHED: Advice("It was removed from outside{detail}.", "A new message tries again.", True, True),
    Cause.UNREACHABLE: Advice("The runtime can't be reached{detail}.", "A new message tries again.", True, True),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a run ended."""

    cause: Cause
    words: str
    exit_code: int | None = None
    last_lines: str = ""

    @property
    def retry_safe(self) -> bool:
        """Whether the same work may be tried again without asking anybody."""
        return ADVICE[self.cause].retry_safe

    @property
    def failure(self) -> bool:
        """Whether the session is shown as failed."""
        return ADVICE[self.cause].failure


# What Berth asked for decides, whatever the processes did on their way out.
OF_INTENT = {
    Intent.STOP: Cause.STOPPED,
    Intent.SHUTDOWN: Cause.STOPPED,
    Intent.DEADLINE: Cause.DEADLINE,
    Intent.START_TIMEOUT: Cause.START_TIMEOUT,
    Intent.CLOSE: Cause.IDLE,
    Intent.IDLE: Cause.IDLE,
    Intent.PREEMPT: Cause.IDLE,
}
INTENT_WORDS = {
    Intent.IDLE: "after waiting long enough for a follow-up",
    Intent.PREEMPT: "while idle, to make room for others",
    Intent.CLOSE: "as asked",
}


def judge(observed: Observed, intent: Intent, reported_exit: int | None = None, by: str = "") -> Verdict:
    """The verdict on a run that is over: of what the runtime sees, what Berth asked for, the courier's last report."""
    code = observed.exit_code if observed.exit_code is not None else reported_exit
    cause = OF_INTENT.get(intent)
    # How the processes went down, once they were asked to, is no news.
    detail = "" if cause in (Cause.STOPPED, Cause.DEADLINE) else observed.words
    if cause is Cause.START_TIMEOUT and observed.cause:
        cause = observed.cause  # what held it up tells more than that it took long
    elif cause is None or (cause is Cause.IDLE and observed.cause is Cause.OOM):
        cause = observed.cause or (Cause.COMPLETED if code == 0 else Cause.AGENT_ERROR if code else Cause.VANISHED)
    if cause is Cause.AGENT_ERROR and code is None:
        code = -1
    if cause is Cause.IDLE:
        detail = INTENT_WORDS.get(intent, "")
    return say(cause, detail=detail, code=code, by=by, last_lines=observed.last_lines)


def say(cause: Cause, *, detail: str = "", code: int | None = None, by: str = "", last_lines: str = "") -> Verdict:
    """Put a cause into words, with what to do about it."""
    advice = ADVICE[cause]
    glue = " " if cause is Cause.IDLE else ": "
    words = advice.words.format(
        detail=glue + detail.rstrip(".") if detail else "", code=code, by=f" by {by}" if by else ""
    )
    return Verdict(cause, f"{words} {advice.next}", code, last_lines)
