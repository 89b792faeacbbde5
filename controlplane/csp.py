"""The Content-Security-Policy of every page: nothing is loaded from elsewhere, and no script stands in a page.

https://www.w3.org/TR/CSP3/ has the words. Django has a middleware for it from version 6.0 on.
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

NAME = "Content-Security-Policy"
STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
}


# Unfold's lists and forms, and Django's JSON fields, have style attributes. They load nothing and run nothing.
STYLED = {"style-src-attr": "'unsafe-inline'"}
# What agents say is shown here: not even that.
TRANSCRIPTS = frozenset({"agent_sessions_agentsession_change"})


def styled(request: HttpRequest) -> bool:
    """Whether a page may have style attributes: the admin's own pages may."""
    match = request.resolver_match
    return match is not None and "admin" in match.namespaces and match.url_name not in TRANSCRIPTS


def policy(host: str, styled: bool = False) -> str:
    """The header for a page of `host`. Not every browser counts websockets to it among 'self'."""
    sources = STRICT | {"connect-src": f"'self' ws://{host} wss://{host}"} | (STYLED if styled else {})
    return "; ".join(f"{directive} {allowed}" for directive, allowed in sources.items())


def _set_header(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    try:
        host = request.get_host()
    except DisallowedHost:  # the response is a plain 400
        host = "127.0.0.1"
    response.headers.setdefault(NAME, policy(host, styled(request)))
    return response


@sync_and_async_middleware
def middleware(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Give every response the policy, unless it has one of its own."""
    if iscoroutinefunction(get_response):

        async def with_header_async(request: HttpRequest) -> HttpResponseBase:
            return _set_header(request, await get_response(request))

        return with_header_async

    def with_header(request: HttpRequest) -> HttpResponseBase:
        return _set_header(request, get_response(request))

    return with_header
