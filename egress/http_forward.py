"""One plain HTTP request and its answer, each parsed by h11 and written anew, so that both ends see the same one."""

import asyncio
from collections.abc import Iterable

import h11

from egress.channel import Channel
from egress.request_head import Head
from egress.responses import Refusal
from egress.targets import Target

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info",
    b"proxy-connection", b"te", b"trailer", b"upgrade",
}  # fmt: skip
FRAMING = {b"host", b"content-length", b"transfer-encoding"}  # which Connection may name, but not remove
LONGEST = 64 * 1024  # bytes of an answer's head
VIA = (b"Via", b"1.1 berth")
CLOSE = (b"Connection", b"close")

Headers = Iterable[tuple[bytes, bytes]]


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers that are for the other end, without those of one hop and those that Connection names."""
    listed = list(headers)
    named = {
        name.strip().lower() for key, value in listed if key.lower() == b"connection" for name in value.split(b",")
    }
    gone = HOP_BY_HOP | (named - FRAMING)
    return [(key, value) for key, value in listed if key.lower() not in gone]


def forwarded(head: Head, target: Target) -> h11.Request:
    """Return the request as the server gets it: the URL's host counts, whatever the client's Host header says."""
    headers = [(key, value) for key, value in end_to_end(head.headers) if key != b"host"]
    host = (b"Host", target.authority.encode())
    return h11.Request(method=head.method, target=target.path or "/", headers=[host, *headers, VIA, CLOSE])


class Exchange:
    """One request and its answer. `answered` becomes true with the first byte of the answer's head."""

    def __init__(self, head: Head, target: Target, client: Channel, server: Channel) -> None:
        self.head, self.target, self.client, self.server = head, target, client, server
        self.upstream = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST)
        self.answered = False

    async def run(self) -> None:
        """Carry both. Raises Refusal while nothing was answered, else ConnectionError."""
        self.server.write(self.upstream.send(forwarded(self.head, self.target)) or b"")
        body = asyncio.create_task(self._carry_body())
        try:
            await self._carry_answer()
            await self.client.flush()
        except (h11.ProtocolError, ConnectionError) as error:
            if self.answered:
                raise ConnectionResetError("the answer broke off") from error
            raise self._why(body) from None
        finally:
            body.cancel()
            await asyncio.wait([body])
            if not body.cancelled():
                body.exception()

    def _why(self, body: asyncio.Task[None]) -> Refusal:
        """Return whose fault it is that there is no answer."""
        if body.done() and not body.cancelled() and isinstance(body.exception(), h11.RemoteProtocolError):
            return Refusal(400, "a body that is not HTTP as this proxy takes it")
        return Refusal(502, f"{self.target.host} gave no HTTP answer")

    async def _carry_body(self) -> None:
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
                    return await self._watch_client()
                else:
                    raise ConnectionResetError("gone")
        except (h11.ProtocolError, ConnectionError):
            self.server.abort()
            raise

    async def _watch_client(self) -> None:
        """Stop the exchange when the client is gone; what it sends after its request is read and dropped."""
        while await self.client.read():
            pass
        if self.client.lost:
            self.server.abort()

    async def _carry_answer(self) -> None:
        while True:
            event = self.upstream.next_event()
            if event is h11.NEED_DATA:
                self.upstream.receive_data(await self.server.read())
            elif isinstance(event, h11.InformationalResponse):
                headers = end_to_end(event.headers.raw_items())
                self._answer(h11.InformationalResponse(status_code=event.status_code, headers=headers))
            elif isinstance(event, h11.Response):
                headers = [*end_to_end(event.headers.raw_items()), VIA, CLOSE]
                self.answered = True
                self._answer(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
            elif isinstance(event, h11.Data):
                self._answer(h11.Data(data=event.data))
                await self.client.drain()
            elif isinstance(event, h11.EndOfMessage):
                return self._answer(h11.EndOfMessage())
            else:
                raise ConnectionResetError("gone")

    def _answer(self, event: h11.Event) -> None:
        self.client.write(self.head.http.send(event) or b"")
