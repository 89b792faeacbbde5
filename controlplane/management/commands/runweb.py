"""`manage.py runweb`: pages, API, websockets, and the APIs of couriers, egress proxies and agents' model clients."""

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

# A thread that comes back from the database waits so long behind each other thread that computes. Python's own 5 ms are
# for programs of few threads (https://docs.python.org/3/library/sys.html#sys.setswitchinterval).
SWITCH_SECONDS = 0.001


class Command(BaseCommand):
    """Serves until SIGTERM or SIGINT."""

    help = "Serve pages, API, websockets and the machines' APIs."

    def add_arguments(self, parser: Any) -> None:
        """Where to listen."""
        parser.add_argument("-b", "--bind", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
        parser.add_argument("-p", "--port", type=int, default=settings.PORT)

    def handle(self, *args: Any, **options: Any) -> None:
        """Ends with status 1 if the address can't be had."""
        from controlplane import asgi  # starts the sign of life, so not for who merely lists commands
        from controlplane.server import Server

        sys.setswitchinterval(SWITCH_SECONDS)
        server = Server(asgi.application, options["bind"], options["port"], asgi.body_max, asgi.HEALTH)
        server.run()
        if server.failed:
            raise CommandError(server.failed)
