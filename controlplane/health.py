"""`/healthz`: this process is alive. `/readyz`: it can do its work, check by check, each named with its duration.

Anybody may ask, so answers are shared for a second and tell no address, name or error text of what is behind: that is
in the log.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass

import structlog
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from runtimes.base import RuntimeFault
from sessions import work_queue
from sessions.leases import WATCHER
from sessions.lifecycle import runtime_factory
from sessions.models import Lease
from sessions.timeouts import begin

log = structlog.get_logger(__name__)

LIMIT_SECONDS = 2.0
SHARED_SECONDS = 1.0
WATCHER_SECONDS = 30.0
TASK_LATE_SECONDS, TASK_STUCK_SECONDS = 30.0, 120.0


class CheckFailed(Exception):
    """What a check found wrong; `str()` may be shown to anybody."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    name: str
    ok: bool
    milliseconds: float
    detail: str


# --- the checks: each returns its detail, or raises ---------------------------------------------------------------


def database() -> str:
    """The database answers."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return connection.vendor


@functools.cache
def migrations() -> str:
    """Every migration of this version was applied. A good answer stays good for as long as the process lives."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        first = f"{missing[0][0].app_label}.{missing[0][0].name}"
        raise CheckFailed(f"{len(missing)} not applied, from {first} on: run manage.py migrate")
    return "all applied"


def broker() -> str:
    """The queue of tasks answers, and is not stuck."""
    oldest = work_queue.oldest()
    age = (timezone.now() - oldest).total_seconds() if oldest else 0.0
    if age > TASK_STUCK_SECONDS:
        raise CheckFailed(f"a task waits for {age:.0f} s: is a worker running?")
    if age > TASK_LATE_SECONDS:
        return f"late: a task waits for {age:.0f} s"
    return f"a task waits for {max(age, 0):.1f} s" if oldest else "no task waits"


def runtime() -> str:
    """Runs could be made now."""
    runtime_factory.get(settings.RUNTIME).ping()
    return str(settings.RUNTIME)


def watcher() -> str:
    """A watcher leads, and works."""
    lease = Lease.objects.filter(name=WATCHER).first()
    if lease is None or not lease.holder:
        raise CheckFailed("nobody leads: is a watcher running?")
    age = (timezone.now() - lease.renewed_at).total_seconds()
    words = f"renewed {max(age, 0):.1f} s ago"
    if age > WATCHER_SECONDS:
        raise CheckFailed(words)
    return words


async def channel_layer() -> str:
    """What is sent arrives."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "health"})
    await layer.receive(channel)
    return type(layer).__name__


IN_THREADS: dict[str, Callable[[], str]] = {
    "database": database,
    "migrations": migrations,
    "broker": broker,
    "runtime": runtime,
    "watcher": watcher,
}
IN_LOOP: dict[str, Callable[[], Awaitable[str]]] = {"channel layer": channel_layer}
ORDER = ["database", "migrations", "broker", "channel layer", "runtime", "watcher"]


# --- running them -------------------------------------------------------------------------------------------------

_hanging: "dict[str, Future[str]]" = {}  # checks that have not come back; none is started beside itself


def _begin(name: str) -> "Future[str]":
    """Start a check in a thread of its own, unless the last one still hangs."""
    running = _hanging.get(name)
    if running is None or running.done():

        def work() -> str:
            try:
                return IN_THREADS[name]()
            finally:
                connections.close_all()

        _hanging[name] = running = begin(work, f"health: {name}")
    return running


async def run_check(name: str) -> Check:
    """Run one check within its time."""
    start = time.monotonic()
    try:
        work: Awaitable[str] = IN_LOOP[name]() if name in IN_LOOP else asyncio.wrap_future(_begin(name))
        ok, detail = True, await asyncio.wait_for(work, LIMIT_SECONDS)
    except TimeoutError:
        ok, detail = False, f"no answer within {LIMIT_SECONDS:g} s"
    except CheckFailed as failed:
        ok, detail = False, str(failed)
    except RuntimeFault as fault:
        log.warning("not ready", check=name, words=str(fault))
        ok, detail = False, f"{fault.cause.value}: see the log"
    except Exception as error:
        log.warning("not ready", check=name, words=str(error), exc_info=error)
        ok, detail = False, f"{type(error).__name__}: see the log"
    return Check(name, ok, round((time.monotonic() - start) * 1000, 1), detail)


async def run_checks() -> list[Check]:
    """All checks, at the same time."""
    return list(await asyncio.gather(*(run_check(name) for name in ORDER)))


class SharedChecks:
    """One round of checks for all who ask within a second."""

    def __init__(self) -> None:
        self._round: asyncio.Task[list[Check]] | None = None
        self._until = 0.0

    async def checks(self) -> list[Check]:
        """The round that is under way, or was just done."""
        task = self._round
        if task is None or task.get_loop() is not asyncio.get_running_loop() or self._old(task):
            self._round = task = asyncio.create_task(run_checks())
            task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _old(self, task: "asyncio.Task[list[Check]]") -> bool:
        return task.done() and (task.cancelled() or time.monotonic() > self._until)

    def _done(self, _: object) -> None:
        self._until = time.monotonic() + SHARED_SECONDS


shared = SharedChecks()


# --- the pages ----------------------------------------------------------------------------------------------------


@require_safe
async def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers. Asks nothing of anybody, so that an orchestrator doesn't restart it for another's fault."""
    return _json({"ok": True}, 200)


@require_safe
async def readyz(request: HttpRequest) -> HttpResponse:
    """200 if every check is well, else 503."""
    checks = await shared.checks()
    ready = all(check.ok for check in checks)
    return _json({"ready": ready, "checks": [asdict(check) for check in checks]}, 200 if ready else 503)


def _json(body: dict[str, object], status: int) -> HttpResponse:
    return JsonResponse(body, status=status, headers={"Cache-Control": "no-store"}, json_dumps_params={"indent": 2})
