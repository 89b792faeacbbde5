"""`manage.py create_token USER`: a bearer token for the API, shown once."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from groups import audit
from groups.choices import Scope
from groups.models import AgentGroup, ApiToken
from groups.models.tokens import DEFAULT_DAYS, MAX_DAYS


class Command(BaseCommand):
    """Prints the token alone on standard output, so that a script can take it from there."""

    help = "Make an API token for a user and print it once; only its hash is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """USER, and a name to know the token by."""
        parser.add_argument("user")
        parser.add_argument("--name", default="", help="a name to know it by, such as the program's")
        parser.add_argument("--scope", choices=Scope.values, default=Scope.WRITE.value, help="default: %(default)s")
        parser.add_argument(
            "--days", type=int, default=DEFAULT_DAYS, help="how long it is good; 0 for ever (default: %(default)s)"
        )
        parser.add_argument("--group", default="", metavar="SLUG", help="the only group that it reaches")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the token."""
        model = get_user_model()
        user = model.objects.filter(**{model.USERNAME_FIELD: options["user"]}).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}. `manage.py createsuperuser` makes one.")
        if not user.is_active:
            raise CommandError(f"{options['user']} is switched off; a token would open nothing.")
        if not 0 <= options["days"] <= MAX_DAYS:
            raise CommandError(f"--days is {options['days']}. Use 0 (for ever) to {MAX_DAYS}.")
        group = None
        if options["group"]:
            group = AgentGroup.objects.visible_to(user).filter(slug=options["group"]).first()
            if group is None:
                raise CommandError(f"There is no group {options['group']!r}, or {options['user']} is not in it.")
        with transaction.atomic():
            row, token = ApiToken.create(
                user, options["name"], scope=options["scope"], days=options["days"], group=group
            )
            audit.record_token(row, by="manage.py create_token")
        self.stdout.write(token)
        self.stderr.write("Keep it: it can't be shown again.")
