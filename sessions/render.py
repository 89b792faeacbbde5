"""What people and agents wrote, as HTML that is safe to show.

Two walls: markdown-it escapes all HTML in its input (`html=False`), and nh3 keeps of its output only the tags and
attributes listed here. No address but http, https and mailto becomes a link, and nothing is loaded from elsewhere: an
image becomes a link to it, so that looking at a session does not tell a stranger's server about it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

RENDERED = frozenset({"result", "message"})
# Characters. The parser's time grows with the text: 0.1 s for prose of this size, about 1 s for one made to be slow.
MAX_MARKDOWN = 64 * 1024
TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title", "target"}, "code": {"class"}, "ol": {"start"}, "td": {"align"}, "th": {"align"}}
SCHEMES = {"http", "https", "mailto"}
LINK = re.compile(r"(?:https?|mailto):", re.IGNORECASE)
# Characters that turn the direction of what follows (https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing)
# and control characters, but for tab and line feed.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def html_of(kind: str, text: str) -> str | None:
    """The safe HTML of an event's text, or None for kinds that are shown as the plain text they are.

    Text of more than MAX_MARKDOWN characters is shown as it stands, in a <pre>, whatever markdown it holds.
    """
    if kind not in RENDERED:
        return None
    return _markdown_html(text) if len(text) <= MAX_MARKDOWN else f"<pre>{escapeHtml(visible(text))}</pre>"


def visible(text: str) -> str:
    """`text` with its unseen characters written out: ␛ for a C0 control, ⟦U+202E⟧ for the others."""
    return UNSEEN.sub(_show, text.replace("\r\n", "\n"))


def _show(match: re.Match[str]) -> str:
    code = ord(match.group())
    # Unicode's Control Pictures block has C0 in order (https://www.unicode.org/charts/PDF/U2400.pdf).
    return chr(0x2400 + code) if code < 0x20 else f"⟦U+{code:04X}⟧"


@lru_cache(maxsize=128)  # one session may have hundreds of watchers; at most some 20 MB
def _markdown_html(text: str) -> str:
    return nh3.clean(
        MARKDOWN.render(visible(text)),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )


def _image_as_link(tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    token = tokens[index]
    source = str(token.attrGet("src") or "")
    return f'<a href="{escapeHtml(source)}" target="_blank">{escapeHtml(token.content or source)}</a>'


class _Renderer(RendererHTML):
    """Markdown's output, with links that open elsewhere and images that are links."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        """An image: a link to it, with its alternative text."""
        return _image_as_link(tokens, idx, options, env)

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        """The start of a link."""
        tokens[idx].attrSet("target", "_blank")
        return self.renderToken(tokens, idx, options, env)

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        """The start of a table's cell, aligned by an attribute: a style would not pass the second wall."""
        style = str(tokens[idx].attrs.pop("style", ""))
        if style:
            tokens[idx].attrSet("align", style.removeprefix("text-align:"))
        return self.renderToken(tokens, idx, options, env)

    td_open = th_open


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.validateLink = lambda url: bool(LINK.match(url.strip()))  # type: ignore[method-assign]
    return parser


MARKDOWN = _markdown()
