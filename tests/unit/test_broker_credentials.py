"""The credential broker: what passes, what is counted, and that the agent never sees the key."""

import asyncio
import base64
import gzip
import json
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest
from asgiref.testing import ApplicationCommunicator
from hypothesis import given
from hypothesis import strategies as st

from broker import allowlist, authorization, key_filter, providers, views
from broker.models import BrokerUsage
from broker.usage import Meter
from controlplane.asgi import application
from groups.choices import Provider
from groups.models import AgentGroup, AgentProfile, BrokeredKey, SecretReference
from sessions.lifecycle import run_spec, run_tokens, runtime_factory, secrets, transitions
from sessions.machine_api import Request
from sessions.models import AgentSession, Run
from testbed.waiting import wait_for

KEY = "sk-real-key-0815"

# --- routes and headers ---


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", "anthropic/v1/messages", ("/v1/messages", True)),
        ("POST", "anthropic/v1/messages/count_tokens", ("/v1/messages/count_tokens", False)),
        ("GET", "anthropic/v1/models", ("/v1/models", False)),
        ("GET", "anthropic/v1/models/claude-x-1", ("/v1/models/claude-x-1", False)),
        ("POST", "openai/v1/chat/completions", ("/v1/chat/completions", True)),
        ("POST", "openai/v1/responses", ("/v1/responses", True)),
        ("GET", "anthropic/v1/messages", None),
        ("DELETE", "openai/v1/models/mine", None),
        ("GET", "openai/v1/responses/resp_1", None),
        ("GET", "openai/v1/files", None),
        ("POST", "anthropic/v1/messages/batches", None),
        ("POST", "anthropic/v1/organizations/users", None),
        ("POST", "anthropic/v1/../admin", None),
        ("POST", "anthropic//v1/messages", None),
        ("POST", "anthropic/v1/messages/", None),
        ("POST", "anthropic/v1/%6dessages", None),
        ("GET", "anthropic/v1/models/..", None),
        ("GET", "anthropic/v1/models/a/b", None),
        ("GET", "anthropic/v1/models/%2e%2e", None),
        ("GET", "anthropic/v1/models/", None),
        ("POST", "anthropic", None),
        ("POST", "unknown/v1/messages", None),
        ("POST", "", None),
    ],
)
def test_only_addresses_that_answer_are_passed_on(method: str, path: str, wanted: tuple[str, bool] | None) -> None:
    found = providers.route(method, f"/broker/v1/{path}")
    assert (found and (found.path, found.costs)) == wanted


@given(st.text(max_size=40))
def test_no_path_leads_elsewhere(path: str) -> None:
    found = providers.route("GET", f"/broker/v1/anthropic/{path}")
    assert found is None or (found.path.startswith("/v1/models") and ".." not in found.path and "%" not in found.path)


def test_the_agents_own_credentials_and_the_connections_headers_stay_behind() -> None:
    sent = [
        (b"Authorization", b"Bearer stand-in"), (b"X-Api-Key", b"stand-in"), (b"anthropic-version", b"2023-06-01"),
        (b"Cookie", b"a=b"), (b"Connection", b"keep-alive, x-hop"), (b"x-hop", b"1"), (b"Host", b"berth"),
        (b"X-Forwarded-For", b"10.0.0.1"), (b"Accept-Encoding", b"gzip"), (b"OpenAI-Organization", b"another"),
        (b"Helicone-Target-URL", b"https://evil.example"), (b"X-HTTP-Method-Override", b"GET"),
        (b"x-app", b"cli"), (b"Anthropic-Unknown", b"1"), (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5"),
    ]  # fmt: skip
    passed = [
        ("anthropic-version", "2023-06-01"),
        ("x-app", "cli"),
        ("accept-encoding", "identity"),
    ]
    assert providers.request_headers(sent, "x-api-key", KEY) == [*passed, ("x-api-key", KEY)]
    widened = providers.request_headers(sent, "x-api-key", KEY, frozenset({"anthropic-unknown", "cookie"}))
    assert ("Anthropic-Unknown", "1") in widened and "Cookie" not in dict(widened)
    assert providers.request_headers(sent, "authorization", KEY) == [*passed, ("authorization", f"Bearer {KEY}")]
    back = [("Content-Type", "text/event-stream"), ("Set-Cookie", "a"), ("request-id", "r"), ("Connection", "x-y"),
            ("X-Y", "1"), ("anthropic-organization-id", "org"), ("Content-Length", "5"),
            ("Content-Encoding", "gzip")]  # fmt: skip
    assert providers.response_headers(back) == [(b"content-type", b"text/event-stream"), (b"request-id", b"r")]


# --- counting ---

ANTHROPIC = [
    {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1}},
    },
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 400}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 123}},
]
CHAT = [
    {"choices": [{"delta": {"content": "x" * 40}}], "usage": None},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}},
]
RESPONSES = [
    {"type": "response.output_text.delta", "delta": "x" * 40},
    {"type": "response.completed", "response": {"usage": {"input_tokens": 5, "output_tokens": 6}}},
]


