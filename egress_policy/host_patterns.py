"""What a rule's host may be: an exact name, or `*.suffix` for all names below one. Pure.

Names are compared as the proxy compares them (`egress.hosts`): lower case, A-labels, no dot at the end.
"""

from collections.abc import Iterator

from egress import hosts

# Below these anybody can have a name of his own, so a rule for all of them allows nearly anything. It is no list of all
# there are: it makes the best-known ones be noticed.
SHARED = frozenset(
    {
        "amazonaws.com", "appspot.com", "azurewebsites.net", "blob.core.windows.net", "cloudfront.net", "github.io",
        "gitlab.io", "googleapis.com", "herokuapp.com", "netlify.app", "ngrok.io", "pages.dev", "r2.dev",
        "s3.amazonaws.com", "storage.googleapis.com", "vercel.app", "workers.dev",
    }
)  # fmt: skip


def normal(pattern: str) -> str:
    """The pattern as it is stored and compared. Raises ValueError, with words, for what can be none."""
    text = pattern.strip()
    star, suffix = text.startswith("*."), text.removeprefix("*.")
    if "*" in suffix:
        raise ValueError("A star stands for whole names at the front, as in *.example.com, and nowhere else.")
    if "/" in suffix or suffix.count(":") == 1:
        raise ValueError("Use a host alone, without https://, a port or a path, such as api.example.com.")
    if hosts.is_literal(suffix.strip("[]")):
        raise ValueError("Rules are for names: an address can't be allowed, however it is written.")
    try:
        name = hosts.normalize(suffix)
    except ValueError:
        words = (
            "Use a host such as api.example.com, or *.example.com for all names below it; ports have their own field."
        )
        raise ValueError(words) from None
    return f"*.{name}" if star else name


def candidates(host: str) -> Iterator[str]:
    """Every pattern that a host (in its normal form) matches: itself, and each suffix of it. `*.a.b` is not `a.b`."""
    yield host
    rest = host
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"


def warnings(pattern: str) -> list[str]:
    """What somebody should know before allowing a pattern (in its normal form)."""
    if not pattern.startswith("*."):
        return []
    suffix = pattern.removeprefix("*.")
    if "." not in suffix:
        return [f"{pattern} allows a whole top-level domain: anybody can have a server there."]
    if suffix in SHARED:
        return [
            f"Below {suffix} anybody can have a name, so {pattern} lets data out to anybody. Name the hosts instead."
        ]
    return []


def check_ports(ports: object) -> list[int]:
    """The ports of a rule, in order, once each. Raises ValueError, with words."""
    right = isinstance(ports, list) and 1 <= len(ports) <= 20
    if not right or not all(type(port) is int and 1 <= port <= 65535 for port in ports):  # type: ignore[attr-defined]
        raise ValueError("Use 1 to 20 ports between 1 and 65535, such as 443.")
    return sorted(set(ports))  # type: ignore[call-overload]
