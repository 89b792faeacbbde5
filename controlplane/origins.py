"""Which pages may open a websocket: those of this very site, and of CSRF_TRUSTED_ORIGINS.

A browser sends cookies along with any page's request for a websocket, and no token against forgery; what it tells of
the page is `Origin` (RFC 6455, section 10.2).
"""

from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.middleware.csrf import CsrfViewMiddleware

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
_forms = CsrfViewMiddleware(lambda request: None)  # type: ignore[arg-type]


def is_own(scope: dict[str, Any]) -> bool:
    """Whether a websocket is asked for by a page that could send us a form: the same rules, by Django's own hand.

    Scheme, host and port have to be those that the request came to, with a proxy in front as the settings say.
    """
    request = ASGIRequest(scope | {"method": "GET", "path": scope.get("path", "/")}, BytesIO())
    try:
        return "HTTP_ORIGIN" in request.META and _forms._origin_verified(request)  # type: ignore[attr-defined]
    except (DisallowedHost, ValueError):
        return False


class OwnPagesOnly:
    """An ASGI application for websockets that refuses pages of others."""

    def __init__(self, inner: App) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let one websocket in, or close it before it opens."""
        if is_own(scope):
            await self.inner(scope, receive, send)
        else:
            await send({"type": "websocket.close"})
