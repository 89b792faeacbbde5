"""Kinds of keys that can be told by their form, with where the form is described.

What has no form of its own (a password, a UUID, a hash in hex) is not among them.
"""

from typing import NamedTuple

# Not within a word; but after the escapes \n, \t, \r, \u003d and %3d and a terminal's colours, which end in letters.
WORD_BOUNDARY = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2})|(?<=\\u00[0-9A-Fa-f]{2})"
# A colour's number is told from a word that ends in a digit and m by what stands before it: else a text full of such
# words would have a key begin at each of them.
WORD_BOUNDARY += r"|(?<=[\[;]m)|(?<=[\[;][0-9]m)|(?<=[\[;][0-9]{2}m)|(?<=[\[;][0-9]{3}m))"
QUOTE = r"""(?:\\?["'])?"""
WORD = "[A-Za-z0-9_-]"
# What stands between the marks of a private key: base64, its line ends also as \n, headers, numbers of lines.
ARMOUR = r"[A-Za-z0-9+/=\s\\,:.()>|#\-\u0080-\U0010ffff]"
ARMOUR_LIMIT = 16 * 1024  # characters between the marks; an RSA key of 8,192 bits has 6,400
KEY_LIMIT = 8 * 1024  # characters of another key that come piece by piece
USER, PASSWORD = r"""[^\s/:@"'<>\\]""", r"""[^\s/@"'<>\\]"""


class KeyPattern(NamedTuple):
    """One kind of key. Group 1 of `regex` is what is replaced.

    `partial` matches, at the end of a text, what may become one or go on as one; its group is the part that is secret.
    `prefix` is how one can begin; any number of zeros can follow.
    """

    name: str
    regex: str
    partial: str
    prefix: str


class Prefilter(NamedTuple):
    """What is searched for first, since it is rare and fast to find, and the keys that can only be where it is.

    It begins with a literal, or with a character that few words have. `literals` are all that it can match, with what
    stands before: a text may end within one of them.
    """

    pattern: str
    literals: tuple[str, ...]
    key_patterns: tuple[KeyPattern, ...]


def token_pattern(name: str, prefix: str, body: str, min_length: int, at_boundary: bool = False) -> KeyPattern:
    """Return the pattern of a prefix and `min_length` or more characters of a body, not in a word if `at_boundary`."""
    begin = f"{prefix}(?<={WORD_BOUNDARY}{prefix})" if at_boundary else prefix
    example = prefix.replace("[opsur]", "p").replace("[sr]", "s").replace("[abdeoprs]", "b")
    return KeyPattern(name, f"({begin}{body}{{{min_length},}})", f"{begin}({body}*+)\\Z", example)


