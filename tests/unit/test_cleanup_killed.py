"""A clean-up that is killed before or after any of its effects is finished by the next one, to the same end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.transaction import Atomic
from django.utils import timezone

from groups.models import AgentGroup, AgentProfile, AuditEntry
from runtimes.local.runtime import LocalRuntime
from sessions.choices import MessageState, RunState
from sessions.cleanup import deleted_groups, retention
from sessions.lifecycle import intake
from sessions.models import AgentSession, Event, Message, Run
from tests.unit.things import DAY, deleted, make, run_of, say, stranger
from tests.unit.things import runtime as runtime


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


class Back(Exception):
    """Takes a transaction back."""


@contextmanager
def killed_at(effect: int) -> Iterator[list[str]]:
    """Let the process end at its `effect`th effect, from 0. Yields the effects that were begun.

    That is before or after a transaction commits, or before or after something is removed from the runtime.
    """
    begun: list[str] = []
    leave, remove = Atomic.__exit__, LocalRuntime.remove

    def strike(what: str) -> None:
        begun.append(what)
        if len(begun) == effect + 1:
            raise Killed

    def commit(self: Atomic, kind: Any, error: Any, resource: Any) -> None:
        outermost = len(connection.savepoint_ids) <= depth + 1
        if kind is None and outermost:
            try:
                strike("before a commit")
            except Killed as killed:
                leave(self, Killed, killed, killed.__traceback__)
                raise
        leave(self, kind, error, resource)
        if kind is None and outermost:
            strike("after a commit")

    def removal(self: LocalRuntime, resource: Any) -> None:
        strike("before a removal")
        remove(self, resource)
        strike("after a removal")

    depth = len(connection.savepoint_ids)
    with mock.patch.object(Atomic, "__exit__", commit), mock.patch.object(LocalRuntime, "remove", removal):
        yield begun


def furnish(group: AgentGroup, profile: AgentProfile, runtime: LocalRuntime) -> None:
    """Something for each stage: an orphan, a run without its process, old rows, a deleted group."""
    make(runtime, stranger())
    past = timezone.now() - 200 * DAY
    going = AgentGroup.objects.create(slug="going", name="Going")
    for place in (group, going):
        session = intake.open_session(group=place, profile=profile, text="Old", sender=None)
        AgentSession.objects.filter(pk=session.pk).update(created_at=past)
        Message.objects.filter(session=session).update(state=MessageState.ANSWERED, created_at=past, answered_at=past)
        run = run_of(session, ended=150 * DAY, removed=150 * DAY)
        make(runtime, run.ref)
        run_of(session, ended=20 * DAY, removed=20 * DAY)
        Event.objects.filter(session=session).update(at=past)
        session.refresh_from_db()
        say(session, 7, 100 * DAY, run)
        say(session, 2, DAY)
    lost = intake.open_session(group=group, profile=profile, text="Lost", sender=None)
    run_of(lost)
    Run.objects.filter(session=lost).update(state=RunState.WORKING, made_at=past)
    deleted(going, 30 * DAY)


def outcome(runtime: LocalRuntime) -> dict[str, Any]:
    """All that there is in the end."""
    return {
        "resources": [
            resource.name.rpartition("/")[2] for resource in (*runtime.run_resources(), *runtime.group_resources())
        ],
        "groups": list(AgentGroup.objects.values_list("slug", flat=True)),
        "sessions": list(
            AgentSession.objects.order_by("title").values_list("title", "state", "pruned_seq", "last_seq")
        ),
        "runs": list(Run.objects.order_by("session__title", "number").values_list("number", "state", "verdict")),
        "messages": list(Message.objects.order_by("text").values_list("text", "state")),
        "events": list(Event.objects.order_by("session__title", "seq").values_list("seq", "kind")),
        "audit": list(AuditEntry.objects.order_by("pk").values_list("action", flat=True)),
    }


def clean_up() -> None:
    call_command("gc", stdout=mock.MagicMock())


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch, group: AgentGroup) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    monkeypatch.setattr(deleted_groups, "BATCH", 4)


def undisturbed(group: AgentGroup, profile: AgentProfile, runtime: LocalRuntime) -> tuple[int, dict[str, Any]]:
    """How many effects a whole clean-up has, and what there is after it."""
    furnish(group, profile, runtime)
    with killed_at(10_000) as begun:
        clean_up()
    return len(begun), outcome(runtime)


def test_a_kill_at_any_effect_does_no_harm(group: AgentGroup, profile: AgentProfile, runtime: LocalRuntime) -> None:
    results: list[Any] = []

    def attempt(effect: int | None) -> None:
        """One life, from the same beginning; the database forgets it again."""
        try:
            with transaction.atomic():
                if effect is None:
                    results.append(undisturbed(group, profile, runtime))
                else:
                    furnish(group, profile, runtime)
                    with killed_at(effect), pytest.raises(Killed):
                        clean_up()
                    clean_up()
                    results.append(outcome(runtime))
                raise Back
        except Back:
            empty(runtime)

    attempt(None)
    count, expected = results.pop()
    assert count > 30
    assert expected["groups"] == ["harbour"] and expected["resources"] == ["harbour"]
    for effect in range(count):
        attempt(effect)
        assert results.pop() == expected, f"killed at effect {effect} of {count}"


def empty(runtime: LocalRuntime) -> None:
    """Remove all that a life left on disk."""
    for resource in (*runtime.run_resources(), *runtime.group_resources()):
        runtime.remove(resource)
