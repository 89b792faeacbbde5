"""The token with which a run's courier calls home.

It is derived from the run's id, so that a second `ensure` gives the same Secret and no table holds it:
`<run id>.<HMAC-SHA256 of it under SECRET_KEY>` (RFC 2104). It is good for as long as the run is active.
"""

import uuid

from django.utils.crypto import constant_time_compare, salted_hmac

SALT = "berth.courier"


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
