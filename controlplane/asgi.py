"""The ASGI application that `web` serves: couriers, websockets, and Django for the rest."""

import asyncio
import os
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from sessions.client_address import request_address
from sessions.db_executor import STREAM_THREADS, THREADS
from sessions.throttle import concurrency, credential

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
HEALTH = ("/healthz", "/readyz")
django.setup(set_prefix=False)


class DjangoApp(ASGIHandler):
    """Django, which works on a request when it is its client's turn; a stream's turn ends where the stream begins."""

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """The answer, from the moment on at which the request is whole."""
        if request.path in HEALTH:  # a probe that waits behind a crowd would have `web` killed for it
            return await super().get_response_async(request)
        async with concurrency.request(request_address(request), credential(request)):
            work = asyncio.ensure_future(super().get_response_async(request))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:  # its client is gone, and its thread works on: so long it has its turn
                await asyncio.wait([work])
                raise


django_app = DjangoApp()
if not settings.EMBEDDED:
    # A request borrows a connection for its work; threads of the machine APIs and of streams keep theirs, and leave the
    # others alone. Not for processes that fork: no pool survives that.
    pool = {"min_size": 2, "max_size": settings.DATABASE_POOL + THREADS + STREAM_THREADS, "timeout": 20}
    connections.settings["default"] |= {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}
    connections.settings["default"]["OPTIONS"]["pool"] = pool

# These need the apps to be loaded, which the line above did.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from broker import views as broker  # noqa: E402
from controlplane.origins import OwnPagesOnly  # noqa: E402
from egress_policy import proxy_api  # noqa: E402
from sessions.courier_api import endpoints as courier_api  # noqa: E402
from sessions.machine_api import App, Receive, Scope, Send  # noqa: E402
from sessions.stream.consumers import SessionConsumer  # noqa: E402
from sessions.workers import heartbeat  # noqa: E402

MACHINE_APIS: dict[str, App] = {"/agent/v1/": courier_api.app, "/egress/v1/": proxy_api.app, "/broker/v1/": broker.app}
# Bytes of a request's body. None: the broker has bounds of its own, and refuses in words that its clients understand.
BODY_MAX: dict[str, int | None] = {
    "/agent/v1/": courier_api.BODY_MAX,
    "/egress/v1/": proxy_api.BODY_MAX,
    "/broker/v1/": None,
}


def body_max(path: str) -> int | None:
    """How many bytes a request's body may have; None: the application sees to it."""
    pages: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return next((most for start, most in BODY_MAX.items() if path.startswith(start)), pages)


async def not_served(scope: Scope, receive: Receive, send: Send) -> None:
    """What a `web` that is for pods alone (DOORS_ONLY) has of pages, the API and their sockets."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"This address is for couriers, proxies and agents.\n"})


async def http(scope: Scope, receive: Receive, send: Send) -> None:
    """The APIs for machines do without Django's middleware."""
    rest = not_served if settings.DOORS_ONLY and scope["path"] not in HEALTH else django_app
    inner: Any = next((app for start, app in MACHINE_APIS.items() if scope["path"].startswith(start)), rest)
    await inner(scope, receive, send)


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """The pages' websockets."""
    await (not_served if settings.DOORS_ONLY else pages)(scope, receive, send)


pages = OwnPagesOnly(
    AuthMiddlewareStack(URLRouter([path("ws/sessions/<uuid:session_id>/", SessionConsumer.as_asgi())]))
)
heartbeat.start()
application = ProtocolTypeRouter({"http": http, "websocket": websocket})
