"""Database work of the async parts of `web`.

Channels' own `database_sync_to_async` runs all consumers of a process on one thread; here they share a small pool.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import DatabaseError, connections

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 8
_pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="database")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on the pool. Each thread keeps its database connection, but for one in which something failed."""
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


class SingleFlight:
    """Lets those who ask the same question at the same time share one answer.

    A hundred pages that wake at one doorbell read the same rows: one of them asks, the others wait for its result.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}

    async def share(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work()`, or of another call with the same key that is under way."""
        task = self._flights.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._flights[key] = task
            task.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(task)
