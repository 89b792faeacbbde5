"""The API's live events, as a program reads them over HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from controlplane.asgi import application
from groups.models import ApiToken
from sessions import throttle
from sessions.courier_api import ingest
from sessions.db_executor import STREAM_THREADS, THREADS, in_thread
from sessions.lifecycle import intake
from sessions.models import AgentSession, Event

pytestmark = pytest.mark.django_db(transaction=True)


class Reader:
    """A program that follows a session."""

    def __init__(self, token: str, session: AgentSession, last: int | None = None, client: str = "127.0.0.1") -> None:
        headers = [(b"host", b"localhost"), (b"accept", b"text/event-stream")]
        headers.append((b"authorization", f"Bearer {token}".encode()))
        if last is not None:
            headers.append((b"last-event-id", str(last).encode()))
        scope = {"type": "http", "method": "GET", "path": f"/api/v1/sessions/{session.pk}/events", "query_string": b""}
        self.app = ApplicationCommunicator(application, scope | {"headers": headers, "client": [client, 1]})
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.text = ""

    async def open(self) -> "Reader":
        await self.app.send_input({"type": "http.request", "body": b""})
        start = await self.app.receive_output(10)
        self.status, self.headers = start["status"], dict(start["headers"])
        return self

    async def until(self, words: str) -> None:
        while words not in self.text:
            self.text += (await self.app.receive_output(10))["body"].decode()

    async def close(self) -> None:
        await self.app.send_input({"type": "http.disconnect"})
        await self.app.wait(10)


def play(scene: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(scene(), 30))


def test_a_stream_reads_what_is_there_and_what_comes(session: AgentSession, people: dict[str, Any]) -> None:
    token = ApiToken.issue(people["viewer"])

    async def scene() -> str:
        reader = await Reader(token, session).open()
        await reader.until("id: 1\n")
        await in_thread(ingest.record, session.pk, [("state", "more", {})])
        await reader.until("id: 2\nevent: state\n")
        await reader.close()
        return reader.text

    assert "event: removed" not in play(scene)


def test_a_stream_starts_at_the_oldest_event_that_is_there(session: AgentSession, people: dict[str, Any]) -> None:
    token = ApiToken.issue(people["viewer"])
    ingest.record(session.pk, [("state", f"line {i}", {}) for i in range(4)])
    Event.objects.filter(session=session, seq__lte=3).delete()
    AgentSession.objects.filter(pk=session.pk).update(pruned_seq=3)

    async def scene(last: int) -> str:
        reader = await Reader(token, session, last).open()
        await reader.until("id: 5\n")
        await reader.close()
        return reader.text

    told = {"through": 3, "text": "Events 1 to 3 were removed after their retention."}
    words = f"id: 3\nevent: removed\ndata: {json.dumps(told)}\n\nid: 4\n"
    assert words in play(lambda: scene(1))
    assert "event: removed" not in play(lambda: scene(3))


def test_one_stream_too_many_is_refused_and_taken_when_another_one_ended(
    session: AgentSession, people: dict[str, Any], settings: Any
) -> None:
    settings.STREAMS_PER_PERSON = 2
    viewer, member = ApiToken.issue(people["viewer"]), ApiToken.issue(people["member"])

    async def scene() -> list[int]:
        open_ones = [await Reader(viewer, session).open() for _ in range(2)]
        for reader in open_ones:
            await reader.until("id: 1\n")
        refused = await Reader(viewer, session, client="203.0.113.9").open()
        assert refused.headers[b"Retry-After"] == b"30"
        assert refused.headers[b"Content-Type"] == b"application/problem+json"
        await refused.until("2 streams of yours are open")
        other = await Reader(member, session).open()
        await other.until("id: 1\n")
        await open_ones[0].close()
        again = await Reader(viewer, session).open()
        await again.until("id: 1\n")
        for reader in (open_ones[1], other, again):
            await reader.close()
        return [refused.status, other.status, again.status]

    assert play(scene) == [429, 200, 200]


def test_a_stream_that_was_never_begun_counts_for_a_while_only(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STREAMS_PER_PERSON = 1
    streams = throttle.Streams()
    late = streams.admit(1, "127.0.0.1")
    with pytest.raises(throttle.Throttled):
        streams.admit(1, "127.0.0.1")
    with monkeypatch.context() as patch:
        patch.setattr(throttle, "BEGIN_SECONDS", -1.0)
        streams.admit(2, "127.0.0.1")
    with streams.admit(2, "127.0.0.1"), late, pytest.raises(throttle.Throttled):
        streams.admit(1, "127.0.0.1")
    with streams.admit(1, "127.0.0.1"):
        pass


def test_a_stream_ends_with_its_token(session: AgentSession, people: dict[str, Any]) -> None:
    token = ApiToken.issue(people["viewer"])

    async def scene() -> bool:
        reader = await Reader(token, session).open()
        await reader.until("id: 1\n")
        await in_thread(ApiToken.objects.all().delete)
        await in_thread(ingest.record, session.pk, [("state", "secret", {})])
        await reader.app.wait(10)
        return "secret" in reader.text

    assert play(scene) is False


def test_streams_keep_no_connection_that_others_need(
    session: AgentSession, people: dict[str, Any], settings: Any
) -> None:
    token = ApiToken.issue(people["viewer"])
    count = settings.STREAMS_PER_PERSON = settings.DATABASE_POOL + THREADS + STREAM_THREADS

    async def scene() -> int:
        readers = [await Reader(token, session).open() for _ in range(count)]
        for reader in readers:
            await reader.until("id: 1\n")
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/api/v1/groups", "query_string": b"", "headers": headers}
        other = ApplicationCommunicator(application, scope | {"client": ["127.0.0.1", 1]})
        await other.send_input({"type": "http.request", "body": b""})
        status = (await other.receive_output(25))["status"]
        for reader in readers:
            await reader.close()
        return int(status)

    assert play(scene) == 200


def test_a_reader_whose_turn_is_taken_holds_nobody_else_up(session: AgentSession, people: dict[str, Any]) -> None:
    busy, other = (ApiToken.issue(people[name]) for name in ("viewer", "member"))
    elsewhere = intake.open_session(
        group=session.group, profile=session.profile, text="elsewhere", sender=people["member"]
    )

    async def scene() -> None:
        async with throttle.concurrency.limit(("stream", busy), 1):
            waiting = await Reader(busy, session).open()
            reading = await Reader(other, elsewhere).open()
            await reading.until("id: 1\n")
            await waiting.until("retry: 1000")
            assert await waiting.app.receive_nothing()
        await waiting.until("id: 1\n")
        await reading.close()
        await waiting.close()

    play(scene)
