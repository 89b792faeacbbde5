"""The head of a request to the proxy, parsed by h11: method, target, headers, and who sent it."""

import base64
import binascii
from typing import NamedTuple

import h11

from egress.channel import Channel
from egress.responses import ErrorResponse

MAX_HEAD = 16 * 1024  # bytes
MAX_CREDENTIAL = 1024  # characters, decoded
CREDENTIAL_HINT = "this proxy wants the run's credential, as HTTP_PROXY and HTTPS_PROXY of the run have it"


class RequestHead(NamedTuple):
    """One request up to its body. `http` is the connection's parser, which still holds what came after the head."""

    http: h11.Connection
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header (lower case)."""
        return [value for key, value in self.headers if key == name]


async def read_request_head(client: Channel) -> RequestHead:
    """Read one request's head. Raises ErrorResponse (400, 431), or ConnectionError when the client goes."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    received = 0
    try:
        while (event := http.next_event()) is h11.NEED_DATA:
            data = await client.read()
            if not data:
                raise ConnectionResetError("gone")
            received += len(data)
            http.receive_data(data)
    except h11.RemoteProtocolError as error:
        # 501 is for transfer codings that h11 doesn't know: here they are a client's mistake like the others.
        status = error.error_status_hint if error.error_status_hint == 431 else 400
        raise ErrorResponse(status, "not HTTP as this proxy takes it", str(error)) from None
    if not isinstance(event, h11.Request):
        raise ConnectionResetError("gone")
    head = RequestHead(http, event.method.decode(), event.target.decode(), list(event.headers))
    if received - len(http.trailing_data[0]) > MAX_HEAD:
        raise ErrorResponse(431, "a head that is too long")
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if lengths and codings:
        raise ErrorResponse(400, "both Content-Length and Transfer-Encoding")
    if head.method == "CONNECT" and (codings or any(value != b"0" for value in lengths)):
        raise ErrorResponse(400, "CONNECT has no body")
    return head


def proxy_credentials(head: RequestHead) -> tuple[str, str]:
    """Return run and credential of `Proxy-Authorization: Basic …`. Raises ErrorResponse (407)."""
    headers = head.values(b"proxy-authorization")
    if len(headers) != 1:
        raise ErrorResponse(407, "no credential", CREDENTIAL_HINT)
    scheme, _, value = headers[0].partition(b" ")
    try:
        pair = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        pair = ""
    run, colon, secret = pair.partition(":")
    if scheme.lower() != b"basic" or not (run and colon and secret) or len(pair) > MAX_CREDENTIAL:
        raise ErrorResponse(407, "not a run's credential", CREDENTIAL_HINT)
    return run, secret
