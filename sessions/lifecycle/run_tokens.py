"""What programs know a run by: its courier's token, its credential at the egress proxy, its stand-in for models' keys.

Each is an HMAC-SHA256 (RFC 2104) of the run's id under a key of its own, which is derived from SECRET_KEY and the
purpose, as Django's `salted_hmac` does (https://docs.djangoproject.com/en/5.2/topics/signing/#using-the-salt-argument):
who has one can make no other. So a second `ensure` gives the same, no table holds any, and couriers, agents and proxies
hold nothing but what is good for one run, for as long as it is active. What a key in SECRET_KEY_FALLBACKS made is good,
too: a new SECRET_KEY ends no run.
"""

import uuid
from collections.abc import Iterator
from enum import StrEnum

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac


class Purpose(StrEnum):
    """What a credential of a run is for; the salt of its key."""

    COURIER = "berth.courier"
    EGRESS = "berth.egress"
    BROKER = "berth.broker"


NAMES = {Purpose.COURIER: "run-token", Purpose.EGRESS: "egress-credential", Purpose.BROKER: "broker-key"}


def mint(run_id: uuid.UUID) -> str:
    """The token with which a run's courier calls home: `<run id>.<64 hex digits>`."""
    return f"{run_id}.{_mac(Purpose.COURIER, run_id, settings.SECRET_KEY)}"


def run_of(token: str) -> uuid.UUID | None:
    """The run that a token belongs to; None if it is not one of ours. Whether it still lives is for the caller."""
    return _run_of(Purpose.COURIER, token)


def mint_egress(run_id: uuid.UUID) -> str:
    """What the egress proxy knows a run by: the agent has it, so it is not the courier's token."""
    return _mac(Purpose.EGRESS, run_id, settings.SECRET_KEY)


def is_egress(run_id: uuid.UUID, credential: str) -> bool:
    """Whether a credential is the run's own. Whether the run still lives is for the caller."""
    return _is_ours(Purpose.EGRESS, run_id, credential)


def mint_broker(run_id: uuid.UUID) -> str:
    """What an agent has in the place of a model's key; the broker knows the run by it (`broker/`)."""
    return f"{run_id}.{_mac(Purpose.BROKER, run_id, settings.SECRET_KEY)}"


def broker_run_of(token: str) -> uuid.UUID | None:
    """The run that a stand-in for a key belongs to; None if it is none. Whether the run lives is for the caller."""
    return _run_of(Purpose.BROKER, token)


def secrets_of(run_id: uuid.UUID) -> dict[str, str]:
    """What must not be told of a run → the name that stands in its place. Without the id, which is no secret."""
    return {_mac(purpose, run_id, key): NAMES[purpose] for purpose in Purpose for key in _keys()}


def _run_of(purpose: Purpose, token: str) -> uuid.UUID | None:
    run, _, mac = token.partition(".")
    try:
        run_id = uuid.UUID(run)
    except ValueError:
        return None
    return run_id if str(run_id) == run and _is_ours(purpose, run_id, mac) else None


def _is_ours(purpose: Purpose, run_id: uuid.UUID, mac: str) -> bool:
    return any(constant_time_compare(mac, _mac(purpose, run_id, key)) for key in _keys())


def _mac(purpose: Purpose, run_id: uuid.UUID, key: str) -> str:
    return str(salted_hmac(purpose, str(run_id), secret=key, algorithm="sha256").hexdigest())


def _keys() -> Iterator[str]:
    """The present key, then those before it."""
    yield settings.SECRET_KEY
    yield from settings.SECRET_KEY_FALLBACKS
