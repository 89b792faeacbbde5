"""Database work of the async parts of `web`.

Channels' own `database_sync_to_async` runs all consumers of a process on one thread; here they share small pools: the
APIs of couriers, proxies and agents one, the readers of streams another, so that however many read, nobody else waits
behind them; and a third one of a single thread renders what agents and people wrote, which takes CPU alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import DatabaseError, connection, connections

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 8
STREAM_THREADS = 3
_pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="database")
STREAMS = ThreadPoolExecutor(max_workers=STREAM_THREADS, thread_name_prefix="streams")
RENDERING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rendering")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on the machine APIs' pool. A thread keeps its database connection until something fails in it."""
    return await on(_pool, work, *args, **kwargs)


async def on(pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `in_thread`, on another pool: for what may wait for more than the database."""

    def call() -> T:
        try:
            return work(*args, **kwargs)
        except DatabaseError:
            connections.close_all()
            raise

    return await asyncio.get_running_loop().run_in_executor(pool, call)


def let_go() -> None:
    """Give back the database connection of a request that goes on as a stream: it would be the stream's until its end.

    A stream asks on threads of its own (`STREAMS`), which have theirs.
    """
    if not connection.in_atomic_block:
        connection.close()


class SingleFlight:
    """Lets those who ask the same question at the same time share one answer.

    A hundred pages that one notification wakes read the same rows: one of them reads, the others wait for its result.
    Who asks while an answer is being read might get one from before what they ask about: they share the next one.
    """

    def __init__(self) -> None:
        self._next: dict[Hashable, asyncio.Task[Any]] = {}  # those that have not begun
        self._last: dict[Hashable, asyncio.Task[Any]] = {}

    async def share(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work()`, or of another call with the same key that begins after this one."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.ensure_future(self._fly(key, self._last.get(key), work))
            self._last[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def _fly(self, key: Hashable, before: "asyncio.Task[Any] | None", work: Callable[[], Awaitable[T]]) -> T:
        if before:
            await asyncio.wait([before])
        del self._next[key]
        return await work()

    def _forget(self, key: Hashable, done: "asyncio.Task[Any]") -> None:
        if self._last.get(key) is done:
            del self._last[key]
        if not done.cancelled():
            done.exception()  # whoever asked has it, if they are still there
