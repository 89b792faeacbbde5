"""A run that is lost while its control plane is away: what it had answered is shown, once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.stack import Stack
from testbed.waiting import wait_for
from tests.whole.test_failover import kill_run


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: these tests kill its processes."""
    stack = Stack.embedded(tmp_path_factory.mktemp("lost"), MAX_RUNS="3", MAX_RUNS_PER_GROUP="3")
    try:
        yield stack.up()
    finally:
        stack.down()


def journals(stack: Stack) -> str:
    """All that stands in the couriers' journals."""
    found = Path(stack.env["DATA_DIR"]).rglob("journal-*")
    return "".join(path.read_text(errors="replace") for path in found if path.is_file())


def test_an_answer_in_a_lost_runs_journal_is_shown_and_not_asked_for_again(stack: Stack) -> None:
    session = stack.open("/slow 2 the answer, once")
    wait_for(lambda: any(e["kind"] == "delivered" for e in stack.events(session)), 60, "the message is delivered")
    stack.kill("web")
    wait_for(lambda: '"kind":"result"' in journals(stack), 60, "the answer is in the journal")
    kill_run(session)
    stack.start("web")
    stack.wait_for_web()
    answer = stack.wait_result(session)
    assert answer["text"] == "the answer, once"
    stack.send(session, "and now?")
    stack.wait_result(session, after=answer["seq"])
    stack.wait_state(session, "waiting")
    events = stack.events(session)
    assert [e["data"]["number"] for e in events if e["kind"] == "delivered"] == [1, 2]
    assert len([e for e in events if e["kind"] == "result"]) == 2
    assert len({e["run"] for e in events if e["kind"] == "result"}) == 2