def stream(events: list[dict[str, Any]]) -> bytes:
    return b"".join(f"event: any\r\ndata: {json.dumps(each)}\r\n\r\n".encode() for each in events) + b"data: [DONE]\n\n"


def count(kind: str, body: bytes, cuts: list[int] | None = None, asked: int = 400) -> tuple[int, int]:
    meter, last = Meter(kind, asked), 0
    for cut in [*sorted({min(each, len(body)) for each in cuts or []}), len(body)]:
        meter.feed(body[last:cut])
        last = cut
    return meter.total()


@pytest.mark.parametrize(("events", "wanted"), [(ANTHROPIC, (100, 123)), (CHAT, (7, 11)), (RESPONSES, (5, 6))])
def test_a_streams_tokens_are_counted(events: list[dict[str, Any]], wanted: tuple[int, int]) -> None:
    assert count("text/event-stream; charset=utf-8", stream(events)) == wanted


@given(st.sampled_from([ANTHROPIC, CHAT, RESPONSES]), st.lists(st.integers(0, 1200), max_size=20))
def test_no_cut_of_a_stream_changes_the_count(events: list[dict[str, Any]], cuts: list[int]) -> None:
    assert count("text/event-stream", stream(events), cuts) == count("text/event-stream", stream(events))


def test_hanging_up_saves_nothing() -> None:
    assert count("text/event-stream", stream(ANTHROPIC[:2])) == (100, 100)  # 400 characters, 4 a token
    assert count("text/event-stream", stream(CHAT[:1])) == (100, 10)  # 400 bytes were asked


def test_a_whole_answer_is_counted_and_one_that_tells_nothing_by_its_length() -> None:
    whole = json.dumps({"type": "message", "usage": {"input_tokens": 3, "output_tokens": 4}}).encode()
    assert count("application/json", whole) == count("application/json", whole, [1, 5]) == (3, 4)
    assert count("application/json", b"x" * 80) == (100, 20)
    assert count("application/json", b'{"usage": ' + b"[" * 100_000)[0] == 100  # deeper than anybody reads
    large = json.dumps({"usage": {"input_tokens": 10**30, "output_tokens": 1}}).encode()
    assert count("application/json", large) == (1_000_000_000, 1)
    lies = json.dumps({"usage": {"input_tokens": -5, "output_tokens": True}}).encode()
    assert count("application/json", lies)[0] == 100


