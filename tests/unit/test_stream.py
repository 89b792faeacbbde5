"""The websocket: what is after the cursor, to whom may see it, at a rate they can take."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.sessions.backends.cache import SessionStore

from sessions import doorbell, ingest, stream
from sessions.models import AgentSession
from sessions.stream import SessionConsumer
from sessions.threads import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def logins(settings: Any) -> None:
    """Kept where an event loop may look for them."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"


def a_login() -> SessionStore:
    """The session of somebody's browser."""
    store = SessionStore()
    store.create()
    return store


class Page:
    """The other end of the socket."""

    def __init__(self, user: Any, session_id: uuid.UUID, after: int = 0) -> None:
        self.socket = WebsocketCommunicator(SessionConsumer.as_asgi(), f"/ws/?after={after}")
        self.socket.scope |= {"user": user, "session": a_login(), "url_route": {"kwargs": {"session_id": session_id}}}
        self.seqs: list[int] = []
        self.headers: list[dict[str, Any]] = []
        self.closed = 0

    async def read(self, acknowledge: bool = True) -> bool:
        """Take one frame; False if the server closed."""
        frame = await self.socket.receive_output(5)
        if frame["type"] == "websocket.close":
            self.closed = frame["code"]
            return False
        told = json.loads(frame["text"])
        if told["type"] == "session":
            self.headers.append(told["session"])
            return True
        self.seqs += [event["seq"] for event in told["events"]]
        if acknowledge:
            await self.socket.send_to(text_data=json.dumps({"type": "ack", "seq": told["last_seq"]}))
        return True

    async def until(self, seq: int) -> None:
        while not self.seqs or self.seqs[-1] < seq:
            assert await self.read()


def play(scene: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(scene(), 30))


def say(session: AgentSession, count: int) -> None:
    ingest.record(session.pk, [("state", f"line {i}", {}) for i in range(count)])


def test_backlog_then_live(session: AgentSession, people: dict[str, Any]) -> None:
    async def scene() -> Page:
        page = Page(people["viewer"], session.pk)
        await page.socket.connect()
        await page.until(1)
        await in_thread(say, session, 1300)
        await page.until(1301)
        await page.socket.disconnect()
        return page

    page = play(scene)
    assert page.seqs == list(range(1, 1302))
    assert page.headers[0]["state"] == "queued" and page.headers[0]["can_write"] is False


def test_a_page_goes_on_after_its_cursor(session: AgentSession, people: dict[str, Any]) -> None:
    say(session, 9)

    async def scene() -> Page:
        page = Page(people["owner"], session.pk, after=7)
        await page.socket.connect()
        await page.until(10)
        await page.socket.disconnect()
        return page

    assert play(scene).seqs == [8, 9, 10]


def test_a_page_that_acknowledges_nothing_gets_two_pages(session: AgentSession, people: dict[str, Any]) -> None:
    say(session, 2500)

    async def scene() -> tuple[int, int]:
        page = Page(people["owner"], session.pk)
        await page.socket.connect()
        while len(page.seqs) < 1000:
            await page.read(acknowledge=False)
        quiet = await page.socket.receive_nothing(0.6)
        before = len(page.seqs)
        assert quiet
        await page.socket.send_to(text_data=json.dumps({"type": "ack", "seq": 1000}))
        await page.until(2501)
        await page.socket.disconnect()
        return before, len(page.seqs)

    assert play(scene) == (1000, 2501)


def test_who_may_not_see_it_is_told_so_and_gets_nothing(session: AgentSession, people: dict[str, Any]) -> None:
    async def scene() -> Page:
        page = Page(people["outsider"], session.pk)
        await page.socket.connect()
        assert not await page.read()
        return page

    page = play(scene)
    assert (page.closed, page.seqs, page.headers) == (4404, [], [])


def test_who_is_not_logged_in_is_told_to(session: AgentSession) -> None:
    from django.contrib.auth.models import AnonymousUser

    async def scene() -> int:
        page = Page(AnonymousUser(), session.pk)
        await page.socket.connect()
        await page.read()
        return page.closed

    assert play(scene) == 4401


def test_a_role_taken_away_ends_an_open_page(session: AgentSession, people: dict[str, Any]) -> None:
    async def scene() -> Page:
        page = Page(people["viewer"], session.pk)
        await page.socket.connect()
        await page.until(1)
        await in_thread(people["viewer"].memberships.all().delete)
        await in_thread(say, session, 5)
        while await page.read():
            pass
        return page

    page = play(scene)
    assert (page.closed, page.seqs) == (4404, [1])


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "ack", "seq": Infinity}',
        "[" * 50_000,
        " ",
        "{",
        "[]",
        '{"type": "ack"}',
        '{"type": "ack", "seq": "x"}',
        '{"type": "other"}',
    ],
)
def test_nonsense_from_a_page_is_passed_over(session: AgentSession, people: dict[str, Any], text: str) -> None:
    async def scene() -> Page:
        page = Page(people["owner"], session.pk)
        await page.socket.connect()
        await page.socket.send_to(text_data=text)
        await page.until(1)
        await page.socket.disconnect()
        return page

    assert play(scene).seqs == [1]


def test_a_page_ends_with_its_login(
    session: AgentSession, people: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged out of, or with another password, it is told nothing more."""
    monkeypatch.setattr(stream, "LOGIN_EVERY", 0.0)

    async def scene(end: Callable[[Page], Any]) -> int:
        page = Page(people["viewer"], session.pk)
        await page.socket.connect()
        await page.until(1)
        await in_thread(end, page)
        await in_thread(say, session, 1)
        await doorbell.announce(session.pk, doorbell.EVENTS)
        while await page.read():
            pass
        return page.closed

    def log_out(page: Page) -> None:
        page.socket.scope["session"].flush()

    def change_password(_: Page) -> None:
        people["viewer"].set_password("another")
        people["viewer"].save()

    assert play(lambda: scene(log_out)) == stream.NOT_YOURS
    assert play(lambda: scene(change_password)) == stream.NOT_YOURS
