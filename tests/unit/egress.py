"""The egress proxy as the control plane sees it: three calls, and reports in its form."""

import asyncio
import json
import time
import uuid
from typing import Any

from asgiref.testing import ApplicationCommunicator

from controlplane.asgi import application
from egress_policy import policy_revision
from egress_policy.models import EgressRule
from sessions.lifecycle import run_tokens
from sessions.models import Run

TOKEN = "of-the-proxies-" + "x" * 32


async def call(method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
    """One request to the proxies' door, in the running loop; status and JSON of the answer."""
    address, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": f"/egress/v1/{address}",
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {token}".encode())] if token else [],
    }
    app = ApplicationCommunicator(application, scope)
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    await app.send_input({"type": "http.request", "body": content})
    start = await app.receive_output(10)
    answer = await app.receive_output(10)
    return start["status"], json.loads(answer["body"])


def ask(method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
    """One request."""
    return asyncio.run(call(method, path, body, token))


def question(run: Run, host: str = "api.example.com", port: int = 443, **other: Any) -> dict[str, Any]:
    """What a proxy asks when the run's agent wants to reach a host."""
    told = {"run": str(run.pk), "credential": run_tokens.mint_egress(run.pk), "host": host, "port": port}
    return told | other


def decided(run: Run, host: str = "api.example.com", port: int = 443) -> Any:
    """What it is answered."""
    status, told = ask("POST", "decide", question(run, host, port))
    assert status == 200, told
    return told


def allow(host: str, ports: list[int] | None = None, **fields: Any) -> EgressRule:
    """A rule that was there before."""
    rule = EgressRule.objects.create(host=host, ports=ports or [443], **fields)
    policy_revision.bump()
    return rule


def denial(run: Run, host: str = "api.example.com", port: int = 443, count: int = 1, **other: Any) -> dict[str, Any]:
    """A refusal as a proxy reports it."""
    told = {"id": uuid.uuid4().hex, "run": str(run.pk), "host": host, "port": port, "count": count}
    words = {"code": "rule", "reason": f"no egress rule of this run allows {host}:{port}"}
    return told | words | {"at": time.time()} | other


def tunnel(run: Run, host: str = "api.example.com", port: int = 443, **other: Any) -> dict[str, Any]:
    """An open tunnel as a proxy reports it."""
    told = {"id": uuid.uuid4().hex, "run": str(run.pk), "host": host, "port": port, "opened": time.time()}
    return told | {"ended": None, "sent": 0, "received": 0, "cause": None} | other


def report(*, tunnels: Any = (), denials: Any = ()) -> None:
    """Report them."""
    status, told = ask("POST", "report", {"tunnels": list(tunnels), "denials": list(denials)})
    assert status == 200, told