def test_what_a_model_thought_unseen_is_counted() -> None:
    """Reasoning that is in the total alone, compaction in `iterations` alone, and time, where nothing is told."""
    total = json.dumps({"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 515}}).encode()
    assert count("application/json", total) == (10, 505)
    steps = [
        {"type": "compaction", "input_tokens": 180, "output_tokens": 35},
        {"input_tokens": 23, "output_tokens": 10},
    ]
    usage = {"input_tokens": 23, "output_tokens": 10, "iterations": steps}
    assert count("application/json", json.dumps({"usage": usage}).encode()) == (203, 45)
    for most, wanted in ((0, 3000), (1024, 1024)):
        meter = Meter("text/event-stream", 400, most)
        meter.feed(stream(ANTHROPIC[:2]))
        assert meter.total(seconds=30.0) == (100, wanted)
    told = Meter("text/event-stream", 400)
    told.feed(stream(ANTHROPIC))
    assert told.total(seconds=30.0) == (100, 123)


@given(st.binary(max_size=300), st.sampled_from(["text/event-stream", "application/json", ""]))
def test_nothing_that_a_provider_sends_breaks_the_count(body: bytes, kind: str) -> None:
    tokens_in, tokens_out = count(kind, b"data: " + body + b"\n")
    assert tokens_in >= 0 and tokens_out >= 0


# --- the door ---


class Provided:
    """A provider on this machine: notes what it is asked, and answers with pieces."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status, self.headers = 200, {"content-type": "application/json"}
        self.pieces: list[bytes] = [json.dumps({"usage": {"input_tokens": 3, "output_tokens": 4}}).encode()]
        self.hold = threading.Event()  # before the last piece
        self.hold.set()
        self.cut = threading.Event()  # the other side hung up
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                told = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append({"path": self.path, "headers": told, "body": body})
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for number, piece in enumerate(outer.pieces, 1):
                    if number == len(outer.pieces):
                        outer.hold.wait(30)
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        outer.cut.set()

            do_GET = do_POST = serve

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def provided() -> Iterator[Provided]:
    provider = Provided()
    yield provider
    provider.hold.set()
    provider.server.shutdown()
    provider.server.server_close()


@pytest.fixture
def key(transactional_db: None, group: AgentGroup, provided: Provided, monkeypatch: pytest.MonkeyPatch) -> BrokeredKey:
    monkeypatch.setenv("BERTH_SECRET_MODEL", f"{KEY}\n")
    runtime_factory.get.cache_clear()
    authorization._cached.clear()
    reference = SecretReference.objects.create(name="model-key", kind="env", place="BERTH_SECRET_MODEL")
    reference.groups.add(group)
    return BrokeredKey.objects.create(provider="anthropic", group=group, reference=reference, base_url=provided.url)


@pytest.fixture
def run(session: AgentSession, key: BrokeredKey) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


class Talk:
    """One request, and its answer as it comes."""

    def __init__(
        self, token: str, path: str = "anthropic/v1/messages", body: bytes = b"{}", method: str = "POST", beta: str = ""
    ) -> None:
        sent = [(b"x-api-key", token.encode()), (b"content-length", str(len(body)).encode())]
        sent += [(b"Anthropic-Beta", beta.encode())] if beta else []
        path, _, query = f"/broker/v1/{path}".partition("?")
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": sent}
        self.body = body
        self.app = ApplicationCommunicator(application, scope)

    async def start(self) -> dict[str, Any]:
        await self.app.send_input({"type": "http.request", "body": self.body})
        told: dict[str, Any] = await self.app.receive_output(20)
        return told

    async def piece(self) -> bytes | None:
        """The next piece of the body; None after the last one."""
        told = await self.app.receive_output(20)
        piece: bytes = told["body"]
        return piece if told.get("more_body") or piece else None

    async def whole(self) -> tuple[int, dict[bytes, bytes], bytes]:
        try:
            start, body = await self.start(), b""
            while start["headers"] is not None:
                told = await self.app.receive_output(20)
                body += told["body"]
                if not told.get("more_body"):
                    break
            await self.app.wait(20)
            return start["status"], dict(start["headers"]), body
        finally:
            await hang_up()


async def hang_up() -> None:
    """Close the client of this loop, which ends with the test."""
    if client := views._clients.pop(asyncio.get_running_loop(), None):
        await client.close()


def ask(run: Run | None, path: str = "anthropic/v1/messages", **more: Any) -> tuple[int, dict[bytes, bytes], Any]:
    token = more.pop("token", run_tokens.mint_broker(run.pk) if run else "")

    async def talk() -> tuple[int, dict[bytes, bytes], bytes]:
        return await Talk(token, path, **more).whole()

    status, headers, body = asyncio.run(talk())
    assert KEY.encode() not in body and KEY not in str(headers)
    return status, headers, json.loads(body or b"{}")


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def used(group: AgentGroup) -> tuple[int, int, int]:
    row = BrokerUsage.objects.get(group=group)
    return row.requests, row.input_tokens, row.output_tokens


def test_the_key_takes_the_stand_ins_place(run: Run, provided: Provided, group: AgentGroup) -> None:
    status, _, told = ask(run, "anthropic/v1/messages?beta=true", body=b'{"model": "m"}')
    assert status == 200 and told == {"usage": {"input_tokens": 3, "output_tokens": 4}}
    (asked,) = provided.asked
    assert (asked["path"], json.loads(asked["body"])) == ("/v1/messages?beta=true", {"model": "m"})
    assert asked["headers"]["content-type"] == "application/json"
    assert asked["headers"]["x-api-key"] == KEY and run_tokens.mint_broker(run.pk) not in str(asked)
    assert used(group) == (1, 3, 4)


@pytest.mark.parametrize("which", ["", "nonsense", "courier", "egress", "other"])
def test_only_a_runs_own_stand_in_opens_it(run: Run, provided: Provided, which: str) -> None:
    made = run_tokens.mint_broker(run.pk)
    wrong = {
        "courier": run_tokens.mint(run.pk),
        "egress": f"{run.pk}.{run_tokens.mint_egress(run.pk)}",
        "other": f"{made[:-1]}x",
    }
    status, _, told = ask(run, token=wrong.get(which, which))
    assert status == 401 and told["error"]["type"] == "authentication_error" and not provided.asked


def test_a_stand_in_opens_no_couriers_door(run: Run) -> None:
    assert run_tokens.run_of(run_tokens.mint_broker(run.pk)) is None


def test_it_dies_with_its_run(run: Run, provided: Provided) -> None:
    Run.objects.update(state="ended", ended_at=datetime.now(UTC))
    status, _, told = ask(run)
    assert status == 401 and "is over" in told["error"]["message"] and not provided.asked


@pytest.mark.parametrize("change", ["inactive", "revoked", "other group", "openai"])
def test_without_a_key_that_is_meant_for_it_nothing_passes(
    run: Run, key: BrokeredKey, provided: Provided, change: str
) -> None:
    path = "anthropic/v1/messages"
    match change:
        case "inactive":
            BrokeredKey.objects.update(active=False)
        case "revoked":
            key.reference.groups.clear()
        case "other group":
            BrokeredKey.objects.update(group=AgentGroup.objects.create(slug="other"))
        case "openai":
            path = "openai/v1/chat/completions"
    status, _, told = ask(run, path)
    assert status == 403 and "Ask an operator" in told["error"]["message"] and not provided.asked


def test_addresses_beside_the_list_are_not_passed_on(run: Run, provided: Provided) -> None:
    assert ask(run, "anthropic/v1/files")[0] == 404 and not provided.asked


def test_a_body_is_limited_and_has_its_length(run: Run, provided: Provided, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BODY_MAX", 10)
    assert ask(run, body=b"x" * 11)[0] == 413 and not provided.asked
    scope = {"method": "POST", "path": "/", "headers": [(b"transfer-encoding", b"chunked")]}
    chunked = Request(scope, ApplicationCommunicator(application, scope).receive_output)
    with pytest.raises(authorization.BrokerError) as refused:
        views._body_size(chunked)
    assert refused.value.status == 411


@pytest.mark.parametrize(
    ("limits", "passed"),
    [({"broker_requests": 2}, 2), ({"broker_tokens": 10}, 2), ({"broker_requests": 0}, 0), ({}, 4)],
)
def test_a_days_budget_ends(
    run: Run, group: AgentGroup, provided: Provided, limits: dict[str, int], passed: int
) -> None:
    AgentGroup.objects.update(**limits)
    answers = [ask(run) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200] * passed + [429] * (4 - passed)
    assert len(provided.asked) == passed and used(group)[0] == passed
    if passed < 4:
        _, headers, told = answers[-1]
        assert "is used up" in told["error"]["message"] and "midnight UTC" in told["error"]["message"]
        assert headers[b"x-should-retry"] == b"false" and 0 < int(headers[b"retry-after"]) <= 24 * 3600 + 1
        BrokerUsage.objects.update(day="2020-01-01")
        assert ask(run)[0] == (200 if passed else 429)


def test_budgets_are_renewed_at_midnight() -> None:
    assert authorization.until_midnight(datetime(2026, 1, 31, 23, 59, 0, tzinfo=UTC)) == 61


@pytest.mark.parametrize(
    ("status", "shown", "words"),
    [(401, 502, "refused Berth's key"), (302, 502, "redirects"), (529, 529, ""), (400, 400, ""), (404, 404, "")],
)
def test_a_providers_refusal_shows_nothing_of_the_key(
    run: Run, group: AgentGroup, provided: Provided, status: int, shown: int, words: str
) -> None:
    provided.status, provided.headers = status, {"location": "http://127.0.0.1:1/", "x-should-retry": "true"}
    provided.pieces = [b'{"error": {"message": "sk-re***0815"}}']
    answer, _, told = ask(run)
    assert answer == shown and words in told["error"]["message"]
    assert "0815" not in str(told)
    assert used(group) == (1, 0, 0) and len(provided.asked) == 1


def test_a_provider_that_is_away_is_said_to_be(run: Run, provided: Provided) -> None:
    BrokeredKey.objects.update(base_url="http://127.0.0.1:1")
    status, headers, told = ask(run)
    assert status == 502 and headers[b"x-should-retry"] == b"true" and "did not answer" in told["error"]["message"]


def test_a_key_that_cannot_be_read_is_for_operators(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTH_SECRET_MODEL")
    status, _, told = ask(run)
    assert status == 502 and "Tell an operator" in told["error"]["message"] and "BERTH_SECRET" not in str(told)


def test_a_stream_passes_piece_by_piece_and_unchanged(run: Run, provided: Provided, group: AgentGroup) -> None:
    provided.headers = {"content-type": "text/event-stream"}
    provided.pieces = [stream(ANTHROPIC[:1]), stream(ANTHROPIC[1:])]
    provided.hold.clear()

    async def talk() -> bytes:
        one = Talk(run_tokens.mint_broker(run.pk))
        try:
            start = await one.start()
            assert (start["status"], dict(start["headers"])[b"content-type"]) == (200, b"text/event-stream")
            first = await one.piece()
            assert first == provided.pieces[0]  # it is here although the provider has more to say
            provided.hold.set()
            rest = b""
            while piece := await one.piece():
                rest += piece
            await one.app.wait(20)
            return first + rest
        finally:
            await hang_up()

    assert asyncio.run(talk()) == b"".join(provided.pieces)
    assert used(group) == (1, 100, 123)


def test_an_agent_that_hangs_up_ends_the_providers_work_and_pays_for_it(
    run: Run, provided: Provided, group: AgentGroup
) -> None:
    provided.headers = {"content-type": "text/event-stream"}
    provided.pieces = [stream(ANTHROPIC[:2]), *[b": ping\n\n" * 1000] * 200]

    async def talk() -> None:
        one = Talk(run_tokens.mint_broker(run.pk), body=b'{"max_tokens": 100}')
        await one.start()
        await one.piece()
        await one.app.send_input({"type": "http.disconnect"})
        await one.app.wait(20)
        await hang_up()

    provided.hold.clear()
    asyncio.run(talk())
    provided.hold.set()
    assert used(group) == (1, 100, 100)
    assert not views._in_flight


def test_a_run_asks_a_few_things_at_a_time(run: Run, provided: Provided, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "AT_A_TIME", 1)
    provided.hold.clear()

    async def talk() -> tuple[int, int]:
        first, second = Talk(run_tokens.mint_broker(run.pk)), Talk(run_tokens.mint_broker(run.pk))
        begun = await first.start()
        refused = await second.start()
        provided.hold.set()
        while await first.piece():
            continue
        await first.app.wait(20)
        await hang_up()
        return begun["status"], refused["status"]

    assert asyncio.run(talk()) == (200, 429)
    assert ask(run)[0] == 200


def test_a_request_without_an_end_of_the_run_is_counted_once(run: Run, group: AgentGroup, provided: Provided) -> None:
    for _ in range(3):
        ask(run, "anthropic/v1/models", method="GET", body=b"")
    assert used(group) == (3, 0, 0)  # it costs no tokens


# --- what may be asked for ---


@pytest.mark.parametrize(
    ("path", "asked", "missing"),
    [
        (
            "anthropic/v1/messages",
            {"mcp_servers": [{"type": "url", "url": "https://evil.example"}]},
            "field:mcp_servers",
        ),
        ("anthropic/v1/messages", {"tools": [{"type": "web_fetch_20250910", "name": "w"}]}, "tool:web_fetch_20250910"),
        ("anthropic/v1/messages?to=https://evil.example", {}, "parameter:to"),
        ("anthropic/v1/messages/count_tokens", {"container": "c"}, "field:container"),
        ("openai/v1/responses", {"tools": [{"type": "mcp", "server_url": "https://evil.example"}]}, "key:server_url"),
        ("openai/v1/responses", {"previous_response_id": "resp_1"}, "field:previous_response_id"),
    ],
)
def test_what_the_provider_would_fetch_is_refused_with_the_entry_that_allows_it(
    run: Run, provided: Provided, group: AgentGroup, path: str, asked: dict[str, Any], missing: str
) -> None:
    status, _, told = ask(run, path, body=json.dumps(asked).encode())
    assert status == 400 and told["type"] == "error" and told["error"]["type"] == "invalid_request_error"
    assert missing in told["error"]["message"] and "ask an operator to add it to BROKER_ALLOWED" in str(told)
    assert not provided.asked and not BrokerUsage.objects.exists()


def test_a_beta_is_refused_unless_it_is_listed(run: Run, provided: Provided, settings: Any) -> None:
    known, unknown = "claude-code-20250219,effort-2025-11-24", "mcp-client-2025-11-20"
    assert ask(run, beta=known)[0] == 200 and provided.asked[-1]["headers"]["anthropic-beta"] == known
    status, _, told = ask(run, beta=f"{known}, {unknown}")
    assert status == 400 and f"beta:{unknown}." in told["error"]["message"] and len(provided.asked) == 1
    settings.BROKER_ALLOWED = ["beta:mcp-client-*"]
    assert ask(run, beta=unknown)[0] == 200


def test_operators_let_more_pass(run: Run, provided: Provided, settings: Any) -> None:
    asked = {
        "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a"}}]}]
    }
    data = json.dumps(asked).encode()
    status, _, told = ask(run, body=data)
    assert status == 400 and "key:url, type:url." in told["error"]["message"]
    settings.BROKER_ALLOWED = ["key:url", "type:url"]
    assert ask(run, body=data)[0] == 200 and json.loads(provided.asked[-1]["body"]) == asked


def test_what_was_looked_at_is_what_is_sent(run: Run, provided: Provided) -> None:
    """Not another value of a name, nor another encoding, which the provider may read in its own way."""
    assert ask(run, body=b'{"system": [{"type": "url"}], "system": "\\ud83d"}')[0] == 200
    assert json.loads(provided.asked[-1]["body"]) == {"system": "\ud83d"}
    for bad in (
        b"[]",
        b'{"a": ',
        '{"system": "x"}'.encode("utf-16"),
        b'{"top_p": 1e999}',
        b"[" * 100_000,
        b'{"top_k": NaN}',
    ):
        status, _, told = ask(run, body=bad)
        assert status == 400 and told["error"]["message"].startswith("The body ")
    monkey = b'{"stop_sequences": [' + b"[]," * (allowlist.ITEMS_MAX // 2) + b"0]}"
    assert "too many items" in ask(run, body=monkey)[2]["error"]["message"]
    assert len(provided.asked) == 1


def test_bodies_are_held_up_to_a_limit(run: Run, provided: Provided, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BODIES_OF_RUN", 10)
    status, headers, _ = ask(run, body=b'{"system": ""}')
    assert status == 429 and headers[b"retry-after"] == b"1" and not provided.asked
    assert ask(run)[0] == 200 and not views._body_bytes


# --- the key in answers ---


@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_no_answer_repeats_the_key(run: Run, provided: Provided, status: int) -> None:
    provided.status = status
    forms = [KEY, quote(KEY, safe=""), base64.b64encode(f"u:{KEY}".encode()).decode(), KEY.encode().hex()]
    provided.headers = {"content-type": "application/json", "x-echo": f"Bearer {KEY}"}
    body = json.dumps({"error": {"message": forms}}).encode()
    provided.pieces = [body[at : at + 3] for at in range(0, len(body), 3)]
    shown, headers, told = ask(run)
    assert shown == status and headers[b"x-echo"] == b"Bearer [redacted:key]"
    assert [form for form in forms if form in str(told)] == [] and str(told).count("[redacted:key]") == len(forms)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_that_comes_compressed_is_counted_and_cleaned(
    run: Run, provided: Provided, group: AgentGroup, encoding: str
) -> None:
    body = json.dumps({"text": KEY, "usage": {"input_tokens": 30, "output_tokens": 100_000}}).encode()
    provided.headers = {"content-type": "application/json", "content-encoding": encoding}
    provided.pieces = [gzip.compress(body) if encoding == "gzip" else zlib.compress(body)]
    status, headers, told = ask(run)
    assert status == 200 and told["text"] == "[redacted:key]" and b"content-encoding" not in headers
    assert used(group) == (1, 30, 100_000)


def test_one_that_cannot_be_read_is_refused(run: Run, provided: Provided) -> None:
    provided.headers = {"content-type": "application/json", "content-encoding": "compress"}
    status, _, told = ask(run)
    assert status == 502 and "can't read" in told["error"]["message"]


FORMS = key_filter.key_forms(KEY)
KEY_FORMS = sorted(FORMS.exact.strings)


@given(
    st.lists(st.one_of(st.sampled_from(KEY_FORMS).map(lambda form: form[0]), st.binary(max_size=20)), max_size=6),
    st.lists(st.integers(0, 400), max_size=30),
)
def test_no_cut_of_an_answer_lets_the_key_through(parts: list[bytes], cuts: list[int]) -> None:
    text, cleaner, out, last = b"".join(parts), key_filter.KeyFilter(FORMS), b"", 0
    for cut in [*sorted({min(each, len(text)) for each in cuts}), len(text)]:
        out += cleaner.feed(text[last:cut])
        last = cut
    out += cleaner.end()
    assert not [form for form, _ in KEY_FORMS if form in out]
    if not any(form in text for form, _ in KEY_FORMS) and FORMS.exact.partial_match(text) is None:
        assert out == text


# --- what a run is told ---


def test_a_run_gets_a_stand_in_and_the_brokers_address(run: Run, settings: Any) -> None:
    made = run_spec.build(Run.objects.select_related("session__group", "session__profile").get(pk=run.pk))
    assert made.environment["ANTHROPIC_BASE_URL"] == f"{settings.COURIER_URL}/broker/v1/anthropic"
    (file,) = made.secrets
    assert (file.name, file.value) == ("anthropic-api-key", run_tokens.mint_broker(run.pk))
    assert file.value not in repr(made) and KEY not in str(made)


@pytest.mark.parametrize(
    "own", [{"environment": {"ANTHROPIC_BASE_URL": "http://gateway"}}, {"secrets": {"anthropic-api-key": "ref:own"}}]
)
def test_a_profile_that_brings_its_own_goes_past_the_broker(run: Run, own: dict[str, Any]) -> None:
    AgentProfile.objects.update(**own)
    found = Run.objects.select_related("session__group", "session__profile").get(pk=run.pk)
    assert secrets.brokered(found) == {} and secrets.environment(found) == {}


def test_the_closest_key_is_used(run: Run, key: BrokeredKey, group: AgentGroup, profile: AgentProfile) -> None:
    reference = key.reference
    others = {
        name: BrokeredKey.objects.create(provider="anthropic", reference=reference, **fields)
        for name, fields in {
            "all": {}, "profile": {"profile": profile}, "both": {"group": group, "profile": profile}
        }.items()
    }  # fmt: skip
    for wanted in (others["both"], key, others["profile"], others["all"]):
        assert BrokeredKey.objects.for_run(group, profile) == {Provider.ANTHROPIC: wanted}
        wanted.delete()


def test_nothing_of_a_talk_is_logged(run: Run, caplog: pytest.LogCaptureFixture, provided: Provided) -> None:
    with caplog.at_level("DEBUG"):
        ask(run, body=b'{"system": "very private"}')
        assert ask(run, body=b'{"very private": 1}')[0] == 400
    wait_for(lambda: provided.asked, 10)
    assert "very private" not in caplog.text and KEY not in caplog.text
    assert run_tokens.mint_broker(run.pk) not in caplog.text
