"""Whatever stands in a request to a machines' door, or in a page's frame: no fault of ours comes of it."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import InterfaceError, OperationalError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.asgi import application
from egress_policy import reports
from sessions import machine_api
from sessions.choices import COURIERS
from sessions.courier_api import ingest
from sessions.lifecycle import run_tokens, transitions
from sessions.models import AgentSession, Run
from sessions.stream import consumers
from tests.unit.egress import TOKEN, question

pytestmark = pytest.mark.django_db(transaction=True)
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(st.characters(), max_size=8) | st.sampled_from(["\0", "\ud800", "é\udfff", "stdout", "exit", "turn"])
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**63, float("inf"), float("nan")])
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(sorted(COURIERS))


def like(**right: Any) -> st.SearchStrategy[Any]:
    """An object with some of its values right, others anything, and some missing."""
    fields = {
        name: (st.just(value) if not isinstance(value, st.SearchStrategy) else value) | anything
        for name, value in right.items()
    }
    return st.fixed_dictionaries({}, optional=fields)


event = like(n=1, kind=kinds, at=1.0, text=texts, data=st.dictionaries(texts, anything, max_size=3))
batches = anything | like(events=st.lists(event | anything, max_size=3), run=texts)
use = like(id=texts, run=texts, host=texts, port=443, opened=1.0, ended=2.0, sent=1, received=1, cause=texts)
denial = like(id=texts, run=texts, host=texts, port=443, code=texts, reason=texts, count=1, at=1.0)
told = anything | like(tunnels=st.lists(use | anything, max_size=2), denials=st.lists(denial | anything, max_size=2))


def ask(method: str, path: str, token: str, content: bytes = b"", query: str = "") -> tuple[int, Any]:
    """One request, in full."""

    async def call() -> tuple[int, Any]:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"authorization", f"Bearer {token}".encode())],
        }
        app = ApplicationCommunicator(application, scope)
        await app.send_input({"type": "http.request", "body": content})
        start = await app.receive_output(10)
        return start["status"], json.loads((await app.receive_output(10))["body"])

    return asyncio.run(call())


@pytest.fixture
def run(session: AgentSession, settings: Any) -> Iterator[Run]:
    settings.EGRESS_TOKEN = TOKEN
    settings.DOOR_EVENTS_PER_SECOND = settings.DOOR_KIB_PER_SECOND = 10**6
    found = transitions.claim(session.pk, "local")
    assert found
    yield found


@quick
@given(batches)
def test_any_batch(run: Run, body: Any) -> None:
    status, answer = ask("POST", "/agent/v1/events", run_tokens.mint(run.pk), json.dumps(body).encode())
    assert status in (200, 404, 409, 410, 422), answer


@quick
@given(anything)
def test_any_hello(run: Run, body: Any) -> None:
    assert ask("POST", "/agent/v1/hello", run_tokens.mint(run.pk), json.dumps(body).encode())[0] == 200


@quick
@given(st.data())
def test_any_question_of_a_proxy(run: Run, data: Any) -> None:
    body = data.draw(anything | like(**question(run)))
    assert ask("POST", "/egress/v1/decide", TOKEN, json.dumps(body).encode())[0] in (200, 401, 422)


@quick
@given(told)
def test_any_report_of_a_proxy(run: Run, body: Any) -> None:
    assert ask("POST", "/egress/v1/report", TOKEN, json.dumps(body).encode())[0] in (200, 422)


def test_reports_about_a_run_that_is_there(run: Run) -> None:
    """Its words are stored, so they have to be such as can be."""
    item = {"id": str(run.pk), "run": str(run.pk), "host": "a\0b\ud800", "port": 1, "count": 1, "at": 1, "code": "\0"}
    use = item | {"opened": 1, "sent": 0, "received": 0, "cause": "\ud800"}
    status, answer = ask("POST", "/egress/v1/report", TOKEN, json.dumps({"tunnels": [use], "denials": [item]}).encode())
    assert status == 200, answer


@quick
@given(st.binary(max_size=30))
def test_bytes_that_are_no_json(run: Run, content: bytes) -> None:
    for path, token in (("/agent/v1/events", run_tokens.mint(run.pk)), ("/egress/v1/report", TOKEN)):
        assert ask("POST", path, token, content)[0] in (200, 422)


@quick
@given(
    st.dictionaries(
        st.sampled_from(["after", "limit", "wait", "command"]),
        st.sampled_from(["-1", "1e9", "nan", "inf", "-inf", "9" * 400, "9" * 5000, "1_0", "٣", "%00", "x", ""]),
        min_size=1,
    )
)
def test_any_query(run: Run, query: dict[str, str]) -> None:
    waits = query.get("wait", "") in ("", "1e9", "1_0")
    known = query | {"wait": "0"} if waits else query
    words = "&".join(f"{name}={value}" for name, value in known.items())
    for path, token in (("/agent/v1/inbox", run_tokens.mint(run.pk)), ("/egress/v1/version", TOKEN)):
        assert ask("GET", path, token, query=words)[0] in (200, 422)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_too_deep_and_too_long_is_bad_input(run: Run, content: bytes) -> None:
    for path, token in (("/agent/v1/events", run_tokens.mint(run.pk)), ("/egress/v1/report", TOKEN)):
        status, answer = ask("POST", path, token, content)
        assert status == 422 and len(answer["detail"]) <= 500


def test_what_no_database_holds_is_stored_as_text(run: Run, session: AgentSession) -> None:
    data = '{"a": NaN, "b": [-Infinity, 1e999], "c": "\\u0000\\ud800"}'
    content = '{"events": [{"n": 1, "kind": "tool", "at": 1e999, "data": ' + data + "}]}"
    assert ask("POST", "/agent/v1/events", run_tokens.mint(run.pk), content.encode())[0] == 200
    assert session.events.get(number=1).data == {"a": "NaN", "b": ["-Infinity", "1e999"], "c": "\ufffd\ufffd"}


@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("closed")])
def test_without_a_database_they_are_told_to_come_again(run: Run, monkeypatch: Any, error: Exception) -> None:
    def away(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ingest, "parse", away)
    monkeypatch.setattr(reports, "parse", away)
    for path, token in (("/agent/v1/events", run_tokens.mint(run.pk)), ("/egress/v1/report", TOKEN)):
        assert ask("POST", path, token, b"{}")[0] == 503


def test_the_token_is_looked_at_before_the_body() -> None:
    async def call(path: str) -> int:
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        app = ApplicationCommunicator(application, scope)  # of whose body nothing ever comes
        return int((await app.receive_output(10))["status"])

    assert asyncio.run(call("/agent/v1/events")) == 401
    assert asyncio.run(call("/egress/v1/report")) in (403, 404)
    assert asyncio.run(call("/broker/v1/anthropic/v1/messages")) == 401


def test_a_run_makes_a_few_requests_at_a_time(run: Run) -> None:
    async def call() -> list[int]:
        token = run_tokens.mint(run.pk)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/agent/v1/events",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
        }
        waiting = [ApplicationCommunicator(application, scope) for _ in range(8)]
        for app in waiting:
            await app.send_input({"type": "http.request", "body": b"{", "more_body": True})
        for app in waiting:
            await app.receive_nothing(0.01)
        one_more = ApplicationCommunicator(application, scope)
        refused = (await one_more.receive_output(10))["status"]
        for app in waiting:
            await app.send_input({"type": "http.disconnect"})
            await app.wait(10)
        again = ApplicationCommunicator(application, scope)
        await again.send_input({"type": "http.request", "body": b'{"events": []}'})
        return [refused, (await again.receive_output(10))["status"]]

    assert asyncio.run(call()) == [429, 200]


# --- frames of a page ---


@given(st.one_of(anything, like(type="ack", seq=1)).map(json.dumps) | st.text() | st.none())
def test_any_frame_of_a_page(text: str | None) -> None:
    assert type(consumers.acknowledged(text)) is int


@pytest.mark.parametrize(
    "text",
    ['{"type": "ack", "seq": Infinity}', '{"type": "ack", "seq": 1e999}', '{"type": "ack", "seq": NaN}', "[" * 50_000,
     '{"type": "ack", "seq": true}', '{"type": "ack", "seq": "7"}', '{"type": ["ack"], "seq": 7}', "7", None],
)  # fmt: skip
def test_odd_frames_acknowledge_nothing(text: str | None) -> None:
    assert consumers.acknowledged(text) == 0


def test_a_length_is_what_its_digits_say() -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError

    def length(*headers: tuple[bytes, bytes]) -> int | None:
        return machine_api.Request({"method": "POST", "path": "/", "headers": headers}, receive).content_length

    assert length() == 0
    assert length((b"content-length", b"00012")) == 12
    assert length((b"content-length", b"9" * 5000)) == int("9" * 18)
    assert length((b"content-length", "²".encode("latin-1"))) is None
    assert length((b"content-length", b"3"), (b"transfer-encoding", b"chunked")) is None
