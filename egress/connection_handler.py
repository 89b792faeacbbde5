"""One connection of a client, from its first byte to its last."""

import asyncio
import time

from egress import hosts, targets
from egress.channel import Channel
from egress.control_plane_client import ControlPlaneUnavailable
from egress.decisions import Decision, DecisionKey, WrongCredential
from egress.http_forward import HttpForwarder
from egress.log import log
from egress.proxy_state import ProxyState
from egress.request_head import CREDENTIAL_HINT, RequestHead, proxy_credentials, read_request_head
from egress.responses import APPROVAL_HINT, ErrorResponse, forbidden
from egress.sni_filter import HelloError, SniFilter
from egress.targets import Target
from egress.tunnel import Cause, Relay, Tunnel

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
PENDING_PER_ADDRESS = 256  # connections that have not been let through yet


class ConnectionHandler:
    """Serves one client.

    1. Read the head of its one request: a method, a host, a port, a credential.
    2. Ask the control plane whether this run may go there.
    3. Resolve the name, check its addresses, dial one of them.
    4. CONNECT: say so, read the TLS hello, compare its name, join the two. Else: carry the request and its answer.
    """

    def __init__(self, state: ProxyState, client: Channel) -> None:
        self.state, self.client = state, client
        peer = client.transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self.method = ""
        self.key: DecisionKey | None = None  # known once the credential turned out right
        self.is_pending = True

    async def serve(self) -> None:
        """Serve it, and close the connection. A tunnel's end cancels this."""
        self.state.pending[self.address] += 1
        try:
            if self.state.pending[self.address] > PENDING_PER_ADDRESS:
                raise ErrorResponse(429, "too many connections at a time", retry_after=1)
            await self._serve()
        except ErrorResponse as error:
            self._respond(error)
            await self.client.linger()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._leave_pending()
            self.client.abort()

    async def _serve(self) -> None:
        head, target = await self._read_request()
        decision = await self._decide(head, target)
        self._check(target, decision)
        task = asyncio.current_task()
        assert self.key and task
        tunnel = Tunnel(self.key, decision.until, task.cancel)
        self.state.tunnels.add(tunnel)
        try:
            server = await self.state.dialer.dial(target.host, target.port, self.key.run)
            self._open(tunnel, server)
            if target.path is None:
                await self._tunnel(tunnel, head, server)
            else:
                await self._forward(tunnel, head, target, server)
        finally:
            self._close(tunnel)
        await self.client.linger()

    async def _read_request(self) -> tuple[RequestHead, Target]:
        """Step 1. Raises ErrorResponse (400, 405, 408, 431)."""
        try:
            async with asyncio.timeout(self.state.settings.head_seconds):
                head = await read_request_head(self.client)
        except TimeoutError:
            raise ErrorResponse(408, "no request in time") from None
        self.method = head.method
        return head, targets.parse_target(head.method, head.target)

    async def _decide(self, head: RequestHead, target: Target) -> Decision:
        """Step 2. Raises ErrorResponse (407, 429, 503)."""
        run, secret = proxy_credentials(head)
        key = DecisionKey(run, secret, target.host, target.port)
        # Whoever shows a wrong credential must not use up the rate of the run that it names.
        payer = f"run {run}" if self.state.decisions.knows_credential(key) else f"peer {self.address}"
        if not self.state.rate.take(payer, time.monotonic()):
            raise ErrorResponse(429, "too many connects in this minute", retry_after=5)
        try:
            decision = await self.state.decisions.decide(key)
        except WrongCredential:
            raise ErrorResponse(407, "a wrong or expired credential", CREDENTIAL_HINT) from None
        except ControlPlaneUnavailable as error:
            log("no decision", run=run, host=target.host, problem=str(error))
            summary = "Berth does not say whether this may be reached, so nothing new is let out"
            raise ErrorResponse(503, summary, "Try again in a moment.", retry_after=5) from None
        self.key = key
        self._leave_pending()
        return decision

    def _check(self, target: Target, decision: Decision) -> None:
        """Refuse what no rule may allow, what none allows, and what is above the run's limits (403, 429)."""
        assert self.key
        if hosts.is_literal(target.host):
            hint = "Name the host instead: rules are for names, and the proxy looks up their addresses itself."
            raise forbidden("literal", f"{target.host} is an address and not a name", hint)
        if target.path is None and target.port == targets.HTTP_PORT:
            hint = "Plain HTTP goes through a proxy as GET http://host/path. Tunnels are for TLS."
            raise forbidden("port", "no CONNECT to port 80", hint)
        if not decision.allows(time.time()):
            summary = f"no egress rule of this run allows {target.host}:{target.port}"
            raise forbidden("rule", summary, decision.reason or APPROVAL_HINT)
        if reason := self.state.tunnels.limits.exceeded(self.key.run):
            raise ErrorResponse(429, reason, retry_after=5)

    async def _tunnel(self, tunnel: Tunnel, head: RequestHead, server: Channel) -> None:
        """Step 4 for CONNECT. Nothing reaches the server before the hello is known to be for it."""
        sni_filter = SniFilter(tunnel.key.host)
        self.client.write(ESTABLISHED)
        try:
            async with asyncio.timeout(self.state.settings.hello_seconds):
                data = head.http.trailing_data[0]
                while not (allowed := sni_filter.feed(data)):
                    data = await self.client.read()
                    if not data:
                        tunnel.cause = Cause.CLIENT
                        return
            server.write(allowed)
            await Relay(tunnel, self.client, server, sni_filter).run()
        except (HelloError, TimeoutError) as error:
            tunnel.cause = Cause.HELLO
            reason = str(error) or "no TLS hello in time"
            self.state.reporter.add_denial(
                tunnel.key, "hello", f"{reason}: a tunnel to {tunnel.key.host} is for TLS with it only"
            )
            log("closed", run=tunnel.key.run, host=tunnel.key.host, port=tunnel.key.port, why=reason)

    async def _forward(self, tunnel: Tunnel, head: RequestHead, target: Target, server: Channel) -> None:
        """Step 4 for plain HTTP."""
        try:
            await HttpForwarder(head, target, self.client, server).run()
        finally:
            tunnel.cause = tunnel.cause or (Cause.CLIENT if self.client.closed else Cause.SERVER)

    def _open(self, tunnel: Tunnel, server: Channel) -> None:
        tunnel.client, tunnel.server = self.client, server
        server.on_transfer = self.state.tunnels.byte_counter(tunnel)
        if tunnel.cause:  # it was ended in the moment in which the connection came about
            tunnel.end(tunnel.cause)
        log("opened", tunnel=tunnel.id, run=tunnel.key.run, host=tunnel.key.host, port=tunnel.key.port)

    def _close(self, tunnel: Tunnel) -> None:
        self.state.tunnels.remove(tunnel)
        if tunnel.server:
            tunnel.server.abort()
            self.state.reporter.add_ended(tunnel)
            sent, received = tunnel.counters
            log("ended", tunnel=tunnel.id, run=tunnel.key.run, cause=tunnel.cause, sent=sent, received=received)

    def _respond(self, error: ErrorResponse) -> None:
        """Send the response, and report it where it has a code; never for a run whose credential was not shown."""
        self.client.write(error.encode(body=self.method != "HEAD"))
        if self.key and error.code:
            self.state.reporter.add_denial(self.key, error.code, error.reason)
        if self.key:
            log("refused", run=self.key.run, host=self.key.host, port=self.key.port, why=error.reason)

    def _leave_pending(self) -> None:
        """Count the client as one that has been let through, or is gone."""
        if self.is_pending:
            self.is_pending = False
            self.state.pending[self.address] -= 1
            if not self.state.pending[self.address]:
                del self.state.pending[self.address]
