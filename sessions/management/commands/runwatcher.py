"""`manage.py runwatcher`: watches the runtime, sweeps what is due. One leads, others stand by."""

import signal
import sys
import threading
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand

from sessions.lifecycle import runtime_factory
from sessions.workers.watcher import Watcher, holder_name

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    """Runs until SIGTERM or SIGINT; exits with 1 when it can't work, so that a supervisor starts it anew."""

    help = "Watch Jobs, pods and processes, and act on what is due."

    def handle(self, *args: Any, **options: Any) -> None:
        """The loop around `Watcher.step`."""
        asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked.set())
        watcher = Watcher(runtime_factory.get(settings.RUNTIME), holder_name())
        log.info("watcher starts", runtime=settings.RUNTIME, holder=watcher.holder)
        failures = 0
        try:
            while not asked.is_set():
                try:
                    watcher.step()
                    failures = 0
                except RuntimeError as error:
                    log.error("watcher gives up", error=str(error))
                    sys.exit(1)
                except Exception:
                    failures += 1
                    log.exception("a round failed", failures=failures)
                    if failures >= 30:
                        sys.exit(1)
                asked.wait(1.0)
        finally:
            watcher.stop()
        log.info("watcher stopped")
