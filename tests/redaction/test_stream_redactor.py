"""No way to cut a text into pieces lets a secret through, and what holds none comes out as it went in."""

import base64
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redaction import assignments
from redaction.encodings import encoded_forms, search_strings
from redaction.invisible import invisible_runs, normalize
from redaction.multi_search import visible_prefix
from redaction.pattern_search import LITERAL_PREFIXES, redact_keys
from redaction.secret_search import SecretSearch
from redaction.stream_redactor import StreamRedactor

VALUES = {
    "plain": b"hunter2-is-no-good-password",
    "prefix": b"hunter2",
    "longer": b"hunter2-is-no-good-password-at-all, she said",
    "odd": b"a/b+c\"d'e\\f <g>&=%20 \xc3\xa9\n\tend",
    "lines": b"first line of it\nsecond line of it\nx\n",
    "long": bytes(33 + index * 7 % 90 for index in range(400)),
    "bytes": bytes(range(128, 170)),
}
SEARCH = SecretSearch(VALUES.items())
FORMS = sorted((form, name) for name, value in VALUES.items() for form in encoded_forms(value.strip()))
BEGIN_NONE = "".join(
    c for c in "XYZ0189 .;!|\t\n" if c.encode() not in SEARCH.known_values.short_prefixes and c not in LITERAL_PREFIXES
)
QUIET = st.text(BEGIN_NONE, max_size=40).map(str.encode)
KEYS = [  # what may be seen of a key, and what may not
    (b"sk-ant-", b"api03-" + b"Ab1_-Cd2" * 12 + b"AA"),
    (b"ghp_", b"a1B2c3D4e5F6g7H8i9J0kLmNoPqRsTuVwXyZ"),
    (b"AKIA", b"IOSFODNN7EXAMPLE"),
    (b"eyJhbGciOiJIUzI1NiJ9.eyJ", b"zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
    (b"-----BEGIN RSA PRIVATE KEY-----", b"\nMIIEpAIBAAKCAQEA75pmW\nx71Kq" * 20 + b"-----END RSA PRIVATE KEY-----"),
    (b"https://user:", b"Passw0rd-of-the-user@example"),
    (b"Authorization: Bearer ", b"mF_9.B5f-4.1JqM0123456789"),
]


def run(chunks: list[bytes], pauses: frozenset[int] = frozenset()) -> bytes:
    """What comes out of chunks, if time runs out after those with these numbers."""
    stream, out = StreamRedactor(), []
    for number, chunk in enumerate(chunks):
        stream.feed([chunk])
        out += stream.release(SEARCH, number in pauses)
    return b"".join([*out, *stream.release(SEARCH, flush=True)])


def chunked(text: bytes, borders: list[int]) -> list[bytes]:
    places = sorted({0, len(text), *(border % (len(text) + 1) for border in borders)})
    return [text[start:end] for start, end in pairwise(places)] or [text]


def assert_not_in(form: bytes, out: bytes) -> None:
    """No piece of the form is in the output, wrapped or not; a harmless beginning may be."""
    for start in range(0, len(normalize(form)), 128):
        piece = normalize(form)[start : start + 128]
        if len(piece) >= 15 or start == 0:
            assert piece[visible_prefix(piece) :] not in normalize(out) or len(piece) - visible_prefix(piece) < 5


BORDERS = st.lists(st.integers(0, 3000), max_size=30)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FORMS), QUIET, QUIET, BORDERS)
def test_no_chunking_lets_a_form_through(secret: tuple[bytes, str], before: bytes, after: bytes, at: list[int]) -> None:
    out = run(chunked(before + secret[0] + after, at))
    assert normalize(secret[0]) not in normalize(out)
    assert b"[redacted:" in out
    assert out.startswith(before.rstrip()[:-1])
    assert out.endswith(after[len(after) - len(after.lstrip()) :])
    assert_not_in(secret[0], out)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FORMS), QUIET, QUIET, BORDERS, st.frozensets(st.integers(0, 30)))
def test_nor_do_pauses_however_long(
    secret: tuple[bytes, str], before: bytes, after: bytes, at: list[int], pauses: frozenset[int]
) -> None:
    assert_not_in(secret[0], run(chunked(before + secret[0] + after, at), pauses))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(FORMS).map(lambda form: form[0]), QUIET), max_size=8), BORDERS)
