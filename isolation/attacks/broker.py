"""The credential broker: what an agent may ask of a model's provider, who would do it for the agent, from outside.

The provider is a stand-in of the proof's, which tells what it was asked: so what the broker lets pass shows here.
"""

import http.client
import json
import os
from typing import Any

from isolation.attacks import control_plane
from isolation.attacks.base import Got, Refused, Untested

SECRETS = "/var/secrets"
PATH = "/broker/v1/anthropic/v1/messages"
MARK = "proof-of-isolation-provider"
ORDINARY = {"model": "proof", "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}


def ask(url: str, key: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str]:
    """Make one request of the Messages API through the broker; the answer's status and text."""
    with open(os.path.join(os.environ.get("BERTH_SECRETS") or SECRETS, key)) as file:
        stand_in = file.read().strip()
    sent = {"Content-Type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": stand_in, **headers}
    try:
        answer = control_plane.ask(url, PATH, "POST", sent, json.dumps(body).encode())
        return answer.status, answer.read(1 << 20).decode(errors="replace")
    except http.client.HTTPException as error:
        raise Refused(f"the broker gave no answer ({type(error).__name__})") from None


def pass_through(url: str, key: str, body: dict[str, Any], headers: dict[str, str], needle: str) -> Got:
    """Ask with more than an ordinary request has. Got is a provider that was told of it (`needle`)."""
    status, told = ask(url, key, ORDINARY, {})
    if status != 200 or MARK not in told:
        raise Untested(f"an ordinary request does not reach the stand-in for a provider: {status} {told[:200]}")
    status, told = ask(url, key, ORDINARY | body, headers)
    if MARK not in told:
        raise Refused(f"{status} {told[:200]}")
    if needle not in told:
        raise Refused(f"it was passed on without {needle}")
    return Got(f"the provider was asked with {needle}")


ATTACKS: dict[str, Any] = {"broker": pass_through}
