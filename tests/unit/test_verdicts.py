"""Verdicts: what the runtime saw and what Berth asked for, into a cause and words."""

import pytest

from k8s_adapter.runtime import Cause, Observed, Phase
from sessions.states import Intent
from sessions.verdicts import ADVICE, judge, say


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
    ("closed idle", over(code=0), Intent.IDLE, Cause.IDLE),
    ("gave way", over(code=0), Intent.PREEMPT, Cause.IDLE),
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
    assert judge(over(), Intent.NONE, reported_exit=7).exit_code == 7
