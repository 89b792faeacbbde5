"""The head of a request to the proxy, parsed by h11: method, target, headers, and who sent it."""

import base64
import binascii
from typing import NamedTuple

import h11

from egress.channel import Channel
from egress.responses import Refusal

LONGEST = 16 * 1024  # bytes of a head
LONGEST_CREDENTIAL = 1024  # characters, decoded
NOT_ASKED = "this proxy wants the run's credential, as HTTP_PROXY and HTTPS_PROXY of the run have it"


class Head(NamedTuple):
    """One request up to its body. `http` is the connection's parser, which still holds what came after the head."""

    http: h11.Connection
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header (lower case)."""
        return [value for found, value in self.headers if found == name]


async def read_head(client: Channel) -> Head:
    """Read one request's head. Raises Refusal (400, 431) for what is none, ConnectionError when the client goes."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST)
    taken = 0
    try:
        while (event := http.next_event()) is h11.NEED_DATA:
            data = await client.read()
            if not data:
                raise ConnectionResetError("gone")
            taken += len(data)
            http.receive_data(data)
    except h11.RemoteProtocolError as error:
        # 501 is for transfer codings that h11 doesn't know: here they are a client's mistake like the others.
        status = error.error_status_hint if error.error_status_hint == 431 else 400
        raise Refusal(status, "not HTTP as this proxy takes it", str(error)) from None
    if not isinstance(event, h11.Request):
        raise ConnectionResetError("gone")
    head = Head(http, event.method.decode(), event.target.decode(), list(event.headers))
    if taken - len(http.trailing_data[0]) > LONGEST:
        raise Refusal(431, "a head that is too long")
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if lengths and codings:
        raise Refusal(400, "both Content-Length and Transfer-Encoding")
    if head.method == "CONNECT" and (codings or any(value != b"0" for value in lengths)):
        raise Refusal(400, "CONNECT has no body")
    return head


def credential(head: Head) -> tuple[str, str]:
    """Return run and credential of `Proxy-Authorization: Basic …`. Raises Refusal (407)."""
    given = head.values(b"proxy-authorization")
    if len(given) != 1:
        raise Refusal(407, "no credential", NOT_ASKED)
    scheme, _, value = given[0].partition(b" ")
    try:
        words = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        words = ""
    run, colon, secret = words.partition(":")
    if scheme.lower() != b"basic" or not (run and colon and secret) or len(words) > LONGEST_CREDENTIAL:
        raise Refusal(407, "not a run's credential", NOT_ASKED)
    return run, secret
