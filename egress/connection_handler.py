"""One connection of a client, from its first byte to its last."""

import asyncio
import time
from collections import Counter

from egress import targets
from egress.channel import Channel
from egress.control_plane_client import Away, ControlPlane
from egress.decisions import Decision, Decisions, Key, WrongCredential
from egress.dialer import Dialler, Resolver
from egress.http_forward import Exchange
from egress.limits import Limits, Rate
from egress.log import log
from egress.reports import Reports
from egress.request_head import NOT_ASKED, Head, credential, read_head
from egress.responses import PLACE, Refusal, denied
from egress.settings import Settings
from egress.sni_filter import Gate, HelloError
from egress.targets import Target
from egress.tunnel import Cause, Relay, Table, Tunnel

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
NEWCOMERS = 256  # connections of one address that have not been let through yet


class Desk:
    """What all visits of one proxy share."""

    def __init__(self, settings: Settings, control: ControlPlane, resolver: Resolver | None) -> None:
        """To be made within the loop; `resolver` as for Dialler."""
        self.settings = settings
        self.decisions = Decisions(control, settings.decide_seconds)
        self.table = Table(Limits(settings.tunnels, settings.bytes))
        self.rate = Rate(settings.connects)
        self.dialler = Dialler(settings, resolver)
        self.reports = Reports(control, self.table, settings.decide_seconds)
        self.newcomers: Counter[str] = Counter()


