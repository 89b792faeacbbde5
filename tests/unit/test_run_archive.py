"""What is kept of a run when its traces are removed from the runtime."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from runtimes.base import Cause, Description, Notice, Observed, RunRef, RunSpec, TransientFault
from sessions.lifecycle import run_archive
from sessions.models import AgentSession, Run, RunRecord

pytestmark = pytest.mark.django_db
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Told:
    """A runtime that tells what it was given, or fails with it."""

    def __init__(self, answer: Description | Exception) -> None:
        self.answer = answer

    def describe(self, ref: RunRef) -> Description:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def ensure(self, spec: RunSpec) -> None: ...

    def observe(self, ref: RunRef) -> Observed:
        raise NotImplementedError

    def ping(self) -> None: ...

    def stop(self, ref: RunRef) -> None: ...

    def destroy(self, ref: RunRef) -> None: ...

    def runs(self) -> Iterator[RunRef]:
        return iter(())

    def watch(self, until: threading.Event) -> Iterator[RunRef | None]:
        return iter(())


def keep(run: Run, answer: Description | Exception) -> None:
    run_archive.archive(run, Told(answer))  # type: ignore[arg-type]


@pytest.fixture
def run(session: AgentSession) -> Run:
    return Run.objects.create(session=session, number=1, runtime="kubernetes")


FULL = Description(
    steps={"scheduled": AT},
    notices=(Notice(AT, "Scheduled", "to node-1", 2),),
    manifest={"kind": "Job"},
)


def test_what_the_runtime_knows_is_kept(run: Run) -> None:
    keep(run, FULL)

    record = RunRecord.objects.get(run=run)
    assert run_archive.steps_of(record.steps) == {"scheduled": AT}
    assert record.notices == [{"at": AT.isoformat(), "reason": "Scheduled", "text": "to node-1", "count": 2}]
    assert record.manifest == {"kind": "Job"}


def test_keeping_again_keeps_what_the_runtime_has_forgotten(run: Run) -> None:
    keep(run, FULL)
    keep(run, Description(notices=(Notice(AT, "Killing", "agent"),)))
    keep(run, Description())

    record = RunRecord.objects.get(run=run)
    assert record.manifest == {"kind": "Job"}
    assert [notice["reason"] for notice in record.notices] == ["Killing"]


def test_of_a_run_that_left_nothing_there_is_no_record(run: Run) -> None:
    keep(run, Description())

    assert not RunRecord.objects.exists()


def test_a_runtime_that_is_away_is_no_fault_of_the_run(run: Run) -> None:
    keep(run, TransientFault(Cause.UNREACHABLE, "away"))

    assert not RunRecord.objects.exists()


def test_a_run_that_was_removed_meanwhile_is_passed_over(run: Run) -> None:
    gone = Run.objects.get(pk=run.pk)
    run.delete()
    keep(gone, FULL)


def test_sizes_are_bounded(run: Run) -> None:
    many = tuple(Notice(AT, "Again", f"{number} " + "x" * 5000) for number in range(300))
    keep(run, Description(notices=many, manifest={"script": "x" * 300 * 1024}))

    record = RunRecord.objects.get(run=run)
    assert len(record.notices) == run_archive.NOTICES
    assert record.notices[-1]["text"].startswith("299 ")
    assert all(len(notice["text"]) <= run_archive.NOTICE_LENGTH for notice in record.notices)
    assert list(record.manifest) == ["left out"]


def test_characters_that_a_database_refuses_are_replaced(run: Run) -> None:
    keep(run, Description(notices=(Notice(None, "Odd", "a\0b"),), manifest={"args": ["a\0b"]}))

    record: Any = RunRecord.objects.get(run=run)
    assert "\0" not in json.dumps([record.notices, record.manifest], ensure_ascii=False)
    assert record.notices[0]["at"] is None
