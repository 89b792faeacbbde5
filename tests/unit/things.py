"""What the tests of clean-up start from. The runtime is the local one, with folders but no processes."""

import io
import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from groups.models import AgentGroup
from runtimes.base import RunRef, RunSpec
from runtimes.local.paths import DataFolder
from runtimes.local.runtime import LocalRuntime
from sessions.choices import EventKind, RunState
from sessions.events import event_log
from sessions.events.event_log import NewEvent
from sessions.lifecycle import runtime_factory, transitions
from sessions.models import AgentSession, Run

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def runtime(settings: Any) -> Any:
    """The local runtime of this test."""
    runtime_factory.get.cache_clear()
    settings.DATA_DIR = settings.DATA_DIR.resolve()
    yield runtime_factory.get("local")
    runtime_factory.get.cache_clear()


def stranger(slug: str = "strangers") -> RunRef:
    """A run that no row knows."""
    return RunRef(str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()), slug)


def make(runtime: LocalRuntime, ref: RunRef) -> Path:
    """Make the folders of a run and its group, as a start does; return the run's."""
    spec = RunSpec(ref, 1, "", ("true",), "jsonl", "http://nowhere", "token")
    folders: DataFolder = runtime._data
    folders.make_group(ref, "")
    folder = folders.run(ref.run)
    folder.make(spec, {})
    return folder.path


def run_of(session: AgentSession, ended: timedelta | None = None, removed: timedelta | None = None) -> Run:
    """A run of a session: active, or ended so long ago; said to be removed so long ago."""
    transitions.enqueue(session)
    found = transitions.claim(session.pk, "local")
    assert found
    now = timezone.now()
    Run.objects.filter(pk=found.pk).update(claimed_at=now - HOUR - (ended or timedelta()))
    if ended is not None:
        gone = now - removed if removed is not None else None
        Run.objects.filter(pk=found.pk).update(
            state=RunState.ENDED, ended_at=now - ended, removed_at=gone, verdict="completed"
        )
    found.refresh_from_db()
    return found


def say(session: AgentSession, count: int, ago: timedelta, run: Run | None = None) -> int:
    """Let a session have so many more events of that age; return the last number."""
    at = timezone.now() - ago
    found = [NewEvent(EventKind.STDOUT, f"line {number}", at=at) for number in range(count)]
    return event_log.append(event_log.lock_session(session.pk), found, run)


def gc(*words: str) -> tuple[int, str]:
    """Run `manage.py gc`; return its exit status and what it printed."""
    out = io.StringIO()
    try:
        call_command("gc", *words, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


def gc_json(*words: str) -> dict[str, Any]:
    """What `manage.py gc --json` told."""
    told: dict[str, Any] = json.loads(gc("--json", *words)[1])
    return told


def deleted(group: AgentGroup, ago: timedelta) -> None:
    """Let a group have been deleted so long ago."""
    AgentGroup.objects.filter(pk=group.pk).update(deleted_at=timezone.now() - ago)
