"""Host names as they are compared: lower case, A-labels, no dot at the end. Pure."""

import re
from encodings import idna

MAX_NAME = 253  # characters, RFC 1035
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def normalize(name: str) -> str:
    """Return the name's A-label form. Raises ValueError for what is no host name; dotted IPv4 passes as one."""
    lowered = (name[:-1] if name.endswith(".") else name).lower()
    if not lowered or len(lowered) > MAX_NAME:
        raise ValueError("a host name has 1 to 253 characters")
    labels = [label if label.isascii() else _a_label(label) for label in lowered.split(".")]
    if not all(LABEL.fullmatch(label) for label in labels) or sum(map(len, labels)) + len(labels) - 1 > MAX_NAME:
        raise ValueError("not a host name")
    return ".".join(labels)


def _a_label(label: str) -> str:
    """Return `xn--…`. What would not come back the same (ß, full-width letters) is no name here."""
    try:
        encoded = idna.ToASCII(label).decode("ascii").lower()
        same = idna.ToUnicode(encoded) == label and not idna.dots.search(label)
    except UnicodeError as error:
        raise ValueError("not a host name") from error
    if not same:
        raise ValueError("not a host name")
    return encoded


def is_literal(host: str) -> bool:
    """Tell whether a host is an IP address in any spelling that some resolver takes: 127.0.0.1, 127.1, 0x7f000001, ::1.

    A name whose last label is a number can be nothing else: no top-level domain is one.
    """
    return ":" in host or NUMBER.fullmatch(host.lower().rstrip(".").rpartition(".")[2]) is not None
