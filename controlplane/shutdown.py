"""Ending what a laptop's Berth started: agents outlive their worker by design, so a shutdown has to end them."""

import time

from django.conf import settings
from django.db import close_old_connections

from runtimes.base import Phase
from sessions.choices import Intent
from sessions.lifecycle import runtime_factory, transitions
from sessions.models import Run

BY = "the shutdown of Berth"


def stop_local_runs() -> int:
    """Ask every active local run to end, while its courier can still ship its last words; return how many there are.

    Waiting messages keep their places: the next start goes on with them. Runs in a cluster are left alone.
    """
    if settings.RUNTIME != "local":
        return 0
    close_old_connections()
    runs = list(Run.objects.active().filter(runtime="local").select_related("session__group"))
    for run in runs:
        transitions.request_end(run.pk, Intent.SHUTDOWN, BY)
        runtime_factory.get("local").stop(run.ref)
    return len(runs)


def wait_for_local_runs(seconds: float) -> bool:
    """Wait until the asked runs' processes are gone; False if some still are there after so many seconds."""
    runtime = runtime_factory.get("local")
    end = time.monotonic() + seconds
    while any(runtime.observe(ref).phase not in (Phase.ABSENT, Phase.FINISHED) for ref in runtime.runs()):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)  # they are not our children: nothing tells us of their end
    return True


def end_local_runs(seconds: float = 5) -> None:
    """Give every local run that is left its verdict, and remove its processes."""
    if settings.RUNTIME != "local":
        return
    stop_local_runs()
    wait_for_local_runs(seconds)
    runtime = runtime_factory.get("local")
    for ref in list(runtime.runs()):
        run = Run.objects.active().filter(pk=ref.run).first()
        if run:
            transitions.end(run, runtime.observe(ref))
        runtime.destroy(ref)
