"""How long each step of a run's start took: one pure function, for the bars of the run's page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

SCALE = 1000  # of a bar's place and width

# In the order of a start. What a run's own row tells, and what its runtime tells (see `Description.steps`).
STEPS = {
    "queued": "Queued",
    "claimed": "Slot given",
    "made": "Made",
    "scheduled": "Scheduled",
    "courier": "Courier started",
    "pulled": "Image there",
    "started": "Agent started",
    "hello": "Courier's hello",
    "output": "First output",
}
IN_A_CLUSTER = frozenset({"scheduled", "pulled"})


@dataclass(frozen=True, slots=True)
class Bar:
    """A step: when it was reached, and the time since the step before it. Both are None if it was not reached."""

    name: str
    label: str
    at: datetime | None
    seconds: float | None
    begins: int = 0  # in thousandths of the whole start
    width: int = 0


def bars(times: Mapping[str, datetime | None], *, cluster: bool) -> list[Bar]:
    """The bars of a start, in order. `times` has the names of STEPS; `cluster` tells whether pods are scheduled.

    A step that nobody told of, although a later one was reached, is left out. Clocks differ and clusters tell seconds,
    so a step counts as reached no sooner than the one before it.
    """
    names = [name for name in STEPS if cluster or name not in IN_A_CLUSTER]
    reached = [(name, at) for name in names if (at := times.get(name))]
    if not reached:
        return []
    begin = before = reached[0][1]
    whole = max((max(at for _, at in reached) - begin).total_seconds(), 0.001)
    steps = []
    for name, at in reached:
        end = max(at, before)
        share = round((before - begin).total_seconds() / whole * SCALE)
        until = round((end - begin).total_seconds() / whole * SCALE)
        steps.append(Bar(name, STEPS[name], at, (end - before).total_seconds(), share, until - share))
        before = end
    rest = names[names.index(reached[-1][0]) + 1 :]
    return [*steps, *(Bar(name, STEPS[name], None, None) for name in rest)]
