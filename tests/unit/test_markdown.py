"""What people and agents write is shown as markdown, and nothing of it runs, loads or hides."""

import re
from html import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.stream import markdown
from sessions.stream.markdown import MAX_MARKDOWN, html_of

HOSTILE = [
    "<script>alert(1)</script>",
    "a <img src=x onerror=alert(1)> b",
    "<a href='javascript:alert(1)' onclick=alert(1)>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](\tjavascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:x)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    '[x](https://a.example "\\" onmouseover=alert(1) x=\\"")',
    '![x" onerror="alert(1)](https://a.example)',
    "<https://a.example/\"onmouseover='alert(1)'>",
    "[x][1]\n\n[1]: javascript:alert(1)",
    '```"><script>alert(1)</script>\n</code></pre><script>alert(1)</script>\n```',
    "`<script>alert(1)</script>`",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "| <script>alert(1)</script> | [x](javascript:alert(1)) |\n|-|-|\n| <b onclick=a> | `<i onload=a>` |",
    "> - # <scr<script>ipt>alert(1)</scr</script>ipt>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<form action=https://evil.example><input name=password></form>",
    "<style>*{display:none}</style><base href=https://evil.example><meta http-equiv=refresh content='0;url=//x'>",
]
TAG = re.compile(r"<\s*/?\s*([a-zA-Z0-9]+)([^>]*)>")
LOADING = {
    "script",
    "img",
    "iframe",
    "svg",
    "math",
    "style",
    "object",
    "embed",
    "form",
    "input",
    "base",
    "meta",
    "link",
}


def tags(html: str) -> list[tuple[str, str]]:
    return [(name.lower(), rest) for name, rest in TAG.findall(html)]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["result", "message"])
def test_hostile_text_is_shown_and_does_nothing(kind: str, text: str) -> None:
    html = html_of(kind, text)

    assert html
    for name, rest in tags(html):
        assert name not in LOADING
        names = re.findall(r'([a-zA-Z-]+)="', rest)
        assert not [attribute for attribute in names if attribute.lower().startswith("on") or attribute == "style"]
        for address in re.findall(r'href="([^"]*)"', rest):
            assert re.match(r"(https?|mailto):", address)


def test_markdown_becomes_html() -> None:
    html = html_of("result", "# Title\n\n**bold** and `code`\n\n- one\n- two\n\n```python\nx = 1\n```")

    assert html is not None
    assert "<h1>Title</h1>" in html
    assert "<strong>bold</strong>" in html
    assert "<li>one</li>" in html
    assert '<pre><code class="language-python">x = 1\n</code></pre>' in html


def test_a_table_becomes_a_table() -> None:
    html = html_of("result", "| a | b |\n|---|--:|\n| 1 | 2 |")

    assert html is not None
    assert "<table>" in html
    assert "<td>1</td>" in html
    assert '<td align="right">2</td>' in html


def test_a_link_opens_elsewhere_and_tells_nobody_where_from() -> None:
    html = html_of("result", "[docs](https://example.org/a?b=1&c=2)")

    assert html is not None
    assert 'href="https://example.org/a?b=1&amp;c=2"' in html
    assert 'target="_blank"' in html
    assert 'rel="noopener noreferrer nofollow"' in html


def test_a_link_into_this_site_is_no_link() -> None:
    assert "<a" not in (html_of("result", "[x](/admin/logout/) [y](//evil.example) [z](#a)") or "")


def test_an_image_is_a_link_to_it() -> None:
    html = html_of("result", "![a chart](https://example.org/chart.png)")

    assert html is not None
    assert "<img" not in html
    assert 'href="https://example.org/chart.png"' in html
    assert ">a chart</a>" in html


def test_a_bare_address_is_left_as_text() -> None:
    assert "<a" not in (html_of("result", "see https://example.org now") or "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202egpj.exe", "a⟦U+202E⟧gpj.exe"),
        ("a\u2066b\u2069", "a⟦U+2066⟧b⟦U+2069⟧"),
        ("\x1b[31mred", "␛[31mred"),
        ("a\x00b\x07c", "a␀b␇c"),
        ("a\x7fb\x9bc", "a⟦U+007F⟧b⟦U+009B⟧c"),
    ],
)
def test_characters_that_hide_are_written_out(text: str, shown: str) -> None:
    assert shown in (html_of("result", text) or "")


def test_lines_that_end_as_on_windows_are_lines() -> None:
    assert html_of("result", "a\r\n\r\nb") == "<p>a</p>\n<p>b</p>\n"


@pytest.mark.parametrize("kind", ["text", "stdout", "stderr", "tool", "error", "state", "gap"])
def test_other_kinds_stay_plain_text(kind: str) -> None:
    assert html_of(kind, "**x**") is None


def test_huge_text_is_shown_as_it_stands() -> None:
    text = "**x** <script>\n" * (MAX_MARKDOWN // 15 + 1)

    html = html_of("result", text)

    assert html is not None
    assert html.startswith("<p><em>Shown as plain text: it is longer than 64 KiB.</em></p><pre>**x** &lt;script&gt;\n")
    assert html.count("&lt;script&gt;") == text.count("<script>")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("> " * 30_000 + "deep", "it is nested more than 100 levels deep"),
        ("1. " * 20_000 + "deep", "it is nested more than 100 levels deep"),
        ("|a" * 1001 + "|\n" + "|-" * 1001 + "|", "a line has more than 1,000 columns"),
    ],
)
def test_a_text_made_to_be_slow_is_shown_as_plain_text_with_a_word(text: str, why: str) -> None:
    assert html_of("result", text) == f"<p><em>Shown as plain text: {why}.</em></p><pre>{escape(text)}</pre>"


PIECES = ["[", "*a_", "`" * 3 + "x", "> ", "- ", "![", "<a", "|a", "\\", "&#", "**[", "~~a", "[a](", "](http:x)", "\n"]


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 3000)), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_the_work_that_a_text_makes_is_bounded(parts: list[tuple[str, int]]) -> None:
    """Whatever the text, its HTML is not deep, not large, and holds no tag but those that are listed."""
    html = html_of("result", "".join(piece * count for piece, count in parts))

    assert html is not None
    assert markdown.depth(html) <= markdown.MAX_DEPTH + 1 and len(html) <= 2 * markdown.MAX_HTML
    assert {name for name, _ in tags(html)} <= markdown.TAGS


def test_a_table_of_ten_thousand_rows_is_a_table() -> None:
    html = html_of("result", "|a|b|\n|-|-|\n" + "|x|y|\n" * 10_000)

    assert html is not None
    assert html.count("<tr>") == 10_001


def test_what_was_rendered_is_kept_up_to_so_many_bytes() -> None:
    kept = markdown.Cache(10_000)
    for number in range(100):
        kept.put(bytes([number]), "x" * 1000)
        assert kept.size <= 10_000
    assert kept.get(bytes([99])) == "x" * 1000 and kept.get(bytes([0])) is None
    kept.put(b"large", "x" * 10_000)
    assert kept.size == 0 and kept.get(b"large") is None


def test_the_same_text_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = html_of("result", "*once* upon a time")
    monkeypatch.setattr(markdown, "render", None)
    assert html_of("message", "*once* upon a time") == first
