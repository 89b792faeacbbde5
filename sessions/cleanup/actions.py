"""What clean-up is asked for, and what it tells of each thing that it did."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from django.conf import settings
from django.utils import timezone

from runtimes.base import OwnedResource, RuntimeFault

log = structlog.get_logger(__name__)


class Action(StrEnum):
    """What was done, as the first word of its line."""

    REMOVED = "removed"  # from the runtime
    DELETED = "deleted"  # rows
    RECONCILED = "reconciled"
    STOPPED = "stopped"
    KEPT = "kept"  # nothing was done, and why
    FAILED = "failed"


# These leave things as they were: looking again would tell the same.
IDLE = frozenset({Action.KEPT, Action.FAILED})


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing that was done, or would be in a dry run."""

    action: Action
    kind: str
    name: str
    reason: str

    def line(self, dry_run: bool = False) -> str:
        """The deed as a line for people."""
        verb = f"would be {self.action}" if dry_run and self.action not in IDLE else str(self.action)
        return f"{verb} {self.kind} {self.name}: {self.reason}"

    def as_dict(self) -> dict[str, str]:
        """The deed for programs."""
        return asdict(self) | {"action": str(self.action)}


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


def removed(resource: OwnedResource, reason: str, do: Callable[[], None] | None) -> Deed:
    """Remove one thing from a runtime, with `do` (None in a dry run), and tell what came of it."""
    name = f"{resource.name} in {resource.namespace}" if resource.namespace else resource.name
    try:
        if do:
            do()
    except RuntimeFault as fault:
        return Deed(Action.FAILED, resource.kind, name, f"it could not be removed ({fault}); {reason}")
    return Deed(Action.REMOVED, resource.kind, name, reason)


def tell(deed: Deed) -> None:
    """Log a deed, for clean-up that no person looks at."""
    level = log.warning if deed.action is Action.FAILED else log.info
    level("clean-up", did=deed.action, kind=deed.kind, name=deed.name, reason=deed.reason)