UNDERSCORE = Prefilter(
    "_(?:(?<=gh[opsur]_)|(?<=github_pat_)|(?<=[sr]k_live_)|(?<=npm_)|(?<=hf_))",
    ("gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "sk_live_", "rk_live_", "npm_", "hf_"),
    (
        # https://github.blog/changelog/2021-03-31-authentication-token-format-updates-are-generally-available/
        token_pattern("github-token", "gh[opsur]_", "[A-Za-z0-9_]", 36),
        # https://docs.github.com/authentication/keeping-your-account-and-data-secure/about-authentication-to-github
        token_pattern("github-token", "github_pat_", "[A-Za-z0-9_]", 36),
        # https://docs.stripe.com/keys
        token_pattern("stripe-key", "[sr]k_live_", "[A-Za-z0-9]", 16),
        # https://github.blog/security/application-security/announcing-npms-new-access-token-format/
        token_pattern("npm-token", "npm_", "[A-Za-z0-9]", 36),
        # https://huggingface.co/docs/hub/security-tokens
        token_pattern("huggingface-token", "hf_", "[A-Za-z0-9]", 30, at_boundary=True),
    ),
)

# https://www.rfc-editor.org/rfc/rfc7468, and what OpenSSL, OpenSSH and PGP write like it. Without an end mark, what can
# stand before one is taken for the key.
BEGIN, END = (
    "-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
    "-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
)
PRIVATE_KEY = KeyPattern(
    "private-key",
    f"({BEGIN}(?:{ARMOUR}{{0,{ARMOUR_LIMIT}}}?{END}|{ARMOUR}{{0,{ARMOUR_LIMIT}}}))",
    f"(?:{BEGIN}((?:(?!-----END){ARMOUR}){{0,{ARMOUR_LIMIT}}}+(?:-----END[A-Z0-9 ]*+-{{0,4}})?)"
    "|-----BEGIN(?: [A-Z0-9 ]{0,60}-{0,4})?)\\Z",
    "-----BEGIN PRIVATE KEY-----",
)

HYPHEN = Prefilter(
    "-(?:(?<=sk-)|(?<=glpat-)|(?<=xox[abdeoprs]-)|(?<=pypi-)|(?<=-----)(?=BEGIN))",
    ("sk-", "glpat-", "pypi-", "-----BEGIN", *(f"xox{letter}-" for letter in "abdeoprs")),
    (
        # https://platform.claude.com/docs/en/api/overview: sk-ant-api03-…, sk-ant-admin01-…, sk-ant-oat01-…
        token_pattern("anthropic-key", "sk-ant-", WORD, 16, at_boundary=True),
        # https://platform.openai.com/docs/api-reference/authentication: sk-proj-…, sk-svcacct-…, and sk-… of old, which
        # others use as well (DeepSeek; OpenRouter's sk-or-v1-…)
        KeyPattern(
            "openai-key",
            f"(sk-(?<={WORD_BOUNDARY}sk-)(?:(?:proj|svcacct|admin|or)-{WORD}{{20,}}|[A-Za-z0-9_]{{20,}}))",
            f"sk-(?<={WORD_BOUNDARY}sk-)(?:(?:ant|proj|svcacct|admin|or)-({WORD}*+)|([A-Za-z0-9_]*+))\\Z",
            "sk-",
        ),
        # https://docs.gitlab.com/security/tokens/#token-prefixes
        token_pattern("gitlab-token", "glpat-", "[A-Za-z0-9_.-]", 20),
        # https://docs.slack.dev/authentication/tokens
        token_pattern("slack-token", "xox[abdeoprs]-", "[A-Za-z0-9-]", 12),
        # https://warehouse.pypa.io/development/token-scanning.html: a macaroon, which always begins with the same bytes
        KeyPattern("pypi-token", f"(pypi-AgE{WORD}{{40,}})", f"pypi-(?:A|Ag|AgE({WORD}*+))?\\Z", "pypi-AgE"),
        PRIVATE_KEY,
    ),
)

CAPITAL_A = Prefilter(
    "A(?:KIA|SIA|Iza)",
    ("AKIA", "ASIA", "AIza"),
    (
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
        KeyPattern(
            "aws-key-id",
            f"(A[KS]IA(?<={WORD_BOUNDARY}A[KS]IA)[A-Z0-9]{{16}})(?![A-Za-z0-9])",
            f"A[KS]IA(?<={WORD_BOUNDARY}A[KS]IA)([A-Z0-9]{{0,16}}+)\\Z",
            "AKIA",
        ),
        # https://cloud.google.com/docs/authentication/api-keys
        KeyPattern("google-key", f"(AIza{WORD}{{35}})(?!{WORD})", f"AIza({WORD}{{0,35}}+)\\Z", "AIza"),
    ),
)

# https://www.rfc-editor.org/rfc/rfc7519: header and claims are objects, so their base64 begins in the same way
JWT = KeyPattern(
    "jwt",
    f"(eyJ(?<={WORD_BOUNDARY}eyJ){WORD}{{10,}}+\\.eyJ{WORD}{{10,}}\\.{WORD}{{10,}}(?:\\.{WORD}+)*)",
    f"eyJ(?<={WORD_BOUNDARY}eyJ){WORD}*+(?:\\.(?:e|ey|eyJ([A-Za-z0-9_.-]*+))?)?\\Z",
    "eyJ0000000000.eyJ0000000000.",
)
# https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1; not where a placeholder such as $PASSWORD or *** stands
URL = KeyPattern(
    "url-password",
    f"://{USER}{{0,256}}:((?![$*[{{]){PASSWORD}{{1,256}})@",
    f"://{USER}{{0,256}}+(?::({PASSWORD}{{0,256}}+))?\\Z",
    "://:",
)
# https://www.rfc-editor.org/rfc/rfc6750#section-2.1: by itself if it has a digit, since "bearer" is also a word
BEARER = KeyPattern(
    "bearer-token",
    r"earer\s{1,4}((?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{20,}=*)",
    r"earer(?:\s{1,4}([A-Za-z0-9._~+/=-]*+))?\Z",
    "earer ",
)
# https://www.rfc-editor.org/rfc/rfc7617, and the schemes "Token" and "Bearer" with whatever follows
AUTHORIZATION = KeyPattern(
    "authorization",
    rf"uthorization{QUOTE}\s{{0,4}}[:=]\s{{0,4}}{QUOTE}(?i:basic|token|bearer)\s{{1,4}}"
    r"((?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9._~+/=-]{8,})",
    rf"uthorization(?:{QUOTE}\s{{0,4}}(?:[:=]\s{{0,4}}(?:{QUOTE}[A-Za-z]{{0,6}}+(?:\s{{1,4}}([A-Za-z0-9._~+/=-]*+))?"
    r"|\\)?)?|\\)?\Z",
    "uthorization:Basic ",
)


def _aws_secret(name: str, prefix: str) -> KeyPattern:
    """https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html: 40 characters, told by their name."""
    return KeyPattern(
        "aws-secret-key",
        rf"{name}{QUOTE}\s{{0,4}}(?:=>|[:=])\s{{0,4}}{QUOTE}([A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])",
        rf"{name}(?:{QUOTE}\s{{0,4}}(?:(?:=>|[:=])\s{{0,4}}(?:{QUOTE}([A-Za-z0-9/+]{{0,40}}+)|\\)?)?|\\)?\Z",
        f"{prefix}=",
    )


AWS_SECRET = _aws_secret("ccess_?[kK]ey", "ccess_key")
PREFILTERS = (
    UNDERSCORE,
    HYPHEN,
    CAPITAL_A,
    Prefilter("eyJ", ("eyJ",), (JWT,)),
    Prefilter("://", ("://",), (URL,)),
    Prefilter("earer", ("earer",), (BEARER,)),
    Prefilter("uthorization", ("uthorization",), (AUTHORIZATION,)),
    Prefilter("ccess_?[kK]ey", ("ccess_key", "ccess_Key", "ccessKey", "ccesskey"), (AWS_SECRET,)),
    Prefilter("CCESS_KEY", ("CCESS_KEY",), (_aws_secret("CCESS_KEY", "CCESS_KEY"),)),
)
PREFIXES = {key.name: key.prefix for each in PREFILTERS for key in reversed(each.key_patterns)}  # the first of a name
