"""How many requests of one client are worked on at a time, and who waits for whom."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import path

from controlplane.asgi import DjangoApp
from sessions.throttle import ConcurrencyLimiter, credential


class Kept:
    """A view whose requests are worked on until they are let go."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.go = threading.Event()
        self.news = threading.Condition()

    def view(self, request: HttpRequest, name: str) -> HttpResponse:
        with self.news:
            self.entered.append(name)
            self.news.notify_all()
        self.go.wait(20)
        return HttpResponse(name)

    async def until(self, *names: str) -> None:
        def there() -> bool:
            with self.news:
                return self.news.wait_for(lambda: set(names) <= set(self.entered), 20)

        assert await asyncio.to_thread(there), f"{names} of {self.entered}"


kept = Kept()
urlpatterns = [path("<name>", lambda request, name: kept.view(request, name))]


@pytest.fixture
def view(settings: Any) -> Kept:
    global kept
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, []
    settings.REQUESTS_AT_ONCE, settings.DATABASE_POOL = 2, 6
    kept = Kept()
    return kept


def ask(pages: DjangoApp, name: str, token: str = "", address: str = "192.0.2.1") -> ApplicationCommunicator:
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())]
    scope = {"type": "http", "method": "GET", "path": f"/{name}", "query_string": b"", "client": [address, 1]}
    return ApplicationCommunicator(pages, scope | {"headers": headers})


async def begin(*requests: ApplicationCommunicator) -> None:
    for each in requests:
        await each.send_input({"type": "http.request", "body": b""})


async def answered(*requests: ApplicationCommunicator) -> list[int]:
    return [(await each.receive_output(20))["status"] for each in requests]


def play(scene: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(scene(), 60))


def test_who_asks_for_much_at_once_waits_and_nobody_else_does(view: Kept) -> None:
    async def scene() -> None:
        pages = DjangoApp()
        greedy = [ask(pages, f"greedy{number}", "one") for number in range(4)]
        others = [ask(pages, "person", "two"), ask(pages, "elsewhere", "one", "192.0.2.2")]
        await begin(*greedy, *others)
        await view.until("greedy0", "greedy1", "person", "elsewhere")
        assert len(view.entered) == 4
        view.go.set()
        assert await answered(*greedy, *others) == [200] * 6

    play(scene)


def test_a_probe_waits_behind_nobody(view: Kept) -> None:
    async def scene() -> None:
        pages = DjangoApp()
        crowd, probe = [ask(pages, f"crowd{number}") for number in range(4)], ask(pages, "healthz")
        await begin(*crowd, probe)
        await view.until("healthz")
        view.go.set()
        assert await answered(*crowd, probe) == [200] * 5

    play(scene)


def test_invented_credentials_get_an_address_no_more_than_half_of_the_connections(view: Kept) -> None:
    async def scene() -> None:
        pages = DjangoApp()
        invented = [ask(pages, f"invented{number}", f"token{number}") for number in range(6)]
        await begin(*invented, other := ask(pages, "other", address="192.0.2.2"))
        await view.until("invented0", "invented1", "invented2", "other")
        assert len(view.entered) == 4
        view.go.set()
        assert await answered(*invented, other) == [200] * 7

    play(scene)


def test_hanging_up_gives_no_further_turn_while_the_thread_works_on(view: Kept) -> None:
    async def scene() -> None:
        pages = DjangoApp()
        gone = [ask(pages, f"gone{number}", "one") for number in range(2)]
        await begin(*gone)
        await view.until("gone0", "gone1")
        for each in gone:
            await each.send_input({"type": "http.disconnect"})
        await begin(waiting := ask(pages, "waiting", "one"), other := ask(pages, "other", "two"))
        await view.until("other")
        assert "waiting" not in view.entered
        view.go.set()
        assert await answered(waiting, other) == [200, 200]

    play(scene)


def test_who_leaves_the_queue_is_forgotten() -> None:
    async def scene() -> None:
        limiter = ConcurrencyLimiter()
        async with limiter.limit("a", 1):
            waiting = asyncio.ensure_future(limiter.limit("a", 1).__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        assert not limiter._queues

    play(scene)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ""),
        ({"HTTP_AUTHORIZATION": "Bearer abc"}, "abc"),
        ({"HTTP_AUTHORIZATION": "bearer  abc", "HTTP_COOKIE": "sessionid=invented"}, "abc"),
        ({"HTTP_COOKIE": "a=b; sessionid=xyz; c=d"}, "xyz"),
    ],
)
def test_a_credential_is_the_same_however_it_is_dressed(headers: dict[str, str], expected: str) -> None:
    assert credential(RequestFactory().get("/", **headers)) == expected  # type: ignore[arg-type]
