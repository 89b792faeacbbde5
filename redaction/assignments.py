"""What a secret's value assigns to names, so that it is found without what stands around it.

JSON, environment variables, YAML, INI and .npmrc, .netrc, .pgpass, connection strings, and passwords in addresses.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

MIN_UNNAMED = 16  # bytes of what is assigned to just any name; it has to have a digit, too
MIN_NAMED = 6  # if the name says that it is a secret and it is no word, else 8
MAX_VALUES = 1000  # values that are taken from one secret
WORDS = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
SECRET = frozenset({b"pass", b"pwd", b"secrets", b"key", b"auth", b"pin", b"sas", b"pat", b"psk", b"signature"})
SECRET_ENDS = (b"password", b"passwd", b"passphrase", b"secret", b"token", b"credential", b"credentials", b"apikey",
               b"accesskey", b"accountkey", b"privatekey", b"secretkey")  # fmt: skip
PLAIN = frozenset({b"true", b"false", b"null", b"none", b"bearer", b"basic", b"always", b"optional", b"required"})
# All repetitions are bounded where another try begins within them: a value can't make this slow.
NAME = rb"""["']?([\w./@:-]{0,80}[\w@-])["']?"""
QUOTED = rb"""(?:"((?:[^"\\]|\\.){0,2000})"|'((?:[^'\\]|\\.|''){0,2000})'|"""
# A name, = or :, and what is in quotes, or goes on to a space or to what separates pairs.
PAIR = re.compile(
    rb"(?:^|(?<=[\s;,&{?]))" + NAME + rb"""\s{0,9}(?:=>|[=:])\s{0,9}""" + QUOTED + rb"""([^\s"',;&}\]]+))"""
)
# The same to the line's end: YAML needs no quotes, however many words there are.
LINE = re.compile(rb"(?:-\s{1,9})?(?:export\s|set\s|ENV\s)?" + NAME + rb"\s{0,9}(?:=|:\s)(.+)")
FIELD = re.compile(rb"(?:^|;)\s{0,9}([\w ]{1,40})=([^;]+)")  # of a connection string: names may have spaces
ITEM = re.compile(rb"""-\s{1,9}["']?([^\s"']+)["']?$""")
NETRC = re.compile(rb"""(?:^|\s)(password|account)\s{1,99}("(?:[^"\\]|\\.){0,2000}"|\S+)""")  # ftp(1), curl's --netrc
# https://www.postgresql.org/docs/current/libpq-pgpass.html
PGPASS = re.compile(rb"(?:[^:\\]|\\.)*:(?:\d+|\*):(?:[^:\\]|\\.)*:(?:[^:\\]|\\.)*:((?:[^:\\]|\\.)+)$")
USERINFO = re.compile(rb"://([^\s/@:\"'<>]*):([^\s/@\"'<>]+)@")  # RFC 3986, section 3.2.1


def assigned_values(value: bytes) -> set[bytes]:
    """Return what a value assigns that is telling, as it stands there and without its quotes and escapes."""
    found: set[bytes] = set()
    for name, word in _pairs(value):
        for each in (word, word.strip(b" \t\"'`,;")):
            if _may_be_secret(name, each):
                found.add(each)
        if len(found) >= MAX_VALUES:
            break
    return found


def _may_be_secret(name: bytes, word: bytes) -> bool:
    """Whether it is a secret, or may be one: not a path, nor an address without a password, nor a placeholder."""
    if word.startswith((b"$", b"{{", b"%(", b"<", b"/", b"./", b"~/", b"[redacted:")) or word.lower() in PLAIN:
        return False
    if b"://" in word and not USERINFO.search(word):
        return False
    if _names_secret(name):
        return len(word) >= (MIN_NAMED + 2 if word.isalpha() else MIN_NAMED)
    return len(word) >= MIN_UNNAMED and re.search(rb"\d", word) is not None and not re.search(rb"\s", word)


def _names_secret(name: bytes) -> bool:
    """Whether a name says that what is assigned to it is secret, by its words: `authToken` does, `author` does not."""
    words = {word.lower() for word in WORDS.findall(name[-100:])}
    return not words.isdisjoint(SECRET) or any(word.endswith(SECRET_ENDS) for word in words)


def _pairs(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield names with what is assigned to them."""
    yield from _pairs_of_json(value)
    for found in NETRC.finditer(value):
        yield b"password", found[2]
    for found in USERINFO.finditer(value):
        yield b"password", found[2]
        yield b"password", unquote_to_bytes(found[2])
    for line in map(bytes.strip, value.splitlines()):
        yield from _pairs_of_line(line)
        if line.startswith((b"{", b"[")) and line != value:
            yield from _pairs_of_json(line)


def _pairs_of_line(line: bytes) -> Iterator[tuple[bytes, bytes]]:
    if match := PGPASS.match(line):
        yield b"password", match[1]
        yield b"password", re.sub(rb"\\(.)", rb"\1", match[1])
    for match in PAIR.finditer(line):
        word = match[2] or match[3] or match[4] or b""
        yield match[1], word
        yield match[1], _unescape(word, match[2] is not None)
    if match := LINE.match(line):
        yield match[1], match[2].strip()
        yield match[1], match[2].partition(b" #")[0].strip()  # without a comment
    for match in FIELD.finditer(line):
        yield match[1], match[2].strip()
    if match := ITEM.match(line):
        yield b"", match[1]


def _unescape(word: bytes, double: bool) -> bytes:
    """Return what stood in quotes as it was before it was put there."""
    if not double:
        return word.replace(b"''", b"'").replace(b"\\'", b"'")
    try:
        return str(json.loads(b'"%s"' % word)).encode(errors="surrogatepass")
    except ValueError:
        return re.sub(rb"\\(.)", rb"\1", word)


def _pairs_of_json(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the texts of a JSON value by their names; those of a list have the list's."""
    try:
        waiting: list[tuple[str, Any]] = [("", json.loads(value))]
    except (ValueError, RecursionError):
        return
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, str):
            yield name.encode(errors="surrogatepass"), item.encode(errors="surrogatepass")
        elif isinstance(item, list):
            waiting += [(name, each) for each in item]
        elif isinstance(item, dict):
            waiting += [(key, each) for key, each in item.items()]
