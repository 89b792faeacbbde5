"""Keys of well-known kinds: found wherever they stand, and little else taken for one."""

import base64
import random
import string
import time
from typing import Any

import pytest

from redaction.json_strings import map_strings
from redaction.key_patterns import PREFIXES
from redaction.pattern_search import may_contain_key, redact_keys
from redaction.secret_search import SecretSearch


def body(size: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.Random(size).choices(letters, k=size))


HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
CLAIMS = base64.urlsafe_b64encode(b'{"sub":"1234567890","name":"Ada"}').decode().rstrip("=")
UPPER = string.ascii_uppercase + "234567"
KEYS = {
    "anthropic-key": [f"sk-ant-api03-{body(93)}AA", f"sk-ant-oat01-{body(40)}-{body(30)}"],
    "openai-key": [
        f"sk-{body(20)}T3BlbkFJ{body(20)}",
        f"sk-proj-{body(40)}_{body(30)}-{body(9)}",
        f"sk-or-v1-{body(64)}",
    ],
    "github-token": [f"gh{letter}_{body(36)}" for letter in "opsur"] + [f"github_pat_{body(22)}_{body(59)}"],
    "gitlab-token": [f"glpat-{body(20)}", f"glpat-{body(27)}.01.{body(9)}"],
    "aws-key-id": [f"AKIA{body(16, UPPER)}", f"ASIA{body(16, UPPER)}"],
    "google-key": [f"AIza{body(35)}"],
    "slack-token": [f"xoxb-{body(12, string.digits)}-{body(12, string.digits)}-{body(24)}"],
    "stripe-key": [f"sk_live_{body(24)}", f"rk_live_{body(99)}"],
    "npm-token": [f"npm_{body(36)}"],
    "pypi-token": [f"pypi-AgEIcHlwaS5vcmc{body(150)}"],
    "huggingface-token": [f"hf_{body(34)}"],
    "jwt": [f"{HEADER}.{CLAIMS}.{body(43)}"],
}
ROWS = [(name, key) for name, keys in KEYS.items() for key in keys]
AROUND = ["{}", "is {}.", "KEY={}\n", '"{}"', "a\\n{}\\n", "k%3D{}&x=1", "\x1b[32m{}\x1b[0m", "x: {}, y", "ключ {} é"]


@pytest.mark.parametrize(("name", "key"), ROWS)
@pytest.mark.parametrize("around", AROUND)
def test_a_key_is_replaced_wherever_it_stands(name: str, key: str, around: str) -> None:
    text = around.format(key)
    redacted = redact_keys(text)
    assert f"[redacted:{name}]" in redacted
    assert key[8:] not in redacted
    assert len(redacted) <= len(around) - 2 + len(f"[redacted:{name}]")
    assert may_contain_key(["before", text])
    assert f"[redacted:{name}]".encode() in SecretSearch().redact(text.encode())


PEM = "-----BEGIN {0}PRIVATE KEY-----\n{1}-----END {0}PRIVATE KEY-----"
LINES = "".join(body(64) + "\n" for _ in range(25))


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
def test_a_private_key_is_replaced_as_a_whole(kind: str) -> None:
    key = PEM.format(kind, LINES)
    assert redact_keys(f"it is\n{key}\nand more") == "it is\n[redacted:private-key]\nand more"
    escaped = key.replace("\n", "\\n")
    assert (
        redact_keys(f'{{"private_key": "{escaped}\\n", "x": 1}}')
        == '{"private_key": "[redacted:private-key]\\n", "x": 1}'
    )
    numbered = "\n".join(f"    {number}\u2192{line}" for number, line in enumerate(key.splitlines()))
    assert body(64) not in redact_keys(numbered)


