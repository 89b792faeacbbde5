"""The egress proxies' API: `/egress/v1/…` (docs/egress.md), asked for every new host of every run."""

from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.utils.crypto import constant_time_compare

from egress_policy import decision_service, denials, policy_revision, reports, traffic
from sessions import machine_api
from sessions.db_executor import in_thread
from sessions.events import notify
from sessions.machine_api import ApiError, InvalidPayload, Request

log = structlog.get_logger(__name__)
BODY_MAX = 4 * 1024 * 1024
TICK = 0.5  # seconds after which a notification that was lost is made up for; a revocation may take 1 s in all


async def respond(request: Request) -> dict[str, Any]:
    """For the proxies every status but 200 and 401 means: closed, come again. Raises ApiError."""
    token = expected_token()
    if not token:
        raise ApiError(404, "no such address")
    if not constant_time_compare(request.bearer_token, token):
        # Not 401, which tells a proxy that a run's credential is wrong.
        raise ApiError(403, "send the token of EGRESS_TOKEN as a bearer token")
    endpoint = machine_api.endpoint(ROUTES, request)
    await request.read(BODY_MAX)
    return await endpoint(request)


def expected_token() -> str:
    """The proxies' token; empty if there are to be none. A file is read each time, so a token may change."""
    if settings.EGRESS_TOKEN_FILE:
        try:
            return Path(settings.EGRESS_TOKEN_FILE).read_text().strip()
        except OSError as error:
            log.warning("EGRESS_TOKEN_FILE can't be read", error=str(error))
            return ""
    return str(settings.EGRESS_TOKEN)


async def _decide(request: Request) -> dict[str, Any]:
    body = request.json()
    try:
        run, credential, host, port = (body[name] for name in ("run", "credential", "host", "port"))
    except (TypeError, KeyError):
        raise InvalidPayload("send run, credential, host and port") from None
    if not all(isinstance(text, str) for text in (run, credential, host)) or type(port) is not int:
        raise InvalidPayload("run, credential and host are texts, port is a number")
    if not 0 <= port <= 65535 or not all(text.isprintable() for text in (run, credential, host)):
        raise InvalidPayload("run, credential and host have no control characters or halves of one, port is 0 to 65535")
    answer = await in_thread(decision_service.answer_proxy, run, credential, host, port)
    if answer is None:
        raise ApiError(401, "this run is over, or the credential is not its own")
    return answer


async def _version(request: Request) -> dict[str, Any]:
    """A long poll: answers as soon as the number is another than the one that the proxy knows."""
    known = request.number("after", -1)

    async def poll() -> tuple[dict[str, Any], bool]:
        number = await in_thread(policy_revision.current)
        return {"version": number}, number != known

    return await request.long_poll(policy_revision.TOPIC, notify.INBOX, TICK, poll)


async def _report(request: Request) -> dict[str, Any]:
    """Store what a proxy reports. All of it may be reported again."""
    report = reports.parse(request.json())
    if report.uses:
        await in_thread(traffic.store, report.uses)
    if report.denials:
        await in_thread(denials.store, report.denials)
    return {}


ROUTES = {
    ("GET", "/egress/v1/version"): _version,
    ("POST", "/egress/v1/decide"): _decide,
    ("POST", "/egress/v1/report"): _report,
}
app = machine_api.json_app(respond, "an egress proxy's request failed")
