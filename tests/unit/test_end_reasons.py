"""End reasons, of what Berth asked for, the runtime sees and the courier told, and of a fault; and their words."""

import pytest

from runtimes.base import Cause, Observed, PermanentFault, Phase, RuntimeFault, TransientFault
from sessions.choices import EndReason, Intent
from sessions.lifecycle.end_reasons import ADVICE, Report, describe, end_reason, verdict


def over(cause: Cause | None = None, code: int | None = None, words: str = "") -> Observed:
    return Observed(Phase.FINISHED, cause, words, code)


MIDWAY, IGNORED = Report(unanswered=True), Report(ignored=True)
ABSENT = Observed(Phase.ABSENT)
REFUSED = PermanentFault(Cause.REJECTED, "not allowed")
AWAY = TransientFault(Cause.UNREACHABLE, "no route")

TABLE = [
    # what Berth asked for, what the runtime sees, what the courier told, the fault, end reason
    ("exit 0", Intent.NONE, over(code=0), Report(), None, EndReason.COMPLETED),
    ("exit 3", Intent.NONE, over(code=3), Report(), None, EndReason.AGENT_ERROR),
    ("exit 3, by the courier", Intent.NONE, over(), Report(exit_code=3), None, EndReason.AGENT_ERROR),
    ("exit 0 before it took a message", Intent.NONE, over(code=0), IGNORED, None, EndReason.AGENT_ERROR),
    ("closed before it took a message", Intent.CLOSE, over(code=0), IGNORED, None, EndReason.CLOSED),
    ("out of memory", Intent.NONE, over(Cause.OOM, 137, "limit 64 MiB"), Report(), None, EndReason.OOM),
    ("out of memory on its way out", Intent.IDLE, over(Cause.OOM, 137), Report(), None, EndReason.OOM),
    ("the cluster's deadline", Intent.NONE, over(Cause.DEADLINE, 143), Report(), None, EndReason.DEADLINE),
    ("ours", Intent.DEADLINE, over(code=143), Report(), None, EndReason.DEADLINE),
    ("stopped", Intent.STOP, over(code=143), Report(), None, EndReason.STOPPED),
    ("stopped from outside", Intent.NONE, over(Cause.STOPPED), Report(), None, EndReason.STOPPED),
    ("stopped, whatever the processes did", Intent.STOP, over(Cause.OOM, 137), Report(), None, EndReason.STOPPED),
    ("shut down in the middle of a turn", Intent.SHUTDOWN, over(code=143), MIDWAY, None, EndReason.STOPPED),
    ("closed", Intent.CLOSE, over(code=0), Report(), None, EndReason.CLOSED),
    ("closed, ended badly", Intent.CLOSE, over(Cause.AGENT_ERROR, 1), Report(), None, EndReason.CLOSED),
    ("closed, ended badly in a turn", Intent.CLOSE, over(Cause.AGENT_ERROR, 1), MIDWAY, None, EndReason.AGENT_ERROR),
    ("closed idle", Intent.IDLE, over(code=0), Report(), None, EndReason.IDLE),
    ("closed idle, evicted in a turn", Intent.IDLE, over(Cause.EVICTED, 137), MIDWAY, None, EndReason.EVICTED),
    ("gave way", Intent.PREEMPT, over(code=0), Report(), None, EndReason.PREEMPTED),
    ("gave way before it started", Intent.PREEMPT, ABSENT, Report(), None, EndReason.PREEMPTED),
    ("worked too long in silence", Intent.TURN_TIMEOUT, over(code=143), MIDWAY, None, EndReason.TURN_TIMEOUT),
    ("its courier fell silent", Intent.HUNG, over(code=137), Report(), None, EndReason.HUNG),
    ("never there, or gone", Intent.NONE, ABSENT, Report(), None, EndReason.VANISHED),
    ("evicted", Intent.NONE, over(Cause.EVICTED, 137), Report(), None, EndReason.EVICTED),
    ("up too late", Intent.NONE, Observed(Phase.PENDING), Report(), None, EndReason.START_TIMEOUT),
    ("its courier never called", Intent.NONE, Observed(Phase.RUNNING), Report(), None, EndReason.START_TIMEOUT),
    ("what held it up", Intent.NONE, Observed(Phase.PENDING, Cause.MOUNT), Report(), None, EndReason.MOUNT),
    ("its node is lost", Intent.NONE, Observed(Phase.RUNNING, Cause.NODE_LOST), Report(), None, EndReason.NODE_LOST),
    ("refused", Intent.NONE, ABSENT, Report(), REFUSED, EndReason.REJECTED),
    ("refused while it was asked to give way", Intent.PREEMPT, ABSENT, Report(), REFUSED, EndReason.REJECTED),
    ("refused while it was stopped", Intent.STOP, ABSENT, Report(), REFUSED, EndReason.STOPPED),
    ("the runtime is away", Intent.NONE, ABSENT, Report(), AWAY, EndReason.UNREACHABLE),
]


@pytest.mark.parametrize(
    ("intent", "observed", "report", "fault", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_end_reason(
    intent: Intent, observed: Observed, report: Report, fault: RuntimeFault | None, reason: EndReason
) -> None:
    assert end_reason(intent, observed, report, fault) is reason


def test_whatever_a_runtime_sees_is_an_end_reason() -> None:
    assert {EndReason(cause) for cause in Cause} < set(EndReason)


def test_a_start_that_times_out_says_what_it_waited_for() -> None:
    quiet = verdict(Intent.NONE, Observed(Phase.RUNNING), start_seconds=300)
    assert quiet.message.startswith("It did not start in time: waited 300 s.")
    held_up = Observed(Phase.PENDING, Cause.UNSCHEDULABLE, "0/3 nodes are available")
    assert verdict(Intent.NONE, held_up).message.startswith("No node can take it: 0/3 nodes are available.")


def test_every_reason_has_words_and_advice() -> None:
    assert set(ADVICE) == set(EndReason)
    for reason in EndReason:
        words = describe(reason, detail="because", code=1, by="ada").message
        assert "{" not in words and words.endswith(".")


def test_words_name_the_exit_code_the_person_and_the_detail() -> None:
    assert verdict(Intent.NONE, over(code=3)).message.startswith("The agent ended with exit code 3.")
    assert verdict(Intent.STOP, over(), by="ada").message.startswith("Stopped by ada.")
    pulled = describe(EndReason.IMAGE_PULL, detail="not found").message
    assert pulled.startswith("The image can't be pulled: not found.")


def test_the_couriers_report_counts_when_the_runtime_has_no_code() -> None:
    assert verdict(Intent.NONE, over(), Report(exit_code=7)).exit_code == 7


def test_out_of_memory_tells_the_limit_and_the_peak() -> None:
    observed = over(Cause.OOM, 137, "it used more memory than its limit of 256Mi")
    words = verdict(Intent.NONE, observed, Report(peak_bytes=255 * 1024**2)).message
    assert words.startswith("The agent ran out of memory: it used more memory than its limit of 256Mi (peak 255Mi).")


def test_only_failures_are_tried_again() -> None:
    assert all(advice.failure for advice in ADVICE.values() if advice.retries)