def test_a_private_key_that_was_cut_off_is_replaced_as_far_as_it_goes() -> None:
    cut_off = PEM.format("RSA ", LINES)[:500]
    assert redact_keys(f'see "{cut_off}" and more') == 'see "[redacted:private-key]" and more'
    pgp = f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0.22 (GNU/Linux)\n\n{LINES}=abcd\n"
    assert redact_keys(pgp + "-----END PGP PRIVATE KEY BLOCK-----\n") == "[redacted:private-key]\n"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abcDEF123456", "Authorization: Bearer [redacted:authorization]"),
        ('"authorization": "Basic dXNlcjpwYXNz"', '"authorization": "Basic [redacted:authorization]"'),
        ("-H 'Authorization: token abcdef0123456789'", "-H 'Authorization: token [redacted:authorization]'"),
        ("a Bearer 0123456789abcdef01234567 b", "a Bearer [redacted:bearer-token] b"),
        ("postgres://ada:pass-word@db:5432/x", "postgres://ada:[redacted:url-password]@db:5432/x"),
        ("redis://:secret@cache", "redis://:[redacted:url-password]@cache"),
        ("aws_secret_access_key = " + "aB/+" * 10, "aws_secret_access_key = [redacted:aws-secret-key]"),
        ("AWS_SECRET_ACCESS_KEY='" + "aB/+" * 10 + "'", "AWS_SECRET_ACCESS_KEY='[redacted:aws-secret-key]'"),
        ('{"SecretAccessKey": "' + "aB/+" * 10 + '"}', '{"SecretAccessKey": "[redacted:aws-secret-key]"}'),
    ],
)
def test_what_is_told_by_the_words_before_it_is_replaced_without_them(text: str, redacted: str) -> None:
    assert redact_keys(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "commit 7ef4f87c1d2e3f405162738495a6b7c8d9e0f1a2",
        "urn:uuid:123e4567-e89b-12d3-a456-426614174000",
        "sha256:" + body(64, string.hexdigits.lower()),
        "data:image/png;base64," + base64.b64encode(random.Random(1).randbytes(60_000)).decode(),
        "task-0123456789abcdef01234567 disk-aaaaaaaaaaaaaaaaaaaaaaaaa",
        '<div class="sk-estimator-doc-link sk-toggleable__content"></div>',
        "https://example.com:8080/a@b http://localhost:8000/?user=a:b@c",
        "git@github.com:owner/name.git, ssh://git@host:22/x",
        "Authorization: Bearer $TOKEN; Authorization: Basic authentication is old",
        "the bearer of this letter, a bearer authentication-token",
        "postgres://user:${PASSWORD}@host, https://u:***@host, https://u:[redacted:x]@host",
        "hf_transformers_are_not_a_key npm_config_registry ghp_short",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "AKIA and ASIA, AIza; eyJhbGciOiJIUzI1NiJ9 alone",
        "[redacted:jwt] [redacted:db-password]",
    ],
)
def test_what_is_no_key_stays(text: str) -> None:
    assert redact_keys(text) == text


def test_data_is_searched_in_every_place() -> None:
    key = f"ghp_{body(36)}"
    data: dict[str, Any] = {key: [1, None, {"a": key}], "b": True, "c": "nothing"}
    redacted = "[redacted:github-token]"
    assert map_strings(redact_keys, data) == {redacted: [1, None, {"a": redacted}], "b": True, "c": "nothing"}


def test_ordinary_texts_are_not_suspicious() -> None:
    assert not may_contain_key(["what an agent says while it works", "def main() -> None:", "a_b-c.d/e: 1"])


def test_no_key_spans_two_texts() -> None:
    assert not may_contain_key([])
    assert redact_keys(f"ghp_{body(20)}\0{body(20)}") == f"ghp_{body(20)}\0{body(20)}"


@pytest.mark.parametrize("head", [*PREFIXES.values(), "sk-", "-----", ":", "a:b@", "://a:b", "Authorization: Bearer "])
@pytest.mark.parametrize("fill", ["", "0", "a", " ", "\n", "_", "%3d", "\\n"])
def test_no_text_takes_long(head: str, fill: str) -> None:
    """A text of 256 KiB that is made to be hard: less than a hundred times what another one takes."""
    text = (head + fill) * (256 * 1024 // len(head + fill)) + "!"
    begin = time.process_time()
    redact_keys(text)
    SecretSearch().search(text.encode())
    assert time.process_time() - begin < 2


@pytest.mark.timeout(20)
def test_what_looks_like_many_beginnings_takes_no_longer() -> None:
    """Each of them read to the end of the text would take a minute."""
    text = "0meyJ" * 100_000
    assert redact_keys(text) == text


def test_a_token_after_a_terminals_colour_is_found() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    for colour in ("\x1b[m", "\x1b[0m", "\x1b[1;32m", "\x1b[38;5;120m"):
        assert token not in redact_keys(f"{colour}{token}")
