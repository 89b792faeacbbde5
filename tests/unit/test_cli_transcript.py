"""A transcript in a terminal: who speaks, pieces that go on, and nothing that could harm the terminal."""

from typing import Any

import pytest

from sessions.cli.transcript import Paint, Transcript, clean


def event(kind: str, text: str = "", run: int | None = 1, **data: Any) -> dict[str, Any]:
    return {"seq": 1, "kind": kind, "text": text, "data": data, "run": run, "at": ""}


def shown(*events: dict[str, Any]) -> list[str]:
    """The lines that a terminal shows for these events."""
    transcript = Transcript()
    return ("".join(map(transcript.put, events)) + transcript.end()).splitlines()


def test_a_conversation_reads_top_to_bottom() -> None:
    assert shown(
        event("message", "Good morning.\nWhat is there?", run=None, sender="ada", number=1),
        event("state", "Run 1 starts.", state="starting"),
        event("delivered", number=1),
        event("tool", "Bash", phase="use", input={"command": "ls -l"}),
        event("tool", "Bash", phase="result", output="a\nb", is_error=True),
        event("result", "Two files."),
        event("usage", tokens=12),
        event("gap", events=3, bytes=400),
        event("error", "It broke."),
    ) == [
        "       ada │ Good morning.",
        "           │ What is there?",
        "           │ Run 1 starts.",
        "      tool │ Bash ls -l",
        "      tool │ Bash a b (failed)",
        "     agent │ Two files.",
        "       gap │ Output is missing (3 events, 400 bytes)",
        "     error │ It broke.",
    ]


def test_pieces_go_on_where_the_last_one_ended() -> None:
    assert shown(
        event("text", "One "),
        event("text", "two.\nThr"),
        event("text", "ee."),
        event("stdout", "raw "),
        event("stdout", "output\n"),
        event("stderr", "oh"),
        event("stdout", "more"),
    ) == [
        "     agent │ One two.",
        "           │ Three.",
        "       out │ raw output",
        "       err │ oh",
        "       out │ more",
    ]


def test_the_small_print_does_not_cut_a_piece_in_two() -> None:
    assert shown(event("text", "One "), event("usage", tokens=1), event("text", "two.")) == ["     agent │ One two."]


def test_an_answer_that_was_read_as_it_was_written_is_not_told_twice() -> None:
    assert shown(event("text", "Four"), event("text", "ty two."), event("result", "Forty  two.\n")) == [
        "     agent │ Fourty two.",
        "     agent │ Forty  two.",
    ]
    assert shown(event("text", "Forty "), event("text", "two."), event("result", "Forty\ntwo.")) == [
        "     agent │ Forty two."
    ]


def test_a_long_answer_comes_in_parts() -> None:
    assert shown(event("result", "One ", part=1, parts=2), event("result", "two.", part=2, parts=2)) == [
        "     agent │ One two."
    ]


def test_an_escape_sequence_is_taken_out_even_when_it_comes_in_two_pieces() -> None:
    assert shown(event("stdout", "\x1b[1;3"), event("stdout", "1mred\x1b[0m and plain\n")) == [
        "       out │ red and plain"
    ]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("one\rtwo\r\nthree", "one\ntwo\nthree"),
        ("bell\x07 back\x08", "bell␇ back␈"),
        ("\x9b31mred", "⟦U+009B⟧31mred"),
        ("\u202eevil", "⟦U+202E⟧evil"),
        ("lone \x1b", "lone ␛"),
    ],
)
def test_nothing_moves_the_cursor_or_hides(text: str, safe: str) -> None:
    assert clean(text) == safe


def test_a_senders_name_cannot_make_a_line() -> None:
    assert shown(event("message", "hi", sender="ada\nerror │ x")) == ["ada error… │ hi"]


def test_colours_are_in_the_margin_and_may_be_left_out() -> None:
    assert Transcript(Paint(True)).put(event("error", "no")).startswith("\x1b[1;31m     error\x1b[0m")
    assert "\x1b" not in Transcript(Paint(False)).put(event("error", "no"))
