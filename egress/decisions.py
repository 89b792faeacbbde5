"""May this run reach this host? The control plane decides; its decision is cached for some seconds."""

import asyncio
import time
from typing import NamedTuple, TypeVar

from egress.control_plane_client import ControlPlaneClient, ControlPlaneUnavailable

ALLOWED_SECONDS, DENIED_SECONDS = 10.0, 1.0  # how long a decision is cached
VALID_SECONDS = 60.0  # how long a credential counts as known, for limits only
CACHE_SIZE = 10_000  # decisions, credentials
CONCURRENCY = 32  # decisions on the way
TRIES = 3  # for a decision that is not older than what the control plane has announced

K = TypeVar("K")
V = TypeVar("V")


class DecisionKey(NamedTuple):
    """Who wants to go where."""

    run: str
    credential: str
    host: str
    port: int

    def __repr__(self) -> str:
        return (
            f"DecisionKey({self.run!r}, {self.host!r}, {self.port})"  # without the credential: this may get into a log
        )


class Decision(NamedTuple):
    """What the control plane said. `until` is in seconds since the epoch; `reason` is for the agent to read."""

    allowed: bool
    until: float | None
    reason: str
    version: int

    def allows(self, now: float) -> bool:
        """Tell whether the host may be reached at this time."""
        return self.allowed and (self.until is None or now < self.until)


class WrongCredential(Exception):
    """The control plane does not know this run with this credential (any more)."""


class DecisionCache:
    """Has the control plane decide, and caches that. `version` is the highest announced (policy_sync sets it)."""

    def __init__(self, control_plane: ControlPlaneClient, seconds: float) -> None:
        """`seconds` is the time for one decision."""
        self.control_plane, self.seconds = control_plane, seconds
        self.version = -1
        self.cache: dict[DecisionKey, tuple[float, Decision]] = {}
        self.valid: dict[tuple[str, str], float] = {}  # run and credential, and until when they count as known
        self.in_flight: dict[DecisionKey, asyncio.Task[Decision]] = {}
        self.slots = asyncio.Semaphore(CONCURRENCY)

    async def decide(self, key: DecisionKey) -> Decision:
        """Return the decision. Raises WrongCredential or ControlPlaneUnavailable."""
        until, decision = self.cache.get(key, (0.0, None))
        if decision and time.monotonic() < until:
            return decision
        while True:
            task = self.in_flight.get(key)
            if task is None:  # else the same is on its way for another connection
                task = self.in_flight[key] = asyncio.create_task(self._decide_and_cache(key))
                task.add_done_callback(lambda done: self._decided(key, done))
            decision = await asyncio.shield(task)
            if decision.version >= self.version:  # else a change was announced in this very moment
                return decision

    async def decide_fresh(self, key: DecisionKey) -> Decision:
        """Return a decision that is not from the cache. Raises WrongCredential or ControlPlaneUnavailable."""
        for _ in range(TRIES):
            decision = await self._request(key)
            if decision.version >= self.version:
                return decision
        raise ControlPlaneUnavailable("decisions that are older than the last change")

    def clear(self) -> None:
        """Empty the cache."""
        self.cache.clear()

    def knows_credential(self, key: DecisionKey) -> bool:
        """Tell whether this credential was right a moment ago."""
        return time.monotonic() < self.valid.get((key.run, key.credential), 0.0)

    async def _decide_and_cache(self, key: DecisionKey) -> Decision:
        try:
            async with asyncio.timeout(self.seconds), self.slots:
                decision = await self.decide_fresh(key)
        except TimeoutError:
            raise ControlPlaneUnavailable("no decision in time") from None
        seconds = ALLOWED_SECONDS if decision.allowed else DENIED_SECONDS
        put(self.cache, key, (time.monotonic() + seconds, decision))
        return decision

    def _decided(self, key: DecisionKey, task: asyncio.Task[Decision]) -> None:
        self.in_flight.pop(key, None)
        if not task.cancelled():
            task.exception()  # raised to those who wait, if there are any

    async def _request(self, key: DecisionKey) -> Decision:
        response = await self.control_plane.call("POST", "/egress/v1/decide", self.seconds, key._asdict())
        if response.status == 401:
            self.valid.pop((key.run, key.credential), None)
            raise WrongCredential
        body = response.body
        try:
            if response.status != 200 or not isinstance(body["allowed"], bool):
                raise ValueError(f"status {response.status}")
            until = None if body.get("until") is None else float(body["until"])
            decision = Decision(body["allowed"], until, str(body.get("reason") or ""), int(body["version"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ControlPlaneUnavailable(f"no decision: {error}") from None
        put(self.valid, (key.run, key.credential), time.monotonic() + VALID_SECONDS)
        return decision


def put(cache: dict[K, V], key: K, value: V) -> None:
    """Put a value in as the newest; of too many the oldest is dropped."""
    cache.pop(key, None)
    if len(cache) >= CACHE_SIZE:
        cache.pop(next(iter(cache)))
    cache[key] = value
