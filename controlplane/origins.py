"""Which pages may open a websocket: those of this very site, and of CSRF_TRUSTED_ORIGINS.

A browser sends cookies along with any page's request for a websocket, and no token against forgery; what it tells of
the page is `Origin` (RFC 6455, section 10.2).
"""

from io import BytesIO

from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.middleware.csrf import CsrfViewMiddleware

from sessions.machine_api import App, Receive, Scope, Send

_csrf = CsrfViewMiddleware(lambda request: None)  # type: ignore[arg-type]


def is_own(scope: Scope) -> bool:
    """Whether the page that asks for a websocket could send us a form: by the same rules, which are Django's.

    Scheme, host and port have to be those that the request came to, with a proxy in front as the settings say.
    """
    request = ASGIRequest(scope | {"method": "GET", "path": scope.get("path", "/")}, BytesIO())
    try:
        return "HTTP_ORIGIN" in request.META and _csrf._origin_verified(request)  # type: ignore[attr-defined]
    except (DisallowedHost, ValueError):
        return False


class OwnPagesOnly:
    """An ASGI application for websockets that refuses pages of others."""

    def __init__(self, inner: App) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one websocket in, or close it before it opens."""
        if is_own(scope):
            await self.inner(scope, receive, send)
        else:
            await send({"type": "websocket.close"})
