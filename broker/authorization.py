"""Who asks, what they may, and the key that stands behind their stand-in. All of it asks the database, on a thread."""

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from broker import key_filter
from broker.key_filter import Needles
from broker.providers import APIS, Route
from groups.choices import Provider
from groups.models import BrokeredKey, BrokerUsage
from runtimes.base import PermanentFault, TransientFault
from sessions.lifecycle import secrets
from sessions.models import Run

log = structlog.get_logger(__name__)
KEPT_SECONDS = 30.0  # how long a key that was read is used again: in memory alone
_kept: dict[tuple[int, datetime, uuid.UUID], tuple[float, str, Needles]] = {}


class Refused(Exception):
    """Ends a request with an answer of the broker's own. `kind` is an error type of the Messages API."""

    def __init__(self, status: int, kind: str, words: str, retry_after: int = 0, again: bool = False) -> None:
        super().__init__(words)
        self.status, self.kind, self.retry_after, self.again = status, kind, retry_after, again


@dataclass(frozen=True, slots=True)
class Errand:
    """A request that may be made."""

    group: uuid.UUID
    base_url: str
    header: str
    key: str = field(repr=False)
    needles: Needles = field(repr=False)  # the key's forms, to be taken out of answers


def errand(run_id: uuid.UUID, route: Route) -> Errand:
    """What a run's request needs, counted against its group's budget. Raises Refused."""
    run = Run.objects.active().filter(pk=run_id).select_related("session__group", "session__profile").first()
    if run is None:
        raise Refused(401, "authentication_error", "The run that this key was made for is over.")
    group = run.session.group
    key = BrokeredKey.objects.for_run(group, run.session.profile).get(route.provider)
    if key is None or group.deleted_at or not key.reference.granted_to_group(group):
        words = f"No key for {Provider(route.provider).label} is meant for this group and profile. Ask an operator."
        raise Refused(403, "permission_error", words)
    value, needles = _value(key, run)
    if words := BrokerUsage.begin(group):
        raise Refused(429, "rate_limit_error", f"{words[:1].upper()}{words[1:]}.", retry_after=until_midnight())
    api = APIS[route.provider]
    return Errand(group.pk, (key.base_url or api.base_url).rstrip("/"), key.header or api.header, value, needles)


def until_midnight(now: datetime | None = None) -> int:
    """Seconds until budgets are renewed."""
    now = now or datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((tomorrow - now).total_seconds()) + 1


def _value(key: BrokeredKey, run: Run) -> tuple[str, Needles]:
    """The real key, and its forms. Raises Refused, without a word of it."""
    which = (key.reference_id, key.reference.changed_at, run.session.group_id)
    kept = _kept.get(which)
    if kept and kept[0] > time.monotonic():
        return kept[1:]
    try:
        value = secrets.read(key.reference, run.session.group, run.runtime).decode("ascii").strip()
    except TransientFault as fault:
        raise Refused(503, "overloaded_error", "The key can't be read now.", retry_after=2, again=True) from fault
    except (PermanentFault, UnicodeDecodeError) as fault:
        words = str(fault) if isinstance(fault, PermanentFault) else "it is no text of a header"
        log.warning("no key for the broker", secret=key.reference.name, group=run.session.group.slug, words=words)
        raise Refused(502, "api_error", "The key can't be read. Tell an operator.") from None
    if not value or not value.isprintable():
        log.warning("no key for the broker", secret=key.reference.name, words="it is empty, or no text of a header")
        raise Refused(502, "api_error", "The key can't be read. Tell an operator.")
    for old in [each for each, (end, *_) in list(_kept.items()) if end <= time.monotonic()]:
        _kept.pop(old, None)
    forms = key_filter.needles(value)
    _kept[which] = (time.monotonic() + KEPT_SECONDS, value, forms)
    return value, forms
