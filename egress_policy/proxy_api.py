"""The egress proxies' door: `/egress/v1/…` (docs/egress.md), spoken to by the proxies alone.

A bare ASGI application as the couriers' is: it is called for every new host of every run, and answers in milliseconds.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import structlog
from django.conf import settings
from django.db import DataError, InterfaceError, OperationalError
from django.utils.crypto import constant_time_compare

from egress_policy import decision_service, denials, policy_revision, reports, traffic
from sessions import machine_api
from sessions.db_executor import in_thread
from sessions.events import notify
from sessions.machine_api import Receive

log = structlog.get_logger(__name__)
BODY_MAX = 4 * 1024 * 1024
WAIT_MAX = 30.0  # seconds of a long poll
TICK = 0.5  # seconds after which a bell that was not heard is made up for; a revocation may take 1 s in all
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answer(Exception):
    """Ends a request with a status other than 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Route one request. For the proxies every status but 200 and 401 means: closed, come again."""
    status = 200
    try:
        told = await _routed(scope, receive)
    except Answer as answer:
        status, told = answer.status, {"detail": str(answer)}
    except machine_api.Gone:
        return
    except machine_api.TooLarge as error:
        status, told = 413, {"detail": str(error)}
    except (machine_api.NotJson, reports.Malformed) as error:
        status, told = 422, {"detail": str(error)[:500]}
    except DataError as error:
        log.warning("a proxy's request can't be stored", path=scope["path"], error=str(error)[:500])
        status, told = 422, {"detail": "the database can't hold this"}
    except (OperationalError, InterfaceError) as error:
        log.warning("database away", error=str(error))
        status, told = 503, {"detail": "the database is away"}
    except Exception:
        log.exception("an egress proxy's request failed", path=scope["path"])
        status, told = 500, {"detail": "internal error"}
    body = json.dumps(told).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _routed(scope: dict[str, Any], receive: Receive) -> dict[str, Any]:
    token = expected()
    if not token:
        raise Answer(404, "no such address")
    if not constant_time_compare(machine_api.bearer(scope), token):
        # Not 401, which tells a proxy that a run's credential is wrong.
        raise Answer(403, "send the token of EGRESS_TOKEN as a bearer token")
    route = (scope["method"], scope["path"])
    if route == ("GET", "/egress/v1/version"):
        await machine_api.read(scope, receive, BODY_MAX)
        return await _version(scope, receive)
    if route == ("POST", "/egress/v1/decide"):
        return await _decide(machine_api.json_of(await machine_api.read(scope, receive, BODY_MAX)))
    if route == ("POST", "/egress/v1/report"):
        return await _report(machine_api.json_of(await machine_api.read(scope, receive, BODY_MAX)))
    raise Answer(404, "no such address")


def expected() -> str:
    """The proxies' token; empty if there are to be none. A file is read each time, so a token may change."""
    if settings.EGRESS_TOKEN_FILE:
        try:
            return Path(settings.EGRESS_TOKEN_FILE).read_text().strip()
        except OSError as error:
            log.warning("EGRESS_TOKEN_FILE can't be read", error=str(error))
            return ""
    return str(settings.EGRESS_TOKEN)


async def _decide(body: Any) -> dict[str, Any]:
    try:
        run, credential, host, port = (body[name] for name in ("run", "credential", "host", "port"))
    except (TypeError, KeyError):
        raise Answer(422, "send run, credential, host and port") from None
    if not all(isinstance(text, str) for text in (run, credential, host)) or type(port) is not int:
        raise Answer(422, "run, credential and host are texts, port is a number")
    if not 0 <= port <= 65535 or not all(text.isprintable() for text in (run, credential, host)):
        raise Answer(422, "run, credential and host have no control characters or halves of one, port is 0 to 65535")
    told = await in_thread(decision_service.answer, run, credential, host, port)
    if told is None:
        raise Answer(401, "this run is over, or the credential is not its own")
    return told


async def _version(scope: dict[str, Any], receive: Receive) -> dict[str, Any]:
    """A long poll: answers as soon as the number is another than the one that the proxy knows."""
    query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
    try:
        after, wait = int(query.get("after", -1)), float(query.get("wait", 0))
    except ValueError as error:
        raise Answer(422, f"after and wait are numbers: {error}") from None
    if not math.isfinite(wait):
        raise Answer(422, "wait is a number of seconds")
    end = time.monotonic() + max(0.0, min(wait, WAIT_MAX))
    gone = asyncio.ensure_future(receive())  # what comes after the body says that the proxy hung up
    try:
        async with notify.hub().listen(policy_revision.BELL, notify.INBOX) as bell:
            gone.add_done_callback(lambda _: bell.set())
            while True:
                bell.clear()
                number, left = await in_thread(policy_revision.current), end - time.monotonic()
                if number != after or left <= 0 or gone.done():
                    return {"version": number}
                await notify.rung(bell, min(left, TICK))
    finally:
        gone.cancel()


async def _report(body: Any) -> dict[str, Any]:
    """Keep what a proxy tells. All of it may be told again."""
    report = reports.parse(body)
    if report.uses:
        await in_thread(traffic.store, report.uses)
    if report.denials:
        await in_thread(denials.store, report.denials)
    return {}
