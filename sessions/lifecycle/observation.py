"""What the watcher has seen of a run, as text beside its work item, so that the worker need not ask for it again.

Only of runs that go on: an end is looked at anew before it becomes a verdict, and an agent's last lines are in no row.
"""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from runtimes.base import Cause, Observed, Phase

LASTS = timedelta(seconds=60)  # what is older is worth nothing
WORDS = 2000  # characters


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one run."""

    run: uuid.UUID
    observed: Observed


def pack(run: uuid.UUID, observed: Observed | None) -> str:
    """As text; empty if it is nothing that a worker may go by."""
    if observed is None or observed.phase not in (Phase.PENDING, Phase.RUNNING):
        return ""
    payload = {
        "run": str(run),
        "at": timezone.now().isoformat(),
        "phase": observed.phase,
        "cause": observed.cause,
        "words": observed.message[:WORDS].replace("\0", "\ufffd"),
        "courier_alive": observed.courier_alive,
    }
    return json.dumps(payload)


def unpack(text: str) -> Observation | None:
    """What was packed; None if it is nothing, or too old."""
    if not text:
        return None
    payload = json.loads(text)
    if timezone.now() - datetime.fromisoformat(payload["at"]) > LASTS:
        return None
    cause = Cause(payload["cause"]) if payload["cause"] else None
    observed = Observed(Phase(payload["phase"]), cause, payload["words"], courier_alive=payload["courier_alive"])
    return Observation(uuid.UUID(payload["run"]), observed)
