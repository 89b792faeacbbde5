"""The scope of a clean-up, and the actions that it reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from django.conf import settings
from django.utils import timezone

from runtimes.base import OwnedResource, RuntimeFault

log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What was done, as the first word of its line."""

    REMOVED = "removed"  # from the runtime
    DELETED = "deleted"  # rows
    RECONCILED = "reconciled"
    STOPPED = "stopped"
    KEPT = "kept"  # nothing was done, and why
    FAILED = "failed"


# These leave things as they were: a second round would report the same.
UNCHANGED = frozenset({Outcome.KEPT, Outcome.FAILED})


@dataclass(frozen=True, slots=True)
class CleanupAction:
    """One thing that was done, or would be in a dry run."""

    outcome: Outcome
    kind: str
    name: str
    reason: str

    def line(self, dry_run: bool = False) -> str:
        """The action as a line for people."""
        verb = f"would be {self.outcome}" if dry_run and self.outcome not in UNCHANGED else str(self.outcome)
        return f"{verb} {self.kind} {self.name}: {self.reason}"

    def as_dict(self) -> dict[str, str]:
        """The action for programs."""
        return {"action": str(self.outcome), "kind": self.kind, "name": self.name, "reason": self.reason}


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Scope:
    """What a clean-up may do."""

    dry_run: bool = False
    days: int = field(default_factory=lambda: settings.RETENTION_DAYS)  # 0: what is finished is kept for ever
    group: str = ""  # a slug: nothing but this group's
    by_hand: bool = False  # a person asked for it
    now: datetime = field(default_factory=timezone.now)
    go_on: Callable[[], bool] = _always  # asked before each thing is removed from a runtime

    @property
    def cutoff(self) -> datetime | None:
        """What was finished before this is past its retention."""
        return self.now - timedelta(days=self.days) if self.days else None


def remove(resource: OwnedResource, reason: str, delete: Callable[[], None] | None) -> CleanupAction:
    """Remove a resource from a runtime, with `delete` (None in a dry run); return what came of it."""
    name = f"{resource.name} in {resource.namespace}" if resource.namespace else resource.name
    try:
        if delete:
            delete()
    except RuntimeFault as fault:
        return CleanupAction(Outcome.FAILED, resource.kind, name, f"it could not be removed ({fault}); {reason}")
    return CleanupAction(Outcome.REMOVED, resource.kind, name, reason)


def log_action(action: CleanupAction) -> None:
    """Log a action, for clean-up that no person looks at."""
    level = log.warning if action.outcome is Outcome.FAILED else log.info
    level("clean-up", did=action.outcome, kind=action.kind, name=action.name, reason=action.reason)