def test_nor_do_several_secrets_side_by_side(parts: list[bytes], at: list[int]) -> None:
    out = run(chunked(b"".join(parts), at))
    for part in parts:
        if any(form == part for form, _ in FORMS):
            assert_not_in(part, out)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(VALUES.items())), st.lists(st.integers(1, 40), min_size=1, max_size=20), BORDERS)
def test_nor_do_line_ends_within_it(secret: tuple[str, bytes], widths: list[int], at: list[int]) -> None:
    wrapped, rest = b"", secret[1].strip()
    for width in widths:
        wrapped, rest = wrapped + rest[:width] + b"\r\n", rest[width:]
    assert_not_in(secret[1].strip(), run(chunked(b"XYZ\n" + wrapped + rest + b"\nXYZ\n", at)))


UNSEEN = [
    "\x1b[01;31m\x1b[K", "\x1b[m\x1b[K", "\x1b[38;2;255;0;10m", "\x1b]8;;https://a\x1b\\", "\x1b]0;title\x07", "\x1b(B",
    "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\ufe0f", "\x9b1m", "\\u001b[31m", "\\x1b[0m", "\\033[1m",
    "\\u200b", "\r\n",
]  # fmt: skip
MARKS = st.lists(st.tuples(st.integers(0, 200), st.sampled_from(UNSEEN)), min_size=1, max_size=12)


def marked(text: bytes, marks: list[tuple[int, str]]) -> bytes:
    """The text with these between its bytes."""
    places = sorted(((place % (len(text) + 1), mark) for place, mark in marks), reverse=True)
    for at, mark in places:
        text = text[:at] + mark.encode() + text[at:]
    return text


@pytest.mark.parametrize("mark", UNSEEN)
def test_what_nobody_sees_is_known_as_such(mark: str) -> None:
    assert normalize(b"XYZ" + mark.encode() + b"890") == b"XYZ890"


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["plain", "odd", "bytes", "long"]), MARKS, QUIET, BORDERS)
@example("plain", [(7, "\x1b[m\x1b[K"), (0, "\x1b[01;31m\x1b[K")], b"", [14, 16, 18])
@example("plain", [(7, "\u200b")], b"", [8, 9])
def test_nor_does_what_nobody_sees_within_it(
    name: str, marks: list[tuple[int, str]], after: bytes, at: list[int]
) -> None:
    value = VALUES[name].strip()
    out = run(chunked(b"XYZ " + marked(value, marks) + b" " + after, at))
    assert_not_in(value, out)
    assert f"[redacted:{name}]".encode() in out and out.startswith(b"XYZ ")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KEYS[:4]), MARKS)
@example((b"ghp_", KEYS[1][1]), [(4, "\x1b[m\x1b[K"), (0, "\x1b[01;31m\x1b[K")])
def test_nor_within_a_known_kind(key: tuple[bytes, bytes], marks: list[tuple[int, str]]) -> None:
    marks = [mark for mark in marks if mark[1] != "\r\n"]
    text = b"it is " + marked(b"".join(key), marks) + b" .com"
    for out in (run([text]), redact_keys(text.decode()).encode()):
        assert key[1][:16] not in normalize(out) and b"[redacted:" in out


