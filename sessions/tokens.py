"""The token with which a run's courier calls home.

It is derived from the run's id, so that a second `ensure` gives the same Secret and no table holds it:
`<run id>.<HMAC-SHA256 of it under SECRET_KEY>` (RFC 2104). It is good for as long as the run is active.
"""

import uuid

from django.utils.crypto import constant_time_compare, salted_hmac

SALT = "berth.courier"
EGRESS_SALT = "berth.egress"
BROKER_SALT = "berth.broker"


def mint(run_id: uuid.UUID) -> str:
    """The token of a run."""
    return f"{run_id}.{salted_hmac(SALT, str(run_id), algorithm='sha256').hexdigest()}"


def run_of(token: str) -> uuid.UUID | None:
    """The run that a token belongs to; None if it is not one of ours. Whether it still lives is for the caller."""
    try:
        run_id = uuid.UUID(token.partition(".")[0])
    except ValueError:
        return None
    return run_id if constant_time_compare(token, mint(run_id)) else None


def mint_egress(run_id: uuid.UUID) -> str:
    """What the egress proxy knows a run by: the agent has it, so it is not the courier's token."""
    return str(salted_hmac(EGRESS_SALT, str(run_id), algorithm="sha256").hexdigest())


def is_egress(run_id: uuid.UUID, credential: str) -> bool:
    """Whether a credential is the run's own. Whether the run still lives is for the caller."""
    return constant_time_compare(credential, mint_egress(run_id))


def mint_broker(run_id: uuid.UUID) -> str:
    """What an agent has in the place of a model's key; the broker knows the run by it (`broker/`)."""
    return f"{run_id}.{salted_hmac(BROKER_SALT, str(run_id), algorithm='sha256').hexdigest()}"


def broker_run_of(token: str) -> uuid.UUID | None:
    """The run that a stand-in for a key belongs to; None if it is none. Whether the run lives is for the caller."""
    try:
        run_id = uuid.UUID(token.partition(".")[0])
    except ValueError:
        return None
    return run_id if constant_time_compare(token, mint_broker(run_id)) else None
