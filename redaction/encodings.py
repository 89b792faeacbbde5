"""The forms in which a secret's value leaks: as it is, and as tools, logs and programs write it.

What is invisible is left out of all forms, as of the text that is searched (`invisible`): so a value is also
found where a terminal or `base64` has wrapped it, or `grep --color` has marked a part.
"""

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

from redaction import assignments
from redaction.invisible import normalize

MIN_VALUE = 6  # bytes; a shorter value would be found everywhere
MIN_LINE = 8  # bytes of a line of a value, to be looked for by itself
MAX_VALUE = 64 * 1024  # bytes of a value; what comes after is not looked for
# Bytes; a longer form is searched for in pieces, so that little has to be held back and parts are found too.
PIECE_SIZE = 128
MIN_PIECE = 15  # bytes of a piece

URL_SAFE = ("", "/", "!'()*", "!'()*;,/?:@&=+$#")  # as quote_plus, quote, encodeURIComponent and encodeURI have it
HTML = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def search_strings(value: bytes) -> set[bytes]:
    """Return what to look for, to find a value or a telling part of it: nothing if it is shorter than 6 bytes."""
    found: set[bytes] = set()
    for part in secret_parts(value[:MAX_VALUE]):
        for form in encoded_forms(part):
            found.update(split_long(normalize(form)))
    return found


def secret_parts(value: bytes) -> set[bytes]:
    """Return the value without space around it, its lines of 8 bytes or more, and what is assigned in it to names."""
    value = value.strip()
    found = {value}
    for line in map(bytes.strip, value.splitlines()):
        if len(line) >= MIN_LINE and not line.startswith(b"-----"):
            found.add(line)
    found.update(assignments.assigned_values(value))
    return {part for part in found if len(part) >= MIN_VALUE}


def encoded_forms(value: bytes) -> set[bytes]:
    """Return the value as it is and in all encodings that are looked for."""
    found = {value, value.hex().encode(), value.hex().upper().encode(), *_base64(value), *_url(value)}
    found.add(repr(value)[2:-1].encode())
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return found
    shown = (*_json(text), *_python(text), *_shell(text), *_html(text), *_doubled(text))
    found.update(form.encode() for form in shown)
    return found


def split_long(form: bytes) -> Iterator[bytes]:
    """Yield the form, in pieces where it is long; nothing if it is too short to be looked for."""
    while len(form) >= PIECE_SIZE + MIN_PIECE:
        yield form[:PIECE_SIZE]
        form = form[PIECE_SIZE:]
    if len(form) >= MIN_VALUE:
        yield form


def _base64(value: bytes) -> Iterator[bytes]:
    """Yield what is the same in the base64 of every text that has the value: it depends on its offset, modulo three."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + value + bytes(2))
        own = whole[-(-8 * before // 6) : 8 * (before + len(value)) // 6]
        yield own
        yield own.translate(bytes.maketrans(b"+/", b"-_"))


def _url(value: bytes) -> Iterator[bytes]:
    """Yield percent-encodings, with digits in upper and lower case, with + for a space, and encoded twice."""
    for safe in URL_SAFE:
        once = quote(value, safe=safe)
        for form in (once, once.replace("%20", "+"), quote(once, safe=safe)):
            yield form.encode()
            yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form).encode()


def _json(text: str) -> Iterator[str]:
    """Yield the insides of JSON strings, as different encoders write them, and of JSON within JSON."""
    for plain in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        html = re.sub("[<>&'+]", lambda match: f"\\u{ord(match[0]):04x}", plain)  # Go, Rails, .NET
        for form in (plain, html, html.replace('\\"', "\\u0022")):
            for slashed in (form, form.replace("/", "\\/")):  # PHP
                yield slashed
                yield re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), slashed)
        yield json.dumps(plain, ensure_ascii=False)[1:-1]


def _python(text: str) -> Iterator[str]:
    """Yield the insides of repr() and ascii(), also as they are beside quotes of the other kind, and as YAML has it."""
    for form in (repr(text)[1:-1], ascii(text)[1:-1]):
        for quoted in (form, form.replace("'", "\\'") if "\\'" not in form else form):
            yield quoted
            yield re.sub(r"\\([xuU])([0-9a-f]+)", lambda match: f"\\{match[1]}{match[2].upper()}", quoted)


def _doubled(text: str) -> Iterator[str]:
    """Yield what stands within quotes of YAML, SQL or CSV, which double their own; and in .pgpass."""
    yield text.replace("'", "''")
    yield text.replace('"', '""')
    yield re.sub(r"([\\:])", r"\\\1", text)


def _shell(text: str) -> Iterator[str]:
    """Yield what stands within quotes of a shell, or with backslashes."""
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")
    yield text.replace("\\", "\\\\").replace("'", "\\'")
    yield re.sub(r'([$`"\\])', r"\\\1", text)
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)


def _html(text: str) -> Iterator[str]:
    """Yield the text as HTML has it; quotes are written in three ways."""
    for old, new in HTML:
        text = text.replace(old, new)
    yield text
    for double, single in (("&quot;", "&#x27;"), ("&#34;", "&#39;"), ("&quot;", "'")):
        yield text.replace('"', double).replace("'", single)