SECRETS_OF = [
    (b'{"user":"ada","nested":{"password":"hunter2-pw"}}', b"hunter2-pw"),
    (b'{"type":"service_account","private_key_id":"0a1b2c3d4e5f60718293"}', b"0a1b2c3d4e5f60718293"),
    (b'[{"n": 1}]\n{"apiToken": "se\\u0063ret-1"}', b"secret-1"),
    (b"machine example.com login ada password pa55-wd\nmachine b login c password other-1", b"pa55-wd"),
    (b"machine a\n  login ada\n  password hunter2-pw\n", b"hunter2-pw"),
    (b"//packages.example/:_authToken=0123-abcd-ef\nalways-auth=true", b"0123-abcd-ef"),
    (b"//npm.example/:_password=aHVudGVyMg==\n//npm.example/:username=ada", b"aHVudGVyMg=="),
    (b"db.example:5432:*:ada:hunter\\:2pw\n", b"hunter:2pw"),
    (b"Server=tcp:a,1433;User ID=ada;Password=hunter 2pw;Encrypt=True", b"hunter 2pw"),
    (b"AccountName=a;AccountKey=aGVsbG8gd29ybGQ=;EndpointSuffix=x", b"aGVsbG8gd29ybGQ="),
    (b"host=a user=ada password='hunter 2pw' sslmode=require", b"hunter 2pw"),
    (b"postgresql://ada:p%40ss%2Fw0rd@db.example/app?sslmode=require", b"p@ss/w0rd"),
    (b"postgresql://ada:p%40ss%2Fw0rd@db.example/app?sslmode=require", b"p%40ss%2Fw0rd"),
    (b"db:\n  host: a\n  password: correct horse battery  # not a comment\n", b"correct horse battery"),
    (b"clientSecret: 'it''s-1'\n", b"it's-1"),
    (b'secret: "a\\tb-123"\n', b"a\tb-123"),
    (b"tokens:\n  - 0123456789abcdefgh\n", b"0123456789abcdefgh"),
    (b"export DB_PASSWORD=hunter2-pw\nDEBUG=true", b"hunter2-pw"),
]


@pytest.mark.parametrize(("value", "secret"), SECRETS_OF)
def test_what_a_value_assigns_is_found_by_itself(value: bytes, secret: bytes) -> None:
    search = SecretSearch([("file", value)])
    for form in (secret, base64.b64encode(b"u:" + secret), quote(secret, safe="").encode()):
        redacted = search.redact(b"it is <" + form + b">")
        assert b"[redacted:file]" in redacted and form not in redacted


@pytest.mark.parametrize(
    "value",
    [
        b"author: Jane Doe\nmonkey: banana1\nkeyboard: qwertz12",
        b"secret: true\npassword: ${PASSWORD}\nkey: /etc/ssl/private.pem\ntoken_uri: https://example.com/o/token1",
    ],
)
def test_what_is_no_secret_is_not_taken_for_one(value: bytes) -> None:
    lines = {line.strip() for line in value.splitlines()}
    assert not [word for word in assignments.assigned_values(value) if word not in lines]


@given(st.binary(max_size=300) | st.text("{}[]\":=;,-# \npasword\\:/@'1", max_size=300).map(str.encode))
def test_no_value_breaks_the_search_for_what_it_assigns(value: bytes) -> None:
    assert all(len(word) >= assignments.MIN_NAMED for word in assignments.assigned_values(value))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "part", ["a", "a=", 'a="', "a: ", " ", "://a:", "password ", 'password "', "\\", ";a", "{", '{"a":', "- ", "a:1:"]
)
def test_no_value_makes_it_slow(part: str) -> None:
    assignments.assigned_values((part * 65536)[:65536].encode())


@given(st.binary(max_size=200))
def test_runs_are_apart_and_in_order(data: bytes) -> None:
    runs = invisible_runs(data)
    assert all(a.end <= b.start for a, b in pairwise(runs)) and all(run.start < run.end for run in runs)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS), BORDERS, st.frozensets(st.integers(0, 30)))
def test_no_chunking_lets_a_known_kind_through(key: tuple[bytes, bytes], at: list[int], pauses: frozenset[int]) -> None:
    head, body = key
    text = b"it is " + head + body + b".com \nit was"
    out = run(chunked(text, at))
    assert out == run([text])
    assert body[:8] not in out
    paused = run(chunked(text, at), pauses)
    assert paused.startswith(b"it is ") and paused.endswith(b"it was")
    secret = body.partition(b"-----")[0]
    assert all(secret[place : place + 8] not in paused for place in range(8, len(secret) - 8))


ANYTHING = st.one_of(st.binary(max_size=200), st.text("hunter2- skghp_A:/\n", max_size=200).map(str.encode))


@settings(max_examples=400, deadline=None)
@given(ANYTHING, BORDERS, st.frozensets(st.integers(0, 30)))
@example(b"hunte hunter sk- ghp_ -----BEGIN https://a:", [3, 9, 14], frozenset({1}))
def test_what_holds_no_secret_comes_out_as_it_went_in(text: bytes, at: list[int], pauses: frozenset[int]) -> None:
    whole = run([text])
    assert run(chunked(text, at)) == whole
    if b"[redacted:" not in whole:
        assert whole == text
        assert b"[redacted:" in (out := run(chunked(text, at), pauses)) or out == text


