"""Redacting from texts about a run, before they are stored, what is known here to be secret.

That is keys of well-known kinds, and what was made for the run itself: its token, its credential at the egress proxy,
its stand-in for models' keys. The values of its secrets are known to its courier alone.
"""

import uuid
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from redaction.json_strings import json_strings, map_strings
from redaction.pattern_search import may_contain_key, redact_keys
from redaction.spans import label
from sessions.lifecycle import run_tokens

SHORTEST = 64  # characters of what is made for a run: hex digits of SHA-256


def redact_text(run_id: uuid.UUID, text: str) -> str:
    """The text without them."""
    return redact_keys(_without(run_tokens.secrets_of(run_id), text)) if text else text


def redact_event(run_id: uuid.UUID, text: str, data: Any) -> tuple[str, Any]:
    """An event's text and data without them; the same objects if there is nothing."""
    made = run_tokens.secrets_of(run_id)
    texts = [text, *json_strings(data)]
    if holds(made, text, data):
        text, data = _without(made, text), map_strings(partial(_without, made), data)
    if may_contain_key(texts):
        text, data = redact_keys(text), map_strings(redact_keys, data)
    return text, data


def holds(made: Iterable[str], text: str, data: Any) -> bool:
    """Whether any of these texts stands in an event's text or data."""
    texts = [text, *json_strings(data)] if data else [text]
    return any(secret in each for each in texts if len(each) >= SHORTEST for secret in made)


def _without(made: Mapping[str, str], text: str) -> str:
    for secret, name in made.items():
        text = text.replace(secret, label(name))
    return text
