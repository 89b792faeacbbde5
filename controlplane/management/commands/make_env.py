"""`manage.py make_env`: writes the keys that a new installation needs to `.env`."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from controlplane import dotenv


class Command(BaseCommand):
    """Leaves what is there alone."""

    help = "Write missing keys (SECRET_KEY, ADMIN_PASSWORD) to .env."
    requires_system_checks = []  # it makes what the checks want

    def handle(self, *args: Any, **options: Any) -> None:
        """Complete the file and name what was added."""
        added = dotenv.complete(settings.BASE_DIR / ".env")
        if added:
            self.stdout.write(f".env: made {', '.join(added)}")