@settings(max_examples=200, deadline=None)
@given(st.text(BEGIN_NONE, max_size=200), BORDERS)
def test_ordinary_text_never_waits(text: str, at: list[int]) -> None:
    stream = StreamRedactor()
    for chunk in chunked(text.encode(), at):
        stream.feed([chunk])
        assert stream.release(SEARCH) == [chunk]


def test_a_line_waits_only_for_a_telling_beginning() -> None:
    stream = StreamRedactor()
    stream.feed([b"XYZ h\n"])
    assert stream.release(SEARCH) == [b"XYZ h\n"]
    stream.feed([b"unter2-is-no-good-password!\n"])
    assert stream.release(SEARCH) == [b"[redacted:plain]!\n"]
    stream.feed([b"XYZ hunter2-is\n"])
    assert stream.release(SEARCH) == []


def test_a_beginning_is_replaced_when_the_rest_does_not_come_and_the_rest_when_it_does() -> None:
    stream = StreamRedactor()
    stream.feed([b"it is second line "])
    assert stream.release(SEARCH) == []
    assert stream.release(SEARCH, flush=True) == [b"it is [redacted:lines]"]
    stream.feed([b"of it, really "])
    assert stream.release(SEARCH) == [b", really "]


def test_a_stream_goes_on_from_its_memory() -> None:
    secrets = [(b"", VALUES["plain"]), (b"", VALUES["odd"]), *KEYS]
    for head, body in secrets:
        whole = head + body
        for place in range(1, len(head) + 16 if head else len(whole)):
            stream = StreamRedactor()
            stream.feed([b"XYZ ", whole[:place]])
            out = stream.release(SEARCH, flush=True)
            checkpoint = json.dumps(stream.checkpoint)
            again = StreamRedactor(json.loads(checkpoint))
            again.feed([whole[place:] + b"! it was"])
            text = b"".join([*out, *again.release(SEARCH, flush=True)])
            assert text.endswith(b" it was")
            assert text.count(b"[redacted:") == 1
            assert len(text) < len(b"XYZ " + head + b"[redacted:huggingface-token].com! it was") + 9


@pytest.mark.parametrize(
    "leak",
    [
        lambda value: base64.b64encode(b"user:" + value),
        lambda value: base64.b64encode(b"ab" + value + b"more"),
        lambda value: base64.urlsafe_b64encode(b"x" + value),
        lambda value: base64.encodebytes(b"some words before " + value),
        lambda value: value.hex().encode(),
        lambda value: value.hex().upper().encode(),
        lambda value: quote(value, safe="").encode(),
        lambda value: quote(value).lower().encode() if value.islower() else quote(value).encode(),
        lambda value: json.dumps({"key": value.decode()}).encode(),
        lambda value: json.dumps(json.dumps([value.decode()])).encode(),
        lambda value: repr(value).encode(),
        lambda value: ascii(value.decode() + "é").encode(),
        lambda value: b"'" + value.replace(b"'", b"''") + b"'",
    ],
)
def test_every_form_is_found(leak: object) -> None:
    for value in (
        b"correct horse/battery+staple?=&%$'\"\\ok",
        b"0123456789abcdefABCDEF__",
        b"p\xc3\xa4ssw\xc3\xb6rd-1234",
    ):
        search = SecretSearch([("password", value)])
        text = leak(value)  # type: ignore[operator]
        redacted = search.redact(b"<" + text + b">")
        assert b"[redacted:password]" in redacted
        assert len(redacted) < len(b"<[redacted:password]>") + len(text) - 0.8 * len(value)


def test_a_short_value_is_not_looked_for() -> None:
    assert search_strings(b"12345\n") == set()
    assert SecretSearch([("pin", b"12345")]).redact(b"at 12345") == b"at 12345"


def test_names_assigned_within_a_value_have_values_of_their_own() -> None:
    search = SecretSearch([("env", b"export A=short1\nKEY='0123456789abcdefgh'\nURL=https://example.com/a1\n")])
    assert search.redact(b"is 0123456789abcdefgh") == b"is [redacted:env]"
    assert search.redact(b"at https://example.com/a1") == b"at https://example.com/a1"
