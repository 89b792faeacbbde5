"""Requests that create something and may be sent again: the same `Idempotency-Key` makes it once.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ is followed but for the status of a key that
comes again with another body: 409 here, where the draft has 422, which says here that the body itself is wrong.

Keys of people and programs live in a table of their own: none can be taken for one of Berth's (those of messages
that schedules send, `Message.idempotency_key`).
"""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import transaction

from sessions.lifecycle.intake import InvalidRequest
from sessions.models import IdempotencyKey

KEPT = timedelta(days=7)  # how long a key is remembered (draft, section 2.3)
KEY = re.compile(r"[ -~]{1,200}")  # printable ASCII, as a String of RFC 9651 (section 3.3.3)


class Reused(Exception):
    """The key came before, with another body; `str()` says what to do."""


def once(user_id: Any, endpoint: str, key: str | None, body: Any, make: Callable[[], str]) -> str:
    """The id of what `make` made for this person, endpoint and key, now or before. `key` is None for a request without.

    What `make` raises takes the key back, so that it may be tried again. Of two requests at a time the second one waits
    for the first. Raises InvalidRequest for what is no key, Reused.
    """
    if key is None:
        return make()
    if not KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key", "Use 1 to 200 printable ASCII characters, such as a UUID.")
    said = json.dumps(body, sort_keys=True, default=str).encode()
    fingerprint = hashlib.sha256(said).hexdigest()
    with transaction.atomic():
        row, new = IdempotencyKey.objects.get_or_create(
            user_id=user_id, endpoint=endpoint, key=key, defaults={"fingerprint": fingerprint}
        )
        if new:
            row.made = make()
            row.save(update_fields=["made"])
        elif row.fingerprint != fingerprint:
            raise Reused("This Idempotency-Key came before with another body. Use a new one for another request.")
    return row.made
