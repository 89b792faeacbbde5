"""May this run reach this host? The control plane decides; what it said is kept for some seconds."""

import asyncio
import time
from typing import NamedTuple, TypeVar

from egress.control_plane_client import Away, ControlPlane

ALLOWED_SECONDS, DENIED_SECONDS = 10.0, 1.0  # how long an answer is kept
GOOD_SECONDS = 60.0  # how long a credential counts as known, for limits only
KEPT = 10_000  # answers, credentials
AT_ONCE = 32  # questions on the way
TRIES = 3  # for an answer that is not older than what the control plane has announced

K = TypeVar("K")
V = TypeVar("V")


class Key(NamedTuple):
    """Who wants to go where."""

    run: str
    credential: str
    host: str
    port: int

    def __repr__(self) -> str:
        return f"Key({self.run!r}, {self.host!r}, {self.port})"  # without the credential: this may get into a log


class Decision(NamedTuple):
    """What the control plane said. `until` is in seconds since the epoch; `reason` is in words for the agent."""

    allowed: bool
    until: float | None
    reason: str
    version: int

    def holds(self, now: float) -> bool:
        """Tell whether the host may be reached at this time."""
        return self.allowed and (self.until is None or now < self.until)


class WrongCredential(Exception):
    """The control plane does not know this run with this credential (any more)."""


class Decisions:
    """Asks and remembers. `version` is the highest that the control plane has announced (egress/policy_sync.py sets
    it)."""

    def __init__(self, control: ControlPlane, seconds: float) -> None:
        """`seconds` is the time for one question."""
        self.control, self.seconds = control, seconds
        self.version = -1
        self.kept: dict[Key, tuple[float, Decision]] = {}
        self.good: dict[tuple[str, str], float] = {}  # run and credential, and until when they count as known
        self.asked: dict[Key, asyncio.Task[Decision]] = {}
        self.turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, key: Key) -> Decision:
        """Return the decision. Raises WrongCredential or Away."""
        until, decision = self.kept.get(key, (0.0, None))
        if decision and time.monotonic() < until:
            return decision
        while True:
            task = self.asked.get(key)
            if task is None:  # else somebody else has just asked the same
                task = self.asked[key] = asyncio.create_task(self._ask_and_keep(key))
                task.add_done_callback(lambda done: self._answered(key, done))
            decision = await asyncio.shield(task)
            if decision.version >= self.version:  # else a change was announced in this very moment
                return decision

    async def ask_anew(self, key: Key) -> Decision:
        """Ask, whatever is kept. Raises WrongCredential or Away."""
        for _ in range(TRIES):
            decision = await self._ask(key)
            if decision.version >= self.version:
                return decision
        raise Away("decisions that are older than the last change")

    def forget(self) -> None:
        """Drop what is kept."""
        self.kept.clear()

    def knows(self, key: Key) -> bool:
        """Tell whether this credential was right a moment ago."""
        return time.monotonic() < self.good.get((key.run, key.credential), 0.0)

    async def _ask_and_keep(self, key: Key) -> Decision:
        try:
            async with asyncio.timeout(self.seconds), self.turns:
                decision = await self.ask_anew(key)
        except TimeoutError:
            raise Away("no decision in time") from None
        seconds = ALLOWED_SECONDS if decision.allowed else DENIED_SECONDS
        put(self.kept, key, (time.monotonic() + seconds, decision))
        return decision

    def _answered(self, key: Key, task: asyncio.Task[Decision]) -> None:
        self.asked.pop(key, None)
        if not task.cancelled():
            task.exception()  # those who wait get it; if they are gone, nobody has to

    async def _ask(self, key: Key) -> Decision:
        answer = await self.control.call("POST", "/egress/v1/decide", self.seconds, key._asdict())
        if answer.status == 401:
            self.good.pop((key.run, key.credential), None)
            raise WrongCredential
        body = answer.body
        try:
            if answer.status != 200 or not isinstance(body["allowed"], bool):
                raise ValueError(f"status {answer.status}")
            until = None if body.get("until") is None else float(body["until"])
            decision = Decision(body["allowed"], until, str(body.get("reason") or ""), int(body["version"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Away(f"no decision: {error}") from None
        put(self.good, (key.run, key.credential), time.monotonic() + GOOD_SECONDS)
        return decision


def put(kept: dict[K, V], key: K, value: V) -> None:
    """Remember a value as the newest; of too many the oldest is forgotten."""
    kept.pop(key, None)
    if len(kept) >= KEPT:
        kept.pop(next(iter(kept)))
    kept[key] = value
