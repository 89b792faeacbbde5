"""Which run asks, what it may, and the key that stands behind its stand-in. It asks the database, on a thread."""

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from broker import key_filter
from broker.key_filter import KeyForms
from broker.models import BrokerUsage
from broker.providers import Route
from groups.choices import Provider
from groups.models import BrokeredKey
from groups.providers import MODEL_APIS
from runtimes.base import PermanentFault, TransientFault
from sessions.lifecycle import secrets
from sessions.models import Run

log = structlog.get_logger(__name__)
CACHE_SECONDS = 30.0  # how long a key that was read is used again: in memory alone
_cached: dict[tuple[int, datetime, uuid.UUID], tuple[float, str, KeyForms]] = {}  # until when, key, forms


class BrokerError(Exception):
    """Ends a request with a response of the broker's own. `kind` is an error type of the Messages API; `again` says
    that the same request may succeed later."""

    def __init__(self, status: int, kind: str, words: str, retry_after: int = 0, again: bool = False) -> None:
        super().__init__(words)
        self.status, self.kind, self.retry_after, self.again = status, kind, retry_after, again


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a request that is allowed goes, and the key that it takes."""

    group: uuid.UUID
    base_url: str
    header: str
    key: str = field(repr=False)
    key_forms: KeyForms = field(repr=False)  # to be taken out of responses


def authorize(run_id: uuid.UUID, route: Route) -> Upstream:
    """Where a run's request goes, counted against its group's budget. Raises BrokerError."""
    run = Run.objects.active().filter(pk=run_id).select_related("session__group", "session__profile").first()
    if run is None:
        raise BrokerError(401, "authentication_error", "The run that this key was made for is over.")
    group = run.session.group
    key = BrokeredKey.objects.for_run(group, run.session.profile).get(route.provider)
    if key is None or group.deleted_at or not key.reference.granted_to_group(group):
        words = f"No key for {Provider(route.provider).label} is meant for this group and profile. Ask an operator."
        raise BrokerError(403, "permission_error", words)
    value, forms = _read_key(key, run)
    if words := BrokerUsage.count_request(group):
        raise BrokerError(429, "rate_limit_error", f"{words[:1].upper()}{words[1:]}.", retry_after=until_midnight())
    api = MODEL_APIS[route.provider]
    return Upstream(group.pk, (key.base_url or api.base_url).rstrip("/"), key.header or api.header, value, forms)


def until_midnight(now: datetime | None = None) -> int:
    """Seconds until budgets are renewed."""
    now = now or datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((tomorrow - now).total_seconds()) + 1


def _read_key(key: BrokeredKey, run: Run) -> tuple[str, KeyForms]:
    """The real key, and its forms. Raises BrokerError, without a word of it."""
    cache_key = (key.reference_id, key.reference.changed_at, run.session.group_id)
    cached = _cached.get(cache_key)
    if cached and cached[0] > time.monotonic():
        return cached[1:]
    try:
        value = secrets.read(key.reference, run.session.group, run.runtime).decode("ascii").strip()
    except TransientFault as fault:
        raise BrokerError(503, "overloaded_error", "The key can't be read now.", retry_after=2, again=True) from fault
    except (PermanentFault, UnicodeDecodeError) as fault:
        words = str(fault) if isinstance(fault, PermanentFault) else "it is no text of a header"
        log.warning("no key for the broker", secret=key.reference.name, group=run.session.group.slug, words=words)
        raise BrokerError(502, "api_error", "The key can't be read. Tell an operator.") from None
    if not value or not value.isprintable():
        log.warning("no key for the broker", secret=key.reference.name, words="it is empty, or no text of a header")
        raise BrokerError(502, "api_error", "The key can't be read. Tell an operator.")
    for expired in [each for each, (end, *_) in list(_cached.items()) if end <= time.monotonic()]:
        _cached.pop(expired, None)
    forms = key_filter.key_forms(value)
    _cached[cache_key] = (time.monotonic() + CACHE_SECONDS, value, forms)
    return value, forms
