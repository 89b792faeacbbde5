"""The websocket: what is after the cursor, to whom may see it, at a rate they can take."""

import asyncio
import itertools
import json
import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.sessions.backends.cache import SessionStore

from sessions.courier_api import ingest
from sessions.db_executor import STREAMS, SingleFlight, in_thread, on
from sessions.events import notify
from sessions.models import AgentSession, Event
from sessions.stream import consumers
from sessions.stream.consumers import SessionConsumer

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
        self.removed = 0

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
        self.removed = max(self.removed, told["removed"])
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


def prune(session: AgentSession, through: int) -> None:
    """As retention does it."""
    Event.objects.filter(session=session, seq__lte=through).delete()
    AgentSession.objects.filter(pk=session.pk).update(pruned_seq=through)


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
    monkeypatch.setattr(consumers, "RECHECK_LOGIN_SECONDS", 0.0)

    async def scene(end: Callable[[Page], Any]) -> int:
        page = Page(people["viewer"], session.pk)
        await page.socket.connect()
        await page.until(1)
        await in_thread(end, page)
        await in_thread(say, session, 1)
        await notify.apublish(session.pk, notify.EVENTS)
        while await page.read():
            pass
        return page.closed

    def log_out(page: Page) -> None:
        page.socket.scope["session"].flush()

    def change_password(_: Page) -> None:
        people["viewer"].set_password("another")
        people["viewer"].save()

    assert play(lambda: scene(log_out)) == consumers.NOT_YOURS
    assert play(lambda: scene(change_password)) == consumers.NOT_YOURS


def test_a_person_with_too_many_pages_is_told_when_to_come_again(
    session: AgentSession, people: dict[str, Any], settings: Any
) -> None:
    settings.STREAMS_PER_PERSON = 2

    async def scene() -> tuple[int, str, list[int]]:
        pages = [Page(people["viewer"], session.pk) for _ in range(3)]
        for page in pages[:2]:
            await page.socket.connect()
            await page.until(1)
        await pages[2].socket.connect()
        refused = await pages[2].socket.receive_output(5)
        other = Page(people["member"], session.pk)
        await other.socket.connect()
        await other.until(1)
        await pages[0].socket.disconnect()
        again = Page(people["viewer"], session.pk)
        await again.socket.connect()
        await again.until(1)
        for page in (pages[1], other, again):
            await page.socket.disconnect()
        return refused["code"], refused["reason"], again.seqs

    code, reason, seqs = play(scene)
    assert code == 4429 and "2 streams of yours are open" in reason and len(reason.encode()) <= 123
    assert seqs == [1]


def test_an_address_has_so_many_pages_whoever_opens_them(
    session: AgentSession, people: dict[str, Any], settings: Any
) -> None:
    settings.STREAMS_PER_ADDRESS = 1

    async def scene() -> list[int]:
        codes = []
        first = Page(people["viewer"], session.pk)
        first.socket.scope["client"] = ["2001:db8::1", 1]
        await first.socket.connect()
        await first.until(1)
        for address in ("2001:db8::ffff", "2001:db8:0:1::1"):
            page = Page(people["member"], session.pk)
            page.socket.scope["client"] = [address, 1]
            await page.socket.connect()
            await page.read()
            codes.append(page.closed)
            await page.socket.disconnect()
        await first.socket.disconnect()
        return codes

    assert play(scene) == [4429, 0]


def test_nobody_waits_behind_what_streams_ask(session: AgentSession, people: dict[str, Any]) -> None:
    """All threads of streams are held up, and more streams wait for one: a courier is answered all the same."""
    release = threading.Event()

    async def scene() -> int:
        held = [asyncio.ensure_future(on(STREAMS, release.wait)) for _ in range(50)]
        page = Page(people["viewer"], session.pk)
        await page.socket.connect()
        try:
            count = await in_thread(AgentSession.objects.count)
            assert await page.socket.receive_nothing(0.05)
        finally:
            release.set()
        await asyncio.gather(*held)
        await page.until(1)
        await page.socket.disconnect()
        return count

    assert play(scene) == 1


def test_what_other_processes_write_is_found_by_one_question_for_all(
    session: AgentSession, people: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> list[list[int]]:
        pages = [Page(people[name], session.pk) for name in ("viewer", "member", "owner")]
        for page in pages:
            await page.socket.connect()
            await page.until(1)
        monkeypatch.setattr(notify, "publish", lambda *_: None)  # as if it was written elsewhere
        await in_thread(say, session, 2)
        for page in pages:
            await page.until(3)
            await page.socket.disconnect()
        return [page.seqs for page in pages]

    assert play(scene) == [[1, 2, 3]] * 3


@pytest.mark.parametrize(("after", "expected"), [(0, [8, 9, 10]), (3, [8, 9, 10]), (7, [8, 9, 10]), (8, [9, 10])])
def test_a_page_starts_at_the_oldest_event_that_is_there(
    session: AgentSession, people: dict[str, Any], after: int, expected: list[int]
) -> None:
    say(session, 9)
    prune(session, 7)

    async def scene() -> Page:
        page = Page(people["owner"], session.pk, after=after)
        await page.socket.connect()
        await page.until(10)
        await page.socket.disconnect()
        return page

    page = play(scene)
    assert page.seqs == expected
    assert page.removed == (7 if after < 7 else 0)


def test_a_page_whose_events_are_all_gone_says_so_and_lives_on(session: AgentSession, people: dict[str, Any]) -> None:
    say(session, 4)
    prune(session, 5)

    async def scene() -> Page:
        page = Page(people["owner"], session.pk)
        await page.socket.connect()
        await page.read()
        assert page.removed == 5
        await in_thread(say, session, 1)
        await page.until(6)
        await page.socket.disconnect()
        return page

    assert play(scene).seqs == [6]


def test_who_asks_during_an_answer_gets_a_later_one() -> None:
    """An answer that was begun before the question may be older than what is asked for."""

    async def scene() -> list[int]:
        flights, answers, gate = SingleFlight(), itertools.count(1), asyncio.Event()

        async def work() -> int:
            number = next(answers)
            await gate.wait()
            return number

        first = [asyncio.ensure_future(flights.share("key", work)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        later = [asyncio.ensure_future(flights.share("key", work)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.set()
        return list(await asyncio.gather(*first, *later))

    assert play(scene) == [1, 1, 1, 2, 2, 2]
