"""What people and agents wrote, as HTML that is safe to show, in time that grows with the text alone.

Two walls: comrak escapes all HTML in its input (`escape`), and nh3 keeps of its output only the tags and attributes
listed here. No address but http, https and mailto becomes a link, and nothing is loaded from elsewhere: an image
becomes a link to it, so that looking at a session does not tell a stranger's server about it.

comrak follows cmark, whose time is linear in the text whatever the text is
(https://github.com/commonmark/cmark#features), but for tables of very many columns; nh3's time grows with the depth of
what it reads. Both are counted before they cost anything (`MAX_BARS`, `MAX_DEPTH`, `MAX_HTML`): what is beyond is shown
as the plain text it is, with a word. What was rendered is kept.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from html import escape, unescape

import comrak
import nh3
import structlog

RENDERED = frozenset({"result", "message"})
MAX_MARKDOWN = 64 * 1024  # characters
MAX_HTML = 1024 * 1024  # characters: a reference in [brackets] may stand for an address of any length
MAX_DEPTH = 100  # elements within each other; people and models write some five
MAX_BARS = 1000  # `|` in one line: a table's time grows with the square of its columns
CACHE_BYTES = 32 * 1024 * 1024  # of rendered texts in one process: one session may have hundreds of watchers
TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title", "target"}, "code": {"class"}, "ol": {"start"}, "td": {"align"}, "th": {"align"}}
SCHEMES = {"http", "https", "mailto"}
LINK = re.compile(r"(?:https?|mailto):", re.IGNORECASE)
# comrak's own output, in which whatever the text holds is escaped.
IMAGE = re.compile(r'<img src="([^"]*)" alt="([^"]*)"[^>]*>')
ANCHOR = re.compile(r'<a href="([^"]*)"([^>]*)>|</a>')
TAG = re.compile(r"<(/?)(\w+)")
VOID = frozenset({"br", "hr", "img"})
# Characters that turn the direction of what follows (https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing)
# and control characters, but for tab and line feed.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
log = structlog.get_logger(__name__)


class TooMuch(Exception):
    """A text that is not rendered; `str()` says why."""


def html_of(kind: str, text: str) -> str | None:
    """The safe HTML of an event's text, or None for kinds that are shown as the plain text they are.

    Text that would take long to render is shown as it stands, in a <pre>, whatever markdown it holds.
    """
    if kind not in RENDERED:
        return None
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    html = _cache.get(key)
    if html is None:
        html = render(text)
        _cache.put(key, html)
    return html


def visible(text: str) -> str:
    """`text` with its unseen characters written out: ␛ for a C0 control, ⟦U+202E⟧ for the others."""
    return UNSEEN.sub(_show, text.replace("\r\n", "\n"))


def _show(match: re.Match[str]) -> str:
    code = ord(match.group())
    # Unicode's Control Pictures block has C0 in order (https://www.unicode.org/charts/PDF/U2400.pdf).
    return chr(0x2400 + code) if code < 0x20 else f"⟦U+{code:04X}⟧"


def render(text: str) -> str:
    """The text rendered, or as it stands with the reason; nothing is looked up or kept."""
    shown = visible(text)
    try:
        return _rendered(shown)
    except TooMuch as reason:
        message = str(reason)
    except BaseException as error:  # a panic in Rust arrives as a BaseException of its own
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        log.warning("a text was not rendered", error=repr(error))
        message = "it could not be read"
    return f"<p><em>Shown as plain text: {message}.</em></p><pre>{escape(shown)}</pre>"


def _rendered(text: str) -> str:
    """Markdown as safe HTML. Raises TooMuch."""
    if len(text) > MAX_MARKDOWN:
        raise TooMuch(f"it is longer than {MAX_MARKDOWN // 1024} KiB")
    if any(line.count("|") > MAX_BARS for line in text.split("\n")):
        raise TooMuch(f"a line has more than {MAX_BARS:,} columns")
    html = comrak.render_markdown(
        text.encode("utf-8", "replace").decode(), extension_options=EXTENSIONS, render_options=RENDERING
    )
    if len(html) > MAX_HTML:
        raise TooMuch(f"it becomes more than {MAX_HTML // 1024:,} KiB")
    if depth(html) > MAX_DEPTH:
        raise TooMuch(f"it is nested more than {MAX_DEPTH} levels deep")
    html = _links(IMAGE.sub(r'<a href="\1">\2</a>', html))
    return nh3.clean(
        html, tags=TAGS, attributes=ATTRIBUTES, url_schemes=SCHEMES, link_rel="noopener noreferrer nofollow"
    )


def depth(html: str) -> int:
    """How many elements stand within each other, at most; `html` is well formed, as comrak's is."""
    most = now = 0
    for closing, name in TAG.findall(html):
        if name not in VOID:
            now += -1 if closing else 1
            most = max(most, now)
    return most


def _links(html: str) -> str:
    """Links that open elsewhere; those that lead to another place than `SCHEMES` are no links."""
    within: list[bool] = []  # of the links that are open: an image within a link is one in another

    def replace(found: re.Match[str]) -> str:
        if found[0] == "</a>":
            return "</a>" if within and within.pop() else ""
        within.append(not any(within) and LINK.match(unescape(found[1])) is not None)
        return f'<a href="{found[1]}"{found[2]} target="_blank">' if within[-1] else ""

    return ANCHOR.sub(replace, html)


class Cache:
    """What was rendered, up to so many bytes; what was not asked for the longest goes first. For any thread."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._found: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> str | None:
        """What was put there, if it still is."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: bytes, html: str) -> None:
        """Keep it."""
        with self._lock:
            self.size += _size(html) - _size(self._found.pop(key, None))
            self._found[key] = html
            while self.size > self.most:
                self.size -= _size(self._found.popitem(last=False)[1])


def _size(html: str | None) -> int:
    """Bytes in memory, at most: four for a character, and what the entry itself takes."""
    return 0 if html is None else 4 * len(html) + 200


def _options() -> tuple[comrak.ExtensionOptions, comrak.RenderOptions]:
    extensions, rendering = comrak.ExtensionOptions(), comrak.RenderOptions()
    extensions.table = extensions.strikethrough = True
    rendering.escape = rendering.hardbreaks = True
    return extensions, rendering


EXTENSIONS, RENDERING = _options()
_cache = Cache(CACHE_BYTES)
