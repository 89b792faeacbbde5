"""Which pages may open a websocket: their scheme, host and port are the site's own, or named by an operator."""

import asyncio
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from controlplane.origins import OwnPagesOnly, is_own


def scope(origin: str | None, host: str = "berth.example:8000", **headers: str) -> dict[str, Any]:
    told = {"host": host} | ({} if origin is None else {"origin": origin}) | headers
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in told.items()]
    return {"type": "websocket", "path": "/ws/", "query_string": b"", "headers": pairs, "root_path": ""}


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["berth.example", "other.example", "[::1]"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://trusted.example:8443", "https://*.wide.example"]
    settings.SECURE_PROXY_SSL_HEADER = None


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://berth.example:8000", True),
        ("http://berth.example:8001", False),
        ("http://berth.example", False),
        ("https://berth.example:8000", False),
        ("ws://berth.example:8000", False),
        ("http://other.example:8000", False),
        ("http://evil.example:8000", False),
        ("http://berth.example.evil.example:8000", False),
        ("http://berth.example:8000@evil.example", False),
        ("https://trusted.example:8443", True),
        ("https://trusted.example", False),
        ("http://trusted.example:8443", False),
        ("https://a.wide.example", True),
        ("https://wide.example.evil", False),
        ("null", False),
        ("", False),
        ("http://[", False),
        ("é\udcff".encode("utf-8", "replace").decode("latin-1"), False),
        (None, False),
    ],
)
def test_an_origin(origin: str | None, own: bool) -> None:
    assert is_own(scope(origin)) is own


@pytest.mark.parametrize("host", ["evil.example", "berth.example:x", "", "berth.example,evil.example"])
def test_a_host_that_is_not_ours_has_no_pages(host: str) -> None:
    assert not is_own(scope(f"http://{host}", host))


def test_behind_a_proxy_with_https(settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert is_own(scope("https://berth.example", "berth.example", x_forwarded_proto="https"))
    assert not is_own(scope("http://berth.example", "berth.example", x_forwarded_proto="https"))
    assert not is_own(scope("https://berth.example", "berth.example"))


def test_others_are_refused_before_anything_is_asked() -> None:
    async def inner(*_: Any) -> None:
        raise AssertionError("asked")

    async def answer() -> dict[str, Any]:
        app = ApplicationCommunicator(OwnPagesOnly(inner), scope("http://evil.example"))
        told: dict[str, Any] = await app.receive_output(5)
        return told

    assert asyncio.run(answer()) == {"type": "websocket.close"}
