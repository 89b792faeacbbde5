"""Proves that a group's namespace isolates what runs in it: a hostile agent attacks, and is observed."""

from django.apps import AppConfig


class IsolationConfig(AppConfig):
    """Django's handle on the app."""

    name = "isolation"
    verbose_name = "Isolation"
