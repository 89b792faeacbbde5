"""What the API answers where something fails: problem details (RFC 9457)."""

import errno
import json
from http import HTTPStatus
from typing import Any

import structlog
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from sessions.lifecycle import idempotency
from sessions.lifecycle.intake import InvalidRequest
from sessions.throttle import Throttled

log = structlog.get_logger(__name__)
TITLES = {
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    422: "Bad input",
    429: "Too many requests",
}


def problem(request: HttpRequest, status: int, detail: str, **more: Any) -> HttpResponse:
    """A problem details response (RFC 9457, section 3)."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail} | more
    return HttpResponse(json.dumps(content), status=status, content_type="application/problem+json")


def not_authenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    """401: says how to come in."""
    response = problem(
        request,
        401,
        "Send a token as `Authorization: Bearer …`. The admin's API tokens, or `manage.py create_token USER`, "
        "make one.",
    )
    response["WWW-Authenticate"] = "Bearer"
    return response


def invalid_input(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """422: names each field."""
    errors = [{"field": str(item["loc"][-1]), "detail": item["msg"]} for item in error.errors]
    return problem(request, 422, "; ".join(f"{e['field']}: {e['detail']}" for e in errors), errors=errors)


def invalid_request(request: HttpRequest, error: InvalidRequest) -> HttpResponse:
    """422: what intake would not take."""
    return problem(request, 422, str(error), errors=[{"field": error.field, "detail": str(error)}])


def throttled(request: HttpRequest, error: Throttled) -> HttpResponse:
    """429: says when to come again."""
    response = problem(request, error.status, str(error))
    response["Retry-After"] = str(error.seconds)
    return response


def http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    """Whatever else has a status."""
    return problem(request, error.status_code, str(error))


def server_error(request: HttpRequest, error: Exception) -> HttpResponse:
    """507 without room on a disk, 503 without a database, else 500: what is inside stays in the log."""
    if is_full(error):
        log.error("a disk is full", path=request.path, error=str(error))
        return problem(request, 507, "Berth has no room to store this. Tell its operator.")
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("database away", path=request.path, error=str(error))
        response = problem(request, 503, "The database is away. Try again.")
        response["Retry-After"] = "1"
        return response
    log.error("a request to the API failed", path=request.path, exc_info=error)
    return problem(request, 500, "Berth failed at this. Its log says why.")


def is_full(error: BaseException | None) -> bool:
    """Whether it is for want of room: of the operating system's, SQLite's, or PostgreSQL's (class 53) saying."""
    if error is None:
        return False
    no_room = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or getattr(error, "sqlstate", "") == "53100"
    return no_room or "database or disk is full" in str(error) or is_full(error.__cause__)


def key_reused(request: HttpRequest, error: idempotency.Reused) -> HttpResponse:
    """409: a key that came with another body."""
    return problem(request, 409, str(error))


def no_such_address(request: HttpRequest) -> HttpResponse:
    """What no operation answers is a problem too, and not a page for people."""
    return problem(request, 404, "There is nothing at this address. /api/v1/docs lists what there is.")


HANDLERS: dict[type[Exception], Any] = {
    AuthenticationError: not_authenticated,
    ValidationError: invalid_input,
    InvalidRequest: invalid_request,
    Throttled: throttled,
    idempotency.Reused: key_reused,
    HttpError: http_error,
    Exception: server_error,
}


def install(api: NinjaAPI) -> None:
    """Let the API answer with these."""
    for kind, handler in HANDLERS.items():
        api.add_exception_handler(kind, handler)
