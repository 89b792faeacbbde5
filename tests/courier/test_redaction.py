"""Secrets stay in the pod: in no event, in no file of the journal, whatever an agent prints and whoever is killed."""

import base64
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from courier.events import Event
from courier.redact import MAX_HOLD, RunSecrets, SpoolRedactor, TranscriptRedactor
from courier.transcript import Transcript
from testbed.courier_control_plane import TOKEN
from testbed.courier_run import Bench
from testbed.waiting import wait_for
from tests.courier.conftest import Make
from tests.courier.test_contracts_recorded import settings as read
from tests.courier.test_journal import everything

SECRET = "Kx9/vu+Tz7-pQ2_wB4mJ8rLs"
OTHER = "correct horse battery staple"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "db-password").write_text(SECRET + "\n")
    (folder / "phrase").write_text(OTHER)
    return folder


def start(bench: Make, contract: str, secrets: Path, run: str = "run") -> Bench:
    made = bench(contract, run)
    made.environment["BERTH_SECRETS"] = str(secrets)
    made.start_courier()
    return made


def stored(folder: Path) -> bytes:
    """All that is in a journal."""
    return b"".join(path.read_bytes() for path in folder.rglob("journal-*"))


def test_no_form_of_a_secret_leaves_the_pod_in_raw_output(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    run.python(
        f"""
import base64, json, sys, urllib.parse
secret = open({str(secrets / "db-password")!r}).read().strip()
print("raw", secret)
print("base64", base64.b64encode(("user:" + secret).encode()).decode())
print("hex", secret.encode().hex())
print("url", urllib.parse.quote(secret, safe=""))
print("json", json.dumps({{"password": secret}}).replace("/", r"\\/"))
print("wrapped", secret[:9], secret[9:], sep="\\n")
print("error", secret, file=sys.stderr)
"""
    )
    run.wait_for_kind("exit")
    assert run.desk.text("stderr") == "error [redacted:db-password]\n"
    lines = run.desk.text("stdout").splitlines()
    assert lines[0] == "raw [redacted:db-password]"
    assert lines[2:5] == ["hex [redacted:db-password]", "url [redacted:db-password]", lines[4]]
    assert lines[4] == 'json {"password": "[redacted:db-password]"}'
    assert lines[5:] == ["wrapped", "[redacted:db-password]"]
    assert "[redacted:db-password]" in lines[1]


def test_the_runs_token_is_a_secret(bench: Make, secrets: Path) -> None:
    run = start(bench, "plain", secrets)
    run.start_agent("sh", "-c", f"echo my token is {TOKEN}")
    run.wait_for_kind("exit")
    assert run.desk.text("text") == run.desk.text("result") == "my token is [redacted:run-token]\n"


def test_bytes_that_are_no_text_hold_no_secret_either(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    run.python(f"import sys; sys.stdout.buffer.write(bytes([255, 254]) + {SECRET.encode()!r} + bytes([253, 10]))")
    run.wait_for_kind("exit")
    (event,) = run.desk.of("stdout")
    assert base64.b64decode(event["data"]["base64"]) == b"\xff\xfe[redacted:db-password]\xfd\n"
    assert SECRET not in event["text"]


def test_structured_output_holds_none_in_any_place(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    said = [
        {"type": "text", "text": "it is " + SECRET[:7]},
        {"type": "text", "text": SECRET[7:] + " indeed. "},
        {"type": "tool", "name": "Bash", "id": "1", "input": {SECRET: ["x", {"deep": f"echo {SECRET}"}], "n": 1}},
        {"type": "tool", "name": "Bash", "id": "1", "output": "cut off: " + "." * 80 + OTHER[:15]},
        {"type": "error", "text": f"\u00e9 {OTHER}"},
        {"type": "result", "text": f"{SECRET}{OTHER}"},
        {"type": "text", "text": "no more", "base64": base64.b64encode(SECRET.encode()).decode()},
    ]
    run.python("".join(f"print({json.dumps(json.dumps(line))})\n" for line in said))
    run.wait_for_kind("exit")
    assert run.desk.text("text").startswith("it is [redacted:db-password] indeed. ")
    use, result = run.desk.of("tool")
    deep = {"[redacted:db-password]": ["x", {"deep": "echo [redacted:db-password]"}], "n": 1}
    assert use["data"]["input"] == deep
    assert result["data"]["output"].endswith("..[redacted:phrase]")
    assert run.desk.text("error") == "\u00e9 [redacted:phrase]"
    assert run.desk.text("result") == "[redacted:db-password][redacted:phrase]"
    assert run.desk.of("text")[-1]["data"] == {"base64": "[redacted:db-password]"}


def test_known_kinds_are_redacted_too(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    run.start_agent("sh", "-c", f"echo ghp_{'a1B2c3D4e' * 4} and {'0123456789abcdef' * 2}01234567")
    run.wait_for_kind("exit")
    assert run.desk.text("stdout") == f"[redacted:github-token] and {'0123456789abcdef' * 2}01234567\n"


def test_a_beginning_does_not_wait_for_ever(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    run.start_agent("sh", "-c", f"printf '%s' '{SECRET[:12]}'; read line; echo '{SECRET[12:]}.'")
    run.wait_for_kind("stdout")
    assert run.desk.text("stdout") == "[redacted:db-password]"
    run.desk.say("go on")
    run.wait_for_kind("exit")
    assert run.desk.text("stdout") == "[redacted:db-password].\n"


def test_a_secret_that_changes_is_known_at_once_and_the_old_one_still(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    run.start_agent("sh", "-c", f"cat {secrets}/db-password; read line; cat {secrets}/db-password; echo {SECRET}")
    run.wait_for_kind("stdout")
    (secrets / "new").write_text("another-value-of-the-secret\n")
    (secrets / "new").rename(secrets / "db-password")
    run.desk.say("go on")
    run.wait_for_kind("exit")
    assert run.desk.text("stdout") == "[redacted:db-password]\n" * 3


def test_the_journal_holds_none_while_nothing_is_shipped(bench: Make, secrets: Path) -> None:
    run = bench("jsonl")
    run.server.stop()
    run.environment["BERTH_SECRETS"] = str(secrets)
    run.start_courier()
    run.start_agent(
        "sh",
        "-c",
        f"for i in 1 2; do echo '{SECRET} {OTHER}'; printf '{SECRET[:9]}'; sleep 1; echo '{SECRET[9:]}'; done",
    )
    wait_for(lambda: (run.pipes / "drained").exists())
    content = stored(run.journals)
    assert b"[redacted:db-password] [redacted:phrase]" in content
    for piece in (SECRET, SECRET[:9], SECRET[9:], OTHER):
        assert piece.encode() not in content


def test_a_courier_killed_again_and_again_neither_leaks_nor_loses(bench: Make, secrets: Path) -> None:
    run = start(bench, "jsonl", secrets)
    run.desk.say("go")
    run.python(
        "import sys, time\n"
        "for number in range(120):\n"
        f"    for part in (f'line {{number}} ', {SECRET[:9]!r}, {SECRET[9:17]!r}, {SECRET[17:]!r}, '.\\n'):\n"
        "        sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.004)\n"
    )
    for moment in range(6):
        count = len(run.desk.events()) + 2
        wait_for(partial(_reached, run, count))
        time.sleep(moment * 0.013)  # so that each kill falls into another moment
        run.kill_courier()
        assert SECRET.encode() not in stored(run.journals)
        run.start_courier()
    run.wait_for_kind("exit", seconds=30)
    assert run.desk.text("stdout") == "".join(f"line {number} [redacted:db-password].\n" for number in range(120))


def _reached(run: Bench, count: int) -> bool:
    return len(run.desk.events()) > count or "exit" in run.desk.kinds()


def transcript(folder: Path, secrets: Path, contract: str) -> Transcript:
    return Transcript(
        folder, read(BERTH_CONTRACT=contract, BERTH_SECRETS=str(secrets), BERTH_JOURNAL=str(folder.parent))
    )


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["step", "die", "wait", "deliver"])), max_size=40),
    st.sampled_from(["jsonl", "plain"]),
)
def test_a_courier_that_dies_at_any_place_goes_on_without_a_leak(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    secrets: Path,
    steps: list[tuple[int, str]],
    contract: str,
) -> None:
    """What has been written to the spool grows bit by bit; the courier dies, waits or delivers a message meanwhile."""
    folder = tmp_path_factory.mktemp("journals") / "other"
    folder.mkdir()
    lines = [{"type": "text", "text": part} for part in ("a ", SECRET[:5], SECRET[5:15], SECRET[15:], " b ", OTHER[:9])]
    units = "".join(json.dumps(line) + "\n" for line in lines[:5]) * 2 + json.dumps(lines[5])
    said = f"raw {SECRET} and\n" + f"{SECRET}.\n" * 4 + f"{SECRET[:14]}\n{SECRET[14:]}.\n at last "
    said = (said + "\n" + units if contract == "jsonl" else said + OTHER[:9]).encode()
    clock = Clock()
    monkeypatch.setattr("courier.transcript.time", clock)
    monkeypatch.setattr("courier.redact.time", clock)
    place, number, now = 0, 0, transcript(folder, secrets, contract)
    for count, action in steps:
        clock.now += count / 400
        place = min(place + count, len(said))
        (folder / "out-000000000000000").write_bytes(said[:place])
        now.spools["out"].end = place
        now.step()
        if action == "die":
            now.close()
            now = transcript(folder, secrets, contract)
        elif action == "wait":
            clock.now += MAX_HOLD
            now.step()
        elif action == "deliver":
            number += 1
            now.record(now.contract.delivered(number))
    (folder / "out-000000000000000").write_bytes(said)
    now.spools["out"].end = len(said)
    now.end(1)
    now.close()
    content = stored(folder).decode()
    text = "".join(event.get("text", "") for event in everything(folder) if event["kind"] in ("text", "stdout"))
    for secret in (SECRET, OTHER[:9]):
        assert all(secret[at : at + 8] not in content for at in range(7, len(secret) - 8))
        assert secret not in text
    assert [event["n"] for event in everything(folder)] == list(range(1, len(everything(folder)) + 1))
    for part in ("raw ", " and\n", "at last ", ".\n", *((" b ",) if contract == "jsonl" else ())):
        assert part in text


def test_what_another_run_left_unread_is_left_out_if_it_had_other_secrets(tmp_path: Path, secrets: Path) -> None:
    folder = tmp_path / "journals" / "lost"
    folder.mkdir(parents=True)
    (folder / "out-000000000000000").write_text(f"{SECRET}\n")
    first = transcript(folder, secrets, "jsonl")
    first.step()
    (folder / "out-000000000000000").write_text(f"{SECRET}\nand {SECRET}\n")
    first.close()
    same = transcript(folder, secrets, "jsonl")
    assert same.spools["out"].position < same.spools["out"].end
    same.close()
    (secrets / "db-password").unlink()
    other = transcript(folder, secrets, "jsonl")
    while other.step(final=True):
        pass
    other.close()
    events = everything(folder)
    assert [event["kind"] for event in events] == ["stdout", "gap"]
    assert events[0]["text"] == "[redacted:db-password]\n"
    assert events[1]["data"] == {"events": 0, "bytes": len(f"and {SECRET}\n")}


def test_the_state_tells_no_secret(secrets: Path) -> None:
    redactor = TranscriptRedactor(secrets, secrets / "phrase")
    redactor.redact("out", [Event("stdout", f"see {SECRET[:10]}")], [0, False])
    redactor.flush_and_redact([])
    state = json.dumps(redactor.state())
    assert SECRET[:6] not in state
    assert "db-password" in state


def test_ordinary_events_pass_at_once_and_as_they_are(secrets: Path) -> None:
    redactor = SpoolRedactor(RunSecrets(secrets, secrets / "phrase"))
    events: list[Any] = [
        Event("stdout", "what an agent says.\n"),
        Event("stdout", "\ufffd!", {"base64": base64.b64encode(b"\xff!").decode()}),
        Event("text", "part one, ", {"parent": "toolu_1"}),
        Event("tool", "Read", {"input": {"path": "/workspace/group/a.py"}, "n": 1.5, "x": None}),
        Event("turn", data={"state": "idle"}),
    ]
    passed = redactor.redact(events, "before", 0.0)
    assert passed == events
    assert all(one is other for one, other in zip(passed, events, strict=True))
    assert not redactor.batches and redactor.release_at == float("inf")


def test_what_waits_goes_out_when_time_is_over(secrets: Path) -> None:
    redactor = SpoolRedactor(RunSecrets(secrets, secrets / "phrase"))
    assert redactor.redact([Event("text", f"see {SECRET[:3]}")], "place", 10.0) == []
    assert (redactor.batches[0].state_before, redactor.release_at) == ("place", 10.0 + MAX_HOLD)
    assert redactor.redact([], None, 10.1) == []
    assert redactor.redact([], None, 10.0 + MAX_HOLD) == [Event("text", f"see {SECRET[:3]}")]
    assert redactor.redact([Event("text", SECRET[3:] + ".")], "later", 20.0) == [
        Event("text", "[redacted:db-password].")
    ]


def test_a_secret_that_cannot_be_read_is_told_in_the_log(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (secrets / "gone").symlink_to(secrets / "nowhere")
    known = RunSecrets(secrets, secrets / "phrase")
    known.refresh()
    assert "gone" in capfd.readouterr().err
    assert "gone" not in known.values
