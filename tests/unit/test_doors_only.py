"""A `web` for pods alone: its doors and its health, and nothing else."""

import asyncio
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.testing import WebsocketCommunicator

from controlplane.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)


def status(path: str) -> int:
    async def ask() -> int:
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        app = ApplicationCommunicator(application, scope)
        await app.send_input({"type": "http.request", "body": b""})
        start: dict[str, int] = await app.receive_output(10)
        return start["status"]

    return asyncio.run(ask())


def test_there_are_no_pages(settings: Any) -> None:
    assert status("/admin/login/") == 200
    settings.DOORS_ONLY = True
    for path in ("/", "/admin/login/", "/api/v1/groups", "/api/v1/docs", "/accounts/2fa/", "/static/berth/icon.svg"):
        assert status(path) == 404, path


def test_there_are_no_sockets(settings: Any) -> None:
    settings.DOORS_ONLY = True

    async def connect() -> bool:
        socket = WebsocketCommunicator(application, "/ws/sessions/00000000-0000-0000-0000-000000000000/")
        connected, _ = await socket.connect()
        return bool(connected)

    assert asyncio.run(connect()) is False


def test_the_doors_and_the_health_are_there(settings: Any) -> None:
    settings.DOORS_ONLY = True
    assert status("/healthz") == 200
    assert [status(path) for path in ("/agent/v1/inbox", "/broker/v1/anthropic/v1/messages")] == [401, 401]
