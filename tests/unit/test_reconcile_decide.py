"""The next step for a run: a table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runtimes.base import Cause, Observed, Phase
from sessions.choices import GRACEFUL, Intent, RunState
from sessions.lifecycle.reconcile import Do, Wanted, decide

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JUST = NOW - timedelta(seconds=60)
RUN = Wanted(RunState.WORKING, claimed_at=JUST, called_at=JUST, heard_at=JUST, door_since=NOW - timedelta(days=1))
ABSENT, PENDING = Observed(Phase.ABSENT), Observed(Phase.PENDING)
RUNNING, FINISHED = Observed(Phase.RUNNING), Observed(Phase.FINISHED)


def ago(seconds: int) -> datetime:
    return NOW - timedelta(seconds=seconds)


def waiting(seconds: int) -> Wanted:
    return replace(RUN, state=RunState.WAITING, waiting_since=ago(seconds), claimed_at=ago(seconds + 1))


def silent(seconds: int, **fields: Any) -> Wanted:
    """Its courier calls, and has had nothing to tell for so long."""
    return replace(RUN, called_at=ago(5), heard_at=ago(seconds), claimed_at=ago(seconds + 1), **fields)


def asked(intent: Intent, seconds: int, state: RunState = RunState.ENDING) -> Wanted:
    return replace(RUN, state=state, intent=intent, intent_at=ago(seconds))


def closing(intent: Intent, seconds: int, turn_over: int) -> Wanted:
    return replace(asked(intent, seconds), waiting_since=ago(turn_over))


def starting(seconds: int) -> Wanted:
    return replace(RUN, state=RunState.STARTING, claimed_at=ago(seconds), called_at=None, heard_at=None)


TABLE = [
    ("claimed and not there: make it", replace(RUN, state=RunState.CLAIMED), ABSENT, Do.ENSURE),
    ("claimed and half made: make the rest", replace(RUN, state=RunState.CLAIMED), PENDING, Do.ENSURE),
    ("stopped before it was made: over", asked(Intent.STOP, 1, RunState.CLAIMED), ABSENT, Do.END),
    ("stopped while it starts: at once", asked(Intent.STOP, 1), PENDING, Do.FORCE),
    ("closed while it starts: at once", asked(Intent.CLOSE, 1), PENDING, Do.FORCE),
    ("closed while at work, told late: nothing", replace(asked(Intent.CLOSE, 1), called=True), PENDING, Do.NOTHING),
    ("starting: wait", replace(RUN, state=RunState.STARTING), PENDING, Do.NOTHING),
    ("vanished while starting: over", replace(RUN, state=RunState.STARTING), ABSENT, Do.END),
    ("vanished while working: over", RUN, ABSENT, Do.END),
    ("ended by itself: over", RUN, FINISHED, Do.END),
    ("ended while it was asked to: over", asked(Intent.STOP, 1), FINISHED, Do.END),
    (
        "no node yet: wait",
        replace(RUN, state=RunState.STARTING),
        Observed(Phase.PENDING, Cause.UNSCHEDULABLE),
        Do.NOTHING,
    ),
    ("quota used up: wait", replace(RUN, state=RunState.STARTING), Observed(Phase.PENDING, Cause.QUOTA), Do.NOTHING),
    ("no such image: over", replace(RUN, state=RunState.STARTING), Observed(Phase.PENDING, Cause.IMAGE_PULL), Do.END),
    ("refused: over", replace(RUN, state=RunState.STARTING), Observed(Phase.PENDING, Cause.REJECTED), Do.END),
    ("slow start: over", replace(RUN, state=RunState.STARTING, claimed_at=ago(301)), PENDING, Do.END),
    ("agent up, courier silent: wait", replace(RUN, state=RunState.STARTING), RUNNING, Do.NOTHING),
    ("courier never called: over", replace(RUN, state=RunState.STARTING, claimed_at=ago(301)), RUNNING, Do.END),
    ("working: nothing", RUN, RUNNING, Do.NOTHING),
    ("its courier died: revive it", RUN, Observed(Phase.RUNNING, courier_alive=False), Do.REVIVE),
    ("its courier is done: wait", replace(RUN, exited=True), Observed(Phase.RUNNING, courier_alive=False), Do.NOTHING),
    ("waits not too long: nothing", waiting(1700), RUNNING, Do.NOTHING),
    ("waits too long: ask", waiting(1801), RUNNING, Do.ASK),
    ("waits too long, but a message came: nothing", replace(waiting(1801), has_messages=True), RUNNING, Do.NOTHING),
    ("past its deadline: ask", replace(RUN, claimed_at=ago(14401)), RUNNING, Do.ASK),
    ("quota used up for long: wait", starting(4000), Observed(Phase.PENDING, Cause.QUOTA), Do.NOTHING),
    ("the cluster was away: counts for nothing", replace(starting(4000), counted_from=ago(20)), PENDING, Do.NOTHING),
    ("a mount that hangs: a new pod mounts at once", starting(11), Observed(Phase.PENDING, Cause.MOUNT), Do.END),
    ("a mount that takes a moment: wait", starting(9), Observed(Phase.PENDING, Cause.MOUNT), Do.NOTHING),
    ("its node is lost: over", RUN, Observed(Phase.RUNNING, Cause.NODE_LOST), Do.END),
    ("silent in its turn, not too long: nothing", silent(1700), RUNNING, Do.NOTHING),
    ("silent in its turn for too long: ask", silent(1801), RUNNING, Do.ASK),
    ("waits for a follow-up in silence: nothing", silent(1801, state=RunState.WAITING), RUNNING, Do.NOTHING),
    ("silent since nobody listened: nothing", silent(4000, door_since=ago(60)), RUNNING, Do.NOTHING),
    ("nobody listens: nothing", silent(4000, door_since=None), RUNNING, Do.NOTHING),
    ("closing, and silent in its turn for too long: ask", silent(1801, state=RunState.ENDING), RUNNING, Do.ASK),
    ("its courier calls no more: ask", replace(RUN, called_at=ago(121)), RUNNING, Do.ASK),
    (
        "its courier calls no more, since it is done: wait",
        replace(RUN, called_at=ago(121), exited=True),
        RUNNING,
        Do.NOTHING,
    ),
    ("hung: its courier hears nothing, so force it", asked(Intent.HUNG, 0), RUNNING, Do.FORCE),
    ("closing: wait for the turn", asked(Intent.CLOSE, 1000), RUNNING, Do.NOTHING),
    ("closing, and its turn is over: wait", closing(Intent.CLOSE, 1000, turn_over=59), RUNNING, Do.NOTHING),
    ("closed in its turn, which is just over: wait", closing(Intent.CLOSE, 59, turn_over=1000), RUNNING, Do.NOTHING),
    *[
        (
            f"{intent}: its turn is over, and it does not end: force it",
            closing(intent, 1000, turn_over=61),
            RUNNING,
            Do.FORCE,
        )
        for intent in sorted(GRACEFUL)
    ],
    *[
        (
            f"{intent}: it never had a turn, and does not end: force it",
            replace(asked(intent, 61), handed=False),
            RUNNING,
            Do.FORCE,
        )
        for intent in sorted(GRACEFUL)
    ],
    (
        "closing, ended, and its courier ships: wait",
        replace(closing(Intent.CLOSE, 1000, turn_over=61), exited=True),
        RUNNING,
        Do.NOTHING,
    ),
    (
        "closing, its turn over, past its deadline: still force it",
        replace(closing(Intent.CLOSE, 1000, turn_over=61), claimed_at=ago(14401)),
        RUNNING,
        Do.FORCE,
    ),
    ("told to stop: wait for its grace", asked(Intent.STOP, 5), RUNNING, Do.NOTHING),
    ("would not stop: force it", asked(Intent.STOP, 25), RUNNING, Do.FORCE),
    ("deadline passed and would not end: force it", asked(Intent.DEADLINE, 25), RUNNING, Do.FORCE),
]


@pytest.mark.parametrize(("wanted", "observed", "step"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_next_step(wanted: Wanted, observed: Observed, step: Do) -> None:
    assert decide(wanted, observed, NOW).do is step


def test_silence_has_two_names() -> None:
    assert decide(silent(1801), RUNNING, NOW).intent is Intent.TURN_TIMEOUT
    assert decide(replace(RUN, called_at=ago(121)), RUNNING, NOW).intent is Intent.HUNG
