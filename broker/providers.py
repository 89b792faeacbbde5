"""What the broker knows of model APIs: where they are, which of their addresses agents may use, which headers pass."""

from collections.abc import Iterable
from dataclasses import dataclass

from groups.choices import Provider
from sessions.machine_api import Headers

# What belongs to one connection and not to what is passed on: RFC 9110, section 7.6.1.
HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "proxy-authorization", "proxy-authenticate", "proxy-authentication-info",
})  # fmt: skip
# What passes: a gateway may take from other headers where to send the request, with the key.
# Betas are checked in `allowlist`. What Claude Code says of itself passes.
REQUEST_HEADERS = frozenset({
    "accept", "user-agent", "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access",
    "openai-beta", "x-app", "x-claude-code-session-id",
})  # fmt: skip
REQUEST_HEADER_PREFIXES = ("x-stainless-",)
# What an agent may not choose even so: who asks, on whose account, and in which form the response comes.
NEVER_SENT = HOP_BY_HOP | {
    "host", "content-length", "accept-encoding", "expect", "cookie", "authorization", "x-api-key", "api-key",
    "openai-organization", "openai-project", "forwarded", "via", "x-real-ip",
}  # fmt: skip
# What a response says of the account that the key belongs to, and what is no longer so once it was read here.
NEVER_RETURNED = HOP_BY_HOP | {
    "content-length", "content-encoding",
    "set-cookie", "openai-organization", "openai-project", "anthropic-organization-id", "www-authenticate",
    "alt-svc", "strict-transport-security",
}  # fmt: skip


# (method, path) of what agents may use; a path that ends with / has a name after it. Only what makes an answer, which
# costs tokens, or tells what there is. Files, batches and stored answers are left out: they would show one tenant what
# another left under the same key.
GENERATING = {
    Provider.ANTHROPIC: frozenset({("POST", "/v1/messages")}),
    Provider.OPENAI: frozenset(("POST", f"/v1/{path}") for path in ("chat/completions", "responses", "embeddings")),
}
MODELS = frozenset({("GET", "/v1/models"), ("GET", "/v1/models/")})
FREE = {Provider.ANTHROPIC: MODELS | {("POST", "/v1/messages/count_tokens")}, Provider.OPENAI: MODELS}
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    provider: Provider
    path: str  # on the provider's side
    costs: bool  # tokens


def route(method: str, path: str) -> Route | None:
    """The route of `/broker/v1/<provider>/v1/…`, as it stands in the request, not decoded; None if there is none."""
    provider, slash, rest = path.removeprefix("/broker/v1/").partition("/")
    if provider not in Provider.values or not slash:
        return None
    name, inner = Provider(provider), f"/{rest}"
    if (method, inner) in GENERATING[name]:
        return Route(name, inner, costs=True)
    folder, _, last = inner.rpartition("/")
    named = set(last) <= NAME and set(last) != {"."} and (method, f"{folder}/") in FREE[name]
    return Route(name, inner, costs=False) if last and (named or (method, inner) in FREE[name]) else None


def stand_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What the agent sent in the place of a key: `x-api-key`, or a bearer token. Empty if nothing."""
    values = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}
    scheme, _, token = values.get("authorization", "").partition(" ")
    return values.get("x-api-key", "") or (token.strip() if scheme.lower() == "bearer" else "")


def request_headers(
    headers: Iterable[tuple[bytes, bytes]], name: str, key: str, extra: frozenset[str] = frozenset()
) -> list[tuple[str, str]]:
    """The headers of the request to the provider: the agent's, without what it may not choose, and with the key.

    `extra` are names of headers that operators let pass besides.
    """
    pairs = [(each.decode("latin-1"), value.decode("latin-1")) for each, value in headers]
    withheld = NEVER_SENT | {name.lower()} | _named_by_connection(pairs)
    allowed = REQUEST_HEADERS | extra
    passed = [
        (each, value)
        for each, value in pairs
        if (low := each.lower()) not in withheld and (low in allowed or low.startswith(REQUEST_HEADER_PREFIXES))
    ]
    secret = f"Bearer {key}" if name.lower() == "authorization" else key
    # Uncompressed, so that the tokens in the response can be counted as it passes.
    return [*passed, ("accept-encoding", "identity"), (name, secret)]


def response_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers of the response to the agent: the provider's, without what is about the connection or the account."""
    pairs = list(headers)
    withheld = NEVER_RETURNED | _named_by_connection(pairs)
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs if name.lower() not in withheld]


def _named_by_connection(pairs: Iterable[tuple[str, str]]) -> set[str]:
    return {each.strip().lower() for name, value in pairs if name.lower() == "connection" for each in value.split(",")}