class Visit:
    """Serves one client.

    1. Read the head of its one request: a method, a host, a port, a credential.
    2. Ask the control plane whether this run may go there.
    3. Resolve the name, judge its addresses, dial one of them.
    4. CONNECT: say so, read the TLS hello, compare its name, join the two. Else: carry the request and its answer.
    """

    def __init__(self, desk: Desk, client: Channel) -> None:
        self.desk, self.client = desk, client
        peer = client.transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        self.method = ""
        self.key: Key | None = None  # known once the credential turned out right
        self.new = True

    async def serve(self) -> None:
        """Serve it, and close the connection. A tunnel's end cancels this."""
        self.desk.newcomers[self.peer] += 1
        try:
            if self.desk.newcomers[self.peer] > NEWCOMERS:
                raise Refusal(429, "too many connections at a time", retry_after=1)
            await self._serve()
        except Refusal as refusal:
            self._refuse(refusal)
            await self.client.linger()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._let_in()
            self.client.abort()

    async def _serve(self) -> None:
        head, target = await self._read()
        decision = await self._decide(head, target)
        self._check(target, decision)
        task = asyncio.current_task()
        assert self.key and task
        tunnel = Tunnel(self.key, decision.until, task.cancel)
        self.desk.table.enter(tunnel)
        try:
            server = await self.desk.dialler.dial(target.host, target.port, self.key.run)
            self._open(tunnel, server)
            if target.path is None:
                await self._tunnel(tunnel, head, server)
            else:
                await self._exchange(tunnel, head, target, server)
        finally:
            self._close(tunnel)
        await self.client.linger()

    async def _read(self) -> tuple[Head, Target]:
        """Step 1. Raises Refusal (400, 405, 408, 431)."""
        try:
            async with asyncio.timeout(self.desk.settings.head_seconds):
                head = await read_head(self.client)
        except TimeoutError:
            raise Refusal(408, "no request in time") from None
        self.method = head.method
        return head, targets.parse(head.method, head.target)

    async def _decide(self, head: Head, target: Target) -> Decision:
        """Step 2. Raises Refusal (407, 429, 503)."""
        run, secret = credential(head)
        key = Key(run, secret, target.host, target.port)
        # Whoever shows a wrong credential must not use up the rate of the run that it names.
        payer = f"run {run}" if self.desk.decisions.knows(key) else f"peer {self.peer}"
        if not self.desk.rate.take(payer, time.monotonic()):
            raise Refusal(429, "too many connects in this minute", retry_after=5)
        try:
            decision = await self.desk.decisions.ask(key)
        except WrongCredential:
            raise Refusal(407, "a wrong or expired credential", NOT_ASKED) from None
        except Away as away:
            log("no decision", run=run, host=target.host, problem=str(away))
            words = "Berth does not say whether this may be reached, so nothing new is let out"
            raise Refusal(503, words, "Try again in a moment.", retry_after=5) from None
        self.key = key
        self._let_in()
        return decision

    def _check(self, target: Target, decision: Decision) -> None:
        """Refuse what no rule may allow, what none allows, and what is above the run's limits (403, 429)."""
        assert self.key
        if target.literal:
            words = "Name the host instead: rules are for names, and the proxy looks up their addresses itself."
            raise denied("literal", f"{target.host} is an address and not a name", words)
        if target.path is None and target.port == targets.PLAIN_PORT:
            words = "Plain HTTP goes through a proxy as GET http://host/path. Tunnels are for TLS."
            raise denied("port", "no CONNECT to port 80", words)
        if not decision.holds(time.time()):
            place = f"{target.host}:{target.port}"
            raise denied("rule", f"no egress rule of this run allows {place}", decision.reason or PLACE)
        if why := self.desk.table.limits.refuses(self.key.run):
            raise Refusal(429, why, retry_after=5)

    async def _tunnel(self, tunnel: Tunnel, head: Head, server: Channel) -> None:
        """Step 4 for CONNECT. Nothing reaches the server before the hello is known to be for it."""
        gate = Gate(tunnel.key.host)
        self.client.write(ESTABLISHED)
        try:
            async with asyncio.timeout(self.desk.settings.hello_seconds):
                data = head.http.trailing_data[0]
                while not (passed := gate.feed(data)):
                    data = await self.client.read()
                    if not data:
                        tunnel.cause = Cause.CLIENT
                        return
            server.write(passed)
            await Relay(tunnel, self.client, server, gate).run()
        except (HelloError, TimeoutError) as error:
            tunnel.cause = Cause.HELLO
            words = str(error) or "no TLS hello in time"
            self.desk.reports.deny(
                tunnel.key, "hello", f"{words}: a tunnel to {tunnel.key.host} is for TLS with it only"
            )
            log("closed", run=tunnel.key.run, host=tunnel.key.host, port=tunnel.key.port, why=words)

    async def _exchange(self, tunnel: Tunnel, head: Head, target: Target, server: Channel) -> None:
        """Step 4 for plain HTTP."""
        try:
            await Exchange(head, target, self.client, server).run()
        finally:
            tunnel.cause = tunnel.cause or (Cause.CLIENT if self.client.lost else Cause.SERVER)

    def _open(self, tunnel: Tunnel, server: Channel) -> None:
        tunnel.client, tunnel.server = self.client, server
        server.meter = self.desk.table.meter(tunnel)
        if tunnel.cause:  # it was ended in the moment in which the connection came about
            tunnel.end(tunnel.cause)
        log("opened", tunnel=tunnel.id, run=tunnel.key.run, host=tunnel.key.host, port=tunnel.key.port)

    def _close(self, tunnel: Tunnel) -> None:
        self.desk.table.leave(tunnel)
        if tunnel.server:
            tunnel.server.abort()
            self.desk.reports.end(tunnel)
            sent, received = tunnel.counters
            log("ended", tunnel=tunnel.id, run=tunnel.key.run, cause=tunnel.cause, sent=sent, received=received)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, and have the run's session told where that is wanted; never one whose credential was not shown."""
        self.client.write(refusal.encode(body=self.method != "HEAD"))
        if self.key and refusal.code:
            self.desk.reports.deny(self.key, refusal.code, refusal.reason)
        if self.key:
            log("refused", run=self.key.run, host=self.key.host, port=self.key.port, why=refusal.reason)

    def _let_in(self) -> None:
        """Count the client as one that has been let through, or is gone."""
        if self.new:
            self.new = False
            self.desk.newcomers[self.peer] -= 1
            if not self.desk.newcomers[self.peer]:
                del self.desk.newcomers[self.peer]
