"""Events come in from couriers: once, in order, and with their effects."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courier.bounds import DATA_LIMIT, MAX_DEPTH
from sessions.choices import MessageState, RunState, SessionState
from sessions.courier_api import ingest
from sessions.courier_api.ingest import MissingEvents
from sessions.lifecycle import transitions
from sessions.machine_api import InvalidPayload
from sessions.models import AgentSession, Event, Message, Run


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def batch(*kinds: str, start: int = 1, **fields: Any) -> list[ingest.NewEvent]:
    return ingest.parse([{"n": start + i, "kind": kind, "at": 1e9 + i} | fields for i, kind in enumerate(kinds)])


def said(run: Run) -> list[tuple[int, str]]:
    return list(Event.objects.filter(run=run, number__isnull=False).order_by("seq").values_list("number", "text"))


def test_events_are_numbered_on_within_the_session(run: Run) -> None:
    assert ingest.ingest(run.pk, batch("stdout", "stdout", text="x"))[0] == 2
    assert list(run.session.events.values_list("seq", flat=True)) == [1, 2, 3, 4]


def test_what_was_stored_is_passed_over(run: Run) -> None:
    ingest.ingest(run.pk, batch("stdout", "stdout", text="x"))
    assert ingest.ingest(run.pk, batch("stdout", "stdout", "stdout", text="y"))[0] == 3
    assert said(run) == [(1, "x"), (2, "x"), (3, "y")]
    assert ingest.ingest(run.pk, batch("stdout", text="z"))[0] == 3


def test_a_hole_is_refused_and_stores_nothing(run: Run) -> None:
    with pytest.raises(MissingEvents) as hole:
        ingest.ingest(run.pk, batch("stdout", start=3))
    assert hole.value.stored == 0 and said(run) == []


@pytest.mark.parametrize(
    "item",
    [
        {},
        "text",
        {"n": 0, "kind": "stdout", "at": 1},
        {"n": True, "kind": "stdout", "at": 1},
        {"n": 1, "kind": "message", "at": 1},
        {"n": 1, "kind": "state", "at": 1},
        {"n": 1, "kind": "made-up", "at": 1},
        {"n": 1, "kind": [], "at": 1},
        {"n": 1, "kind": {}, "at": 1},
        {"n": 1, "kind": "stdout", "at": 1, "text": 5},
        {"n": 1, "kind": "stdout", "at": 1, "text": "x" * 300_000},
        {"n": 1, "kind": "stdout", "at": 1, "data": []},
    ],
    ids=lambda item: str(item)[:40],
)
def test_what_is_no_event_of_a_courier_is_refused(item: Any) -> None:
    with pytest.raises(InvalidPayload):
        ingest.parse([item])


@pytest.mark.parametrize("at", [-1, 1e30, 10**400, True, [], {}, float("nan"), "now", None])
def test_an_absurd_clock_does_no_harm(run: Run, at: Any) -> None:
    ingest.ingest(run.pk, ingest.parse([{"n": 1, "kind": "stdout", "at": at, "text": "x"}]))
    assert said(run) == [(1, "x")]


def test_text_and_data_that_a_database_cannot_hold_are_stored_all_the_same(run: Run) -> None:
    item = {
        "n": 1,
        "kind": "tool",
        "at": 1,
        "text": "a\0b\ud83dc",
        "data": {"input": "x\0y", "deep": [{"k\0": "\ud800"}]},
    }
    ingest.ingest(run.pk, ingest.parse([item]))
    event = Event.objects.get(run=run, number=1)
    assert event.text == "a\ufffdb\ufffdc"
    assert event.data == {"input": "x\ufffdy", "deep": [{"k\ufffd": "\ufffd"}]}


def test_a_delivered_message_and_its_turn_move_the_rows(run: Run) -> None:
    session = run.session
    ingest.ingest(run.pk, ingest.parse([{"n": 1, "kind": "delivered", "at": 5, "data": {"number": 1}}]))
    assert Message.objects.get(session=session).state == MessageState.DELIVERED
    ingest.ingest(run.pk, batch("turn", start=2, data={"state": "working"}))
    run.refresh_from_db(), session.refresh_from_db()
    assert (run.state, session.state) == (RunState.WORKING, SessionState.WORKING)
    ingest.ingest(run.pk, batch("turn", start=3, data={"state": "idle"}))
    run.refresh_from_db(), session.refresh_from_db()
    assert (run.state, session.state) == (RunState.WAITING, SessionState.WAITING)
    assert run.waiting_since and Message.objects.get(session=session).state == MessageState.ANSWERED


def test_a_message_of_another_number_is_not_moved_by_a_forged_delivery(run: Run) -> None:
    ingest.ingest(run.pk, batch("delivered", data={"number": "'; drop table"}))
    ingest.ingest(run.pk, batch("delivered", start=2, data={"number": 77}))
    ingest.ingest(run.pk, batch("delivered", "exit", start=3, data={"number": 10**400, "code": 10**400}))
    assert Message.objects.get(session=run.session).state == MessageState.QUEUED


def test_the_first_output_and_the_exit_code_are_noted(run: Run) -> None:
    ingest.ingest(run.pk, batch("turn", data={"state": "working"}))
    run.refresh_from_db()
    assert run.first_output_at is None
    ingest.ingest(run.pk, batch("stdout", "exit", start=2, data={"code": 3}))
    run.refresh_from_db()
    assert run.first_output_at and run.exit_code == 3


def test_the_conversations_id_is_kept_for_the_next_run(run: Run) -> None:
    ingest.ingest(run.pk, batch("session", data={"id": "abc"}))
    run.session.refresh_from_db()
    assert run.session.resume == "abc"


def test_many_events_at_once(run: Run) -> None:
    kinds = ["stdout"] * 1500
    ingest.ingest(run.pk, batch(*kinds, text="é\n", data={"a": [1, {"b": None}]}))
    assert len(said(run)) == 1500
    last = Event.objects.get(run=run, number=1500)
    assert (last.text, last.data) == ("é\n", {"a": [1, {"b": None}]})


def test_keys_of_well_known_kinds_are_taken_out_before_they_are_stored(run: Run) -> None:
    """A courier does so too; one that is not ours might not."""
    key = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2
    key = key[:40]
    data = {"input": {"command": f"curl -H 'Authorization: Bearer {key}'"}, key: [key]}
    ingest.ingest(run.pk, batch("tool", text=f"the key is {key}.", data=data) + batch("stdout", text="plain", start=2))
    first, second = Event.objects.filter(run=run, number__isnull=False).order_by("seq")
    assert first.text == "the key is [redacted:github-token]." and second.text == "plain"
    assert key not in str(first.data) and "curl -H" in str(first.data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text() | st.just("\ud800\0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {"n": values | st.just(1), "kind": values | st.sampled_from(["stdout", "tool", "exit"]), "at": values | st.just(1)},
    optional={"text": values | st.text(), "data": values},
)


@given(st.lists(values | fields, max_size=3) | values)
def test_any_json_is_stored_or_refused(batch: Any) -> None:
    try:
        parsed = ingest.parse(batch)
    except InvalidPayload:
        return
    for event in parsed:
        json.dumps([event.text, event.data], ensure_ascii=False, allow_nan=False).encode()
        assert "\0" not in event.text and "\\u0000" not in json.dumps(event.data)


@pytest.mark.parametrize(
    "data",
    [
        {"output": "x" * 7_000_000},
        {"output": "\0" * 200_000},
        {"rows": [[n] for n in range(50_000)]},
        {"k" * 500_000: 1},
        {"n": float("nan"), "many": 10**400, "far": float("-inf")},
        {"deep": json.loads("[" * 900 + "]" * 900)},
    ],
    ids=["long", "escaped", "many", "long name", "numbers", "deep"],
)
def test_no_event_above_its_bound_is_stored(run: Run, data: dict[str, Any]) -> None:
    """A courier cuts what is too much; one that is not ours might not."""
    ingest.ingest(run.pk, ingest.parse([{"n": 1, "kind": "tool", "at": 1, "text": "é" * 200_000, "data": data}]))
    event = Event.objects.get(run=run, number=1)
    line = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"))
    assert len(line.encode()) <= DATA_LIMIT and len(event.text.encode()) <= ingest.MAX_TEXT
    assert max((line.count(bracket * (MAX_DEPTH + 1)) for bracket in "[{"), default=0) == 0
