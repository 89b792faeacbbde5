"""One plain HTTP request and its response, each parsed by h11 and written anew, so that both ends see the same one."""

import asyncio
from collections.abc import Iterable

import h11

from egress.channel import Channel
from egress.request_head import RequestHead
from egress.responses import ErrorResponse
from egress.targets import Target

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info",
    b"proxy-connection", b"te", b"trailer", b"upgrade",
}  # fmt: skip
FRAMING = {b"host", b"content-length", b"transfer-encoding"}  # which Connection may name, but not remove
MAX_RESPONSE_HEAD = 64 * 1024  # bytes
VIA = (b"Via", b"1.1 berth")
CLOSE = (b"Connection", b"close")

Headers = Iterable[tuple[bytes, bytes]]


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers that are for the other end, without those of one hop and those that Connection names."""
    listed = list(headers)
    named = {
        name.strip().lower() for key, value in listed if key.lower() == b"connection" for name in value.split(b",")
    }
    removed = HOP_BY_HOP | (named - FRAMING)
    return [(key, value) for key, value in listed if key.lower() not in removed]


def upstream_request(head: RequestHead, target: Target) -> h11.Request:
    """Return the request as the server gets it: the URL's host counts, whatever the client's Host header says."""
    headers = [(key, value) for key, value in end_to_end(head.headers) if key != b"host"]
    host = (b"Host", target.authority.encode())
    return h11.Request(method=head.method, target=target.path or "/", headers=[host, *headers, VIA, CLOSE])


class HttpForwarder:
    """Carries one request and its response. `responded` becomes true with the first byte of the response's head."""

    def __init__(self, head: RequestHead, target: Target, client: Channel, server: Channel) -> None:
        self.head, self.target, self.client, self.server = head, target, client, server
        self.upstream = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_HEAD)
        self.responded = False

    async def run(self) -> None:
        """Carry both. Raises ErrorResponse before the response has begun, else ConnectionError."""
        self.server.write(self.upstream.send(upstream_request(self.head, self.target)) or b"")
        body = asyncio.create_task(self._forward_body())
        try:
            await self._forward_response()
            await self.client.flush()
        except (h11.ProtocolError, ConnectionError) as error:
            if self.responded:
                raise ConnectionResetError("the answer broke off") from error
            raise self._error(body) from None
        finally:
            body.cancel()
            await asyncio.wait([body])
            if not body.cancelled():
                body.exception()

    def _error(self, body: asyncio.Task[None]) -> ErrorResponse:
        """Return the error of whoever's fault it is that there is no response."""
        if body.done() and not body.cancelled() and isinstance(body.exception(), h11.RemoteProtocolError):
            return ErrorResponse(400, "a body that is not HTTP as this proxy takes it")
        return ErrorResponse(502, f"{self.target.host} gave no HTTP answer")

    async def _forward_body(self) -> None:
        """Pass on the request's body. What is wrong with it ends the exchange."""
        try:
            while True:
                event = self.head.http.next_event()
                if event is h11.NEED_DATA:
                    self.head.http.receive_data(await self.client.read())
                elif isinstance(event, h11.Data):
                    self.server.write(self.upstream.send(h11.Data(data=event.data)) or b"")
                    await self.server.drain()
                elif isinstance(event, h11.EndOfMessage):
                    self.server.write(self.upstream.send(h11.EndOfMessage()) or b"")
                    return await self._read_until_closed()
                else:
                    raise ConnectionResetError("gone")
        except (h11.ProtocolError, ConnectionError):
            self.server.abort()
            raise

    async def _read_until_closed(self) -> None:
        """Stop the exchange when the client is gone; what it sends after its request is read and dropped."""
        while await self.client.read():
            pass
        if self.client.closed:
            self.server.abort()

    async def _forward_response(self) -> None:
        while True:
            event = self.upstream.next_event()
            if event is h11.NEED_DATA:
                self.upstream.receive_data(await self.server.read())
            elif isinstance(event, h11.InformationalResponse):
                headers = end_to_end(event.headers.raw_items())
                self._respond(h11.InformationalResponse(status_code=event.status_code, headers=headers))
            elif isinstance(event, h11.Response):
                headers = [*end_to_end(event.headers.raw_items()), VIA, CLOSE]
                self.responded = True
                self._respond(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
            elif isinstance(event, h11.Data):
                self._respond(h11.Data(data=event.data))
                await self.client.drain()
            elif isinstance(event, h11.EndOfMessage):
                return self._respond(h11.EndOfMessage())
            else:
                raise ConnectionResetError("gone")

    def _respond(self, event: h11.Event) -> None:
        self.client.write(self.head.http.send(event) or b"")
