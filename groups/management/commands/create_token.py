"""`manage.py create_token USER`: a bearer token for the API, shown once."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from groups.models import ApiToken


class Command(BaseCommand):
    """Prints nothing but the token on standard output, so that a script can take it from there."""

    help = "Make an API token for a user and print it once; only its hash is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """USER, and a name to know the token by."""
        parser.add_argument("user")
        parser.add_argument("--name", default="", help="a name to know it by, such as the program's")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the token."""
        model = get_user_model()
        user = model.objects.filter(**{model.USERNAME_FIELD: options["user"]}).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}. `manage.py createsuperuser` makes one.")
        if not user.is_active:
            raise CommandError(f"{options['user']} is switched off; a token would open nothing.")
        self.stdout.write(ApiToken.issue(user, options["name"]))
        self.stderr.write("Keep it: it can't be shown again.")
