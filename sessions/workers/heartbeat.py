"""The sign of life of `web`: while couriers find nobody at their door, none of them is blamed for being silent."""

import threading

import structlog
from django.db import close_old_connections

from sessions import leases

log = structlog.get_logger(__name__)
EVERY = 3.0  # seconds; a lease is stale after 10


def start() -> None:
    """Beat from a thread of this process until it ends."""
    threading.Thread(target=_beat, name="beat", daemon=True).start()


def _beat() -> None:
    pause = threading.Event()
    while not pause.wait(EVERY):
        try:
            close_old_connections()
            leases.beat(leases.WEB)
        except Exception as error:
            log.warning("no sign of life written", error=repr(error))
