"""The heartbeat of `web`: while it is away, no courier is blamed for being silent."""

import threading

import structlog
from django.db import close_old_connections

from sessions import leases

log = structlog.get_logger(__name__)
EVERY = 3.0  # seconds; a lease is stale after 10


def start() -> None:
    """Write the heartbeat from a thread of this process until it ends."""
    threading.Thread(target=_run, name="heartbeat", daemon=True).start()


def _run() -> None:
    pause = threading.Event()
    while not pause.wait(EVERY):
        try:
            close_old_connections()
            leases.heartbeat(leases.WEB)
        except Exception as error:
            log.warning("no sign of life written", error=repr(error))
