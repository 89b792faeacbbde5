"""Output that is not tidy text: no newline, other bytes, very long lines, very many lines."""

import base64
import json

from testbed.waiting import wait_for
from tests.courier.conftest import Make


def test_output_without_a_newline_appears_while_the_agent_waits(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.start_agent("sh", "-c", "printf 'name? '; read line; echo thanks")
    wait_for(lambda: run.desk.text("stdout") == "name? ")
    run.desk.say("Ada")
    run.wait_for_kind("exit")
    assert run.desk.text("stdout") == "name? thanks\n"


def test_bytes_that_are_no_text_arrive_exactly(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python("import sys\nfor _ in range(40): sys.stdout.buffer.write(bytes(range(256)) * 16)")
    run.wait_for_kind("exit")
    got = b"".join(
        base64.b64decode(event["data"]["base64"]) if "data" in event else event["text"].encode()
        for event in run.desk.of("stdout")
    )
    assert got == bytes(range(256)) * 16 * 40
    assert "\0" not in run.desk.text("stdout")


def test_characters_are_never_cut(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(
        "import sys, time\n"
        "data = ('€ü😀' * 30_000).encode()\n"
        "for start in range(0, len(data), 7001):\n"
        "    sys.stdout.buffer.write(data[start:start + 7001]); sys.stdout.buffer.flush(); time.sleep(0.01)\n"
    )
    run.wait_for_kind("exit")
    assert run.desk.text("stdout") == "€ü😀" * 30_000
    assert all("data" not in event for event in run.desk.of("stdout"))


def test_a_structured_line_of_5_mb_is_one_answer_in_parts(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python("import json\nprint(json.dumps({'type': 'result', 'text': 'äb' * 700_000}))")
    run.wait_for_kind("exit", seconds=20)
    parts = run.desk.of("result")
    assert "".join(part["text"] for part in parts) == "äb" * 700_000
    assert [part["data"]["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert {part["data"]["parts"] for part in parts} == {len(parts)}
    assert all(len(part["text"].encode()) <= 256 * 1024 for part in parts)


def test_raw_lines_of_5_mb_are_chunks(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python("for _ in range(2): print('y' * 5_000_000)")
    run.wait_for_kind("exit", seconds=20)
    assert run.desk.text("stdout") == ("y" * 5_000_000 + "\n") * 2
    assert all(len(event["text"]) <= 32 * 1024 for event in run.desk.of("stdout"))


def test_a_line_above_8_mib_is_raw_even_if_it_is_json(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(
        "import json\nprint(json.dumps({'type': 'result', 'text': 'z' * 9_000_000}))\nprint('{\"type\":\"idle\"}')"
    )
    run.wait_for_kind("exit", seconds=20)
    assert json.loads(run.desk.text("stdout"))["text"] == "z" * 9_000_000
    assert run.desk.of("result") == []
    assert run.desk.of("turn")[-1]["data"] == {"state": "idle"}


def test_50_000_lines_a_second_arrive_once_and_in_order(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(
        "import sys, time\n"
        "begin = time.monotonic()\n"
        "for batch in range(100):\n"
        "    sys.stdout.write(''.join(f'a line of some length, number {batch * 1000 + i}\\n' for i in range(1000)))\n"
        "    sys.stdout.flush()\n"
        "    time.sleep(max(0, begin + batch / 50 - time.monotonic()))\n"
    )
    run.wait_for_kind("exit", seconds=30)
    assert run.desk.text("stdout") == "".join(f"a line of some length, number {i}\n" for i in range(100_000))


def test_many_structured_lines_are_one_event_each(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python('for number in range(20_000): print(\'{"type":"text","text":"%d "}\' % number)')
    run.wait_for_kind("exit", seconds=30)
    assert [event["text"] for event in run.desk.of("text")] == [f"{number} " for number in range(20_000)]
    assert max(count for count, _ in run.desk.sizes) <= 1000
    assert max(size for _, size in run.desk.sizes) <= 1024 * 1024


def test_what_a_database_cannot_hold_is_replaced(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(
        r"""print('{"type":"result","text":"a\\ud800b\\u0000c"}')"""
        "\n"
        r"""print('{"type":"usage","k\\u0000ey":["\\udfff",1e999,NaN]}')"""
    )
    run.wait_for_kind("exit")
    assert run.desk.text("result") == "a\ufffdb\ufffdc"
    assert run.desk.of("usage")[0]["data"] == {"k\ufffdey": ["\ufffd", None, None]}


def test_raw_and_structured_lines_keep_their_order(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(
        "for number in range(300):\n"
        "    print('raw', number)\n"
        '    print(\'{"type":"text","text":"said %d\\\\n"}\' % number)\n'
        '    print(\'{"no": "contract"}\')\n'
    )
    run.wait_for_kind("exit")
    lines = [f'raw {number}\nsaid {number}\n{{"no": "contract"}}\n' for number in range(300)]
    assert run.desk.text("stdout", "text") == "".join(lines)


def test_no_event_is_larger_than_its_limit(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(
        "import json, sys\n"
        "sys.stderr.buffer.write(bytes([255]) * 100_000)\n"
        "print(json.dumps({'type': 'text', 'text': 'ü' * 200_000}))\n"
    )
    run.wait_for_kind("exit")
    assert run.desk.text("text") == "ü" * 200_000
    assert all(len(event.get("text", "").encode()) <= 256 * 1024 for event in run.desk.events())


def test_a_tool_result_of_megabytes_is_an_event_of_a_bounded_size(bench: Make) -> None:
    run = bench("claude")
    run.start_courier()
    run.python(
        "import json\n"
        "block = {'type': 'tool_result', 'tool_use_id': 't', 'content': 'x' * 7_000_000, 'is_error': True}\n"
        "print(json.dumps({'type': 'user', 'message': {'content': [block]}}))\n"
    )
    run.wait_for_kind("exit")
    (tool,) = run.desk.of("tool")
    assert tool["data"]["is_error"] is True and tool["data"]["id"] == "t"
    assert len(json.dumps(tool, ensure_ascii=False).encode()) < 300_000
    kept = tool["data"]["output"].partition("…")[0]
    assert tool["data"]["output"].endswith(f"…⟦{7_000_000 - len(kept):,} bytes more⟧") and len(kept) > 200_000
