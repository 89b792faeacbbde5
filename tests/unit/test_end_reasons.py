"""Verdicts: what the runtime saw and what Berth asked for, into a cause and words."""

import pytest

from runtimes.base import Cause, Observed, Phase
from sessions.choices import Intent
from sessions.lifecycle.end_reasons import ADVICE, Report, judge, say


def over(cause: Cause | None = None, code: int | None = None, words: str = "") -> Observed:
    return Observed(Phase.FINISHED, cause, words, code)


TABLE = [
    ("exit 0", over(code=0), Intent.NONE, Cause.COMPLETED),
    ("exit 3", over(code=3), Intent.NONE, Cause.AGENT_ERROR),
    ("out of memory", over(Cause.OOM, 137, "limit 64 MiB"), Intent.NONE, Cause.OOM),
    ("out of memory on its way out", over(Cause.OOM, 137), Intent.IDLE, Cause.OOM),
    ("killed by the cluster's deadline", over(Cause.DEADLINE, 143), Intent.NONE, Cause.DEADLINE),
    ("killed by ours", over(code=143), Intent.DEADLINE, Cause.DEADLINE),
    ("stopped", over(code=143), Intent.STOP, Cause.STOPPED),
    ("stopped, whatever the processes did", over(Cause.OOM, 137), Intent.STOP, Cause.STOPPED),
    ("closed", over(code=0), Intent.CLOSE, Cause.CLOSED),
    ("closed, and ended badly with nothing open", over(Cause.AGENT_ERROR, 1), Intent.CLOSE, Cause.CLOSED),
    ("closed idle", over(code=0), Intent.IDLE, Cause.IDLE),
    ("gave way", over(code=0), Intent.PREEMPT, Cause.PREEMPTED),
    ("worked too long in silence", over(code=143), Intent.TURN_TIMEOUT, Cause.TURN_TIMEOUT),
    ("its courier fell silent", over(code=137), Intent.HUNG, Cause.HUNG),
    ("never there, or gone", Observed(Phase.ABSENT), Intent.NONE, Cause.VANISHED),
    ("evicted", over(Cause.EVICTED, 137), Intent.NONE, Cause.EVICTED),
]


@pytest.mark.parametrize(("observed", "intent", "cause"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_cause(observed: Observed, intent: Intent, cause: Cause) -> None:
    assert judge(observed, intent).cause is cause


def test_every_cause_has_words_and_advice() -> None:
    assert set(ADVICE) == set(Cause)
    for cause in Cause:
        words = say(cause, detail="because", code=1, by="ada").words
        assert "{" not in words and words.endswith(".")


def test_words_name_the_exit_code_the_person_and_the_detail() -> None:
    assert judge(over(code=3), Intent.NONE).words.startswith("The agent ended with exit code 3.")
    assert judge(over(), Intent.STOP, by="ada").words.startswith("Stopped by ada.")
    pulled = say(Cause.IMAGE_PULL, detail="not found").words
    assert pulled.startswith("The image can't be pulled: not found.")


def test_the_couriers_report_counts_when_the_runtime_has_no_code() -> None:
    assert judge(over(), Intent.NONE, Report(exit_code=7)).exit_code == 7


def test_a_close_that_left_a_message_unanswered_is_no_close() -> None:
    assert judge(over(Cause.AGENT_ERROR, 1), Intent.CLOSE, Report(unanswered=True)).cause is Cause.AGENT_ERROR
    assert judge(over(Cause.EVICTED, 137), Intent.IDLE, Report(unanswered=True)).cause is Cause.EVICTED


def test_out_of_memory_tells_the_limit_and_the_peak() -> None:
    observed = over(Cause.OOM, 137, "it used more memory than its limit of 256Mi")
    words = judge(observed, Intent.NONE, Report(peak_bytes=255 * 1024**2)).words
    assert words.startswith("The agent ran out of memory: it used more memory than its limit of 256Mi (peak 255Mi).")


def test_only_failures_are_tried_again() -> None:
    assert all(advice.failure for advice in ADVICE.values() if advice.retries)
