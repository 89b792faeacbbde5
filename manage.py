#!/usr/bin/env python
"""Django's command-line entry point."""

import os
import sys


def main() -> None:
    """Run one management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    try:
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("manage.py: Django is not installed here. Run `make setup` and use .venv/bin/python manage.py")
    try:
        if settings.RUNTIME == "local":
            os.umask(0o077)  # what it writes is for this user alone: conversations, workspaces, keys
        # What is no UTF-8 came in as lone surrogates (PEP 383), which no database takes.
        execute_from_command_line([arg.encode(errors="replace").decode() for arg in sys.argv])
    except ImproperlyConfigured as error:
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main()
