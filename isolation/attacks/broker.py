"""The credential broker: what an agent may ask of a model's provider, who would do it for the agent, from outside.

The provider is a stand-in of the proof's, whose answer is the request: so what the broker lets pass shows here.
"""

import http.client
import json
import os
from typing import Any

from isolation.attacks import control_plane
from isolation.attacks.base import Blocked, Inconclusive, Success

SECRETS = "/var/secrets"
PATH = "/broker/v1/anthropic/v1/messages"
MARK = "proof-of-isolation-provider"
ORDINARY = {"model": "proof", "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}


def request(url: str, key: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str]:
    """Make one request of the Messages API through the broker; the answer's status and text."""
    with open(os.path.join(os.environ.get("BERTH_SECRETS") or SECRETS, key)) as file:
        key_value = file.read().strip()
    api = {"Content-Type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": key_value}
    try:
        response = control_plane.request(url, PATH, "POST", api | headers, json.dumps(body).encode())
        return response.status, response.read(1 << 20).decode(errors="replace")
    except http.client.HTTPException as error:
        raise Blocked(f"the broker gave no answer ({type(error).__name__})") from None


def pass_through(url: str, key: str, body: dict[str, Any], headers: dict[str, str], needle: str) -> Success:
    """Ask with more than an ordinary request has. Success is a provider that was sent it (`needle`)."""
    status, text = request(url, key, ORDINARY, {})
    if status != 200 or MARK not in text:
        raise Inconclusive(f"an ordinary request does not reach the stand-in for a provider: {status} {text[:200]}")
    status, text = request(url, key, ORDINARY | body, headers)
    if MARK not in text:
        raise Blocked(f"{status} {text[:200]}")
    if needle not in text:
        raise Blocked(f"it was passed on without {needle}")
    return Success(f"the provider was asked with {needle}")


ATTACKS: dict[str, Any] = {"broker": pass_through}
