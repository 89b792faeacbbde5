"""`manage.py make_env`: writes the keys that a new installation needs to `.env`, and closes what others could read."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from controlplane import datafolder, dotenv


class Command(BaseCommand):
    """Leaves the keys that are there alone."""

    help = "Write missing keys (SECRET_KEY, ADMIN_PASSWORD) to .env; make it and DATA_DIR private."
    requires_system_checks = []  # it makes what the checks want

    def handle(self, *args: Any, **options: Any) -> None:
        """Complete the file, name what was added, and what was open to others."""
        file = settings.BASE_DIR / ".env"
        added = dotenv.complete(file)
        if added:
            self.stdout.write(f".env: made {', '.join(added)}")
        # With pods, what is in DATA_DIR may have to be read by another user, such as a server of static files.
        paths = [settings.DATA_DIR, file] if settings.RUNTIME == "local" else [file]
        closed = datafolder.make_private(*paths)
        for path in closed:
            self.stdout.write(f"{path}: others of this machine could read it, and no longer can")
