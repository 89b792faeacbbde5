"""Ending what a laptop's Berth started: agents outlive their worker by design, so a shutdown has to end them."""

import time

from django.conf import settings
from django.db import close_old_connections

from k8s_adapter.runtime import Cause, Phase
from sessions import lifecycle, runtimes
from sessions.models import Run


def end_local_runs(seconds: float = 15) -> int:
    """Stop every local run, wait for its last words, give its verdict, and return how many there were.

    Waiting messages keep their places: the next start goes on with them. Runs in a cluster are left alone.
    """
    if settings.RUNTIME != "local":
        return 0
    close_old_connections()
    runtime = runtimes.get("local")
    refs = list(runtime.owned())
    for ref in refs:
        runtime.stop(ref)
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(runtime.observe(r).phase not in (Phase.ABSENT, Phase.FINISHED) for r in refs):
        time.sleep(0.1)  # the runtime's processes are not ours to wait for
    for ref in refs:
        run = Run.objects.active().filter(pk=ref.run).first()
        if run:
            lifecycle.end(run, runtime.observe(ref), Cause.STOPPED, "Berth was shut down")
        runtime.destroy(ref)
    return len(refs)
