"""The next step for a run: a table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runtimes.base import Cause, Observed, Phase
from sessions.choices import GRACEFUL, Intent, RunState
from sessions.lifecycle.reconcile import Step, Wanted, decide

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JUST = NOW - timedelta(seconds=60)
RUN = Wanted(RunState.WORKING, claimed_at=JUST, called_at=JUST, heard_at=JUST, web_since=NOW - timedelta(days=1))
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
    ("claimed and not there: make it", replace(RUN, state=RunState.CLAIMED), ABSENT, Step.ENSURE),
    ("claimed and half made: make the rest", replace(RUN, state=RunState.CLAIMED), PENDING, Step.ENSURE),
    ("stopped before it was made: over", asked(Intent.STOP, 1, RunState.CLAIMED), ABSENT, Step.END),
    ("stopped while it starts: at once", asked(Intent.STOP, 1), PENDING, Step.FORCE),
    ("closed while it starts: at once", asked(Intent.CLOSE, 1), PENDING, Step.FORCE),
    (
        "closed while at work, told late: nothing",
        replace(asked(Intent.CLOSE, 1), courier_called=True),
        PENDING,
        Step.NOTHING,
    ),
    ("starting: wait", replace(RUN, state=RunState.STARTING), PENDING, Step.NOTHING),
    ("vanished while starting: over", replace(RUN, state=RunState.STARTING), ABSENT, Step.END),
    ("vanished while working: over", RUN, ABSENT, Step.END),
    ("ended by itself: over", RUN, FINISHED, Step.END),
    ("ended while it was asked to: over", asked(Intent.STOP, 1), FINISHED, Step.END),
    (
        "no node yet: wait",
        replace(RUN, state=RunState.STARTING),
        Observed(Phase.PENDING, Cause.UNSCHEDULABLE),
        Step.NOTHING,
    ),
    ("quota used up: wait", replace(RUN, state=RunState.STARTING), Observed(Phase.PENDING, Cause.QUOTA), Step.NOTHING),
    ("no such image: over", replace(RUN, state=RunState.STARTING), Observed(Phase.PENDING, Cause.IMAGE_PULL), Step.END),
    ("refused: over", replace(RUN, state=RunState.STARTING), Observed(Phase.PENDING, Cause.REJECTED), Step.END),
    ("slow start: over", replace(RUN, state=RunState.STARTING, claimed_at=ago(301)), PENDING, Step.END),
    ("agent up, courier silent: wait", replace(RUN, state=RunState.STARTING), RUNNING, Step.NOTHING),
    ("courier never called: over", replace(RUN, state=RunState.STARTING, claimed_at=ago(301)), RUNNING, Step.END),
    ("working: nothing", RUN, RUNNING, Step.NOTHING),
    ("its courier died: revive it", RUN, Observed(Phase.RUNNING, courier_alive=False), Step.REVIVE),
    (
        "its courier is done: wait",
        replace(RUN, exited=True),
        Observed(Phase.RUNNING, courier_alive=False),
        Step.NOTHING,
    ),
    ("waits not too long: nothing", waiting(1700), RUNNING, Step.NOTHING),
    ("waits too long: ask", waiting(1801), RUNNING, Step.REQUEST_END),
    ("waits too long, but a message came: nothing", replace(waiting(1801), has_messages=True), RUNNING, Step.NOTHING),
    ("past its deadline: ask", replace(RUN, claimed_at=ago(14401)), RUNNING, Step.REQUEST_END),
    ("quota used up for long: wait", starting(4000), Observed(Phase.PENDING, Cause.QUOTA), Step.NOTHING),
    ("the cluster was away: counts for nothing", replace(starting(4000), counted_from=ago(20)), PENDING, Step.NOTHING),
    ("a mount that hangs: a new pod mounts at once", starting(11), Observed(Phase.PENDING, Cause.MOUNT), Step.END),
    ("a mount that takes a moment: wait", starting(9), Observed(Phase.PENDING, Cause.MOUNT), Step.NOTHING),
    ("its node is lost: over", RUN, Observed(Phase.RUNNING, Cause.NODE_LOST), Step.END),
    ("silent in its turn, not too long: nothing", silent(1700), RUNNING, Step.NOTHING),
    ("silent in its turn for too long: ask", silent(1801), RUNNING, Step.REQUEST_END),
    ("waits for a follow-up in silence: nothing", silent(1801, state=RunState.WAITING), RUNNING, Step.NOTHING),
    ("silent since nobody listened: nothing", silent(4000, web_since=ago(60)), RUNNING, Step.NOTHING),
    ("nobody listens: nothing", silent(4000, web_since=None), RUNNING, Step.NOTHING),
    (
        "closing, and silent in its turn for too long: ask",
        silent(1801, state=RunState.ENDING),
        RUNNING,
        Step.REQUEST_END,
    ),
    ("its courier calls no more: ask", replace(RUN, called_at=ago(121)), RUNNING, Step.REQUEST_END),
    (
        "its courier calls no more, since it is done: wait",
        replace(RUN, called_at=ago(121), exited=True),
        RUNNING,
        Step.NOTHING,
    ),
    ("hung: its courier hears nothing, so force it", asked(Intent.HUNG, 0), RUNNING, Step.FORCE),
    ("closing: wait for the turn", asked(Intent.CLOSE, 1000), RUNNING, Step.NOTHING),
    ("closing, and its turn is over: wait", closing(Intent.CLOSE, 1000, turn_over=59), RUNNING, Step.NOTHING),
    ("closed in its turn, which is just over: wait", closing(Intent.CLOSE, 59, turn_over=1000), RUNNING, Step.NOTHING),
    *[
        (
            f"{intent}: its turn is over, and it does not end: force it",
            closing(intent, 1000, turn_over=61),
            RUNNING,
            Step.FORCE,
        )
        for intent in sorted(GRACEFUL)
    ],
    *[
        (
            f"{intent}: it never had a turn, and does not end: force it",
            replace(asked(intent, 61), handed=False),
            RUNNING,
            Step.FORCE,
        )
        for intent in sorted(GRACEFUL)
    ],
    (
        "closing, ended, and its courier ships: wait",
        replace(closing(Intent.CLOSE, 1000, turn_over=61), exited=True),
        RUNNING,
        Step.NOTHING,
    ),
    (
        "closing, its turn over, past its deadline: still force it",
        replace(closing(Intent.CLOSE, 1000, turn_over=61), claimed_at=ago(14401)),
        RUNNING,
        Step.FORCE,
    ),
    ("told to stop: wait for its grace", asked(Intent.STOP, 5), RUNNING, Step.NOTHING),
    ("would not stop: force it", asked(Intent.STOP, 25), RUNNING, Step.FORCE),
    ("deadline passed and would not end: force it", asked(Intent.DEADLINE, 25), RUNNING, Step.FORCE),
]


@pytest.mark.parametrize(("wanted", "observed", "step"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_next_step(wanted: Wanted, observed: Observed, step: Step) -> None:
    assert decide(wanted, observed, NOW).step is step


def test_silence_has_two_names() -> None:
    assert decide(silent(1801), RUNNING, NOW).intent is Intent.TURN_TIMEOUT
    assert decide(replace(RUN, called_at=ago(121)), RUNNING, NOW).intent is Intent.HUNG
