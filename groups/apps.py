"""Tenants: groups, their members, and the profiles of what they may run."""

from django.apps import AppConfig


class GroupsConfig(AppConfig):
    """Django's handle on the app."""

    name = "groups"
    verbose_name = "Groups"

    def ready(self) -> None:
        """Listen for changes of roles, limits and tokens."""
        from groups import audit_signals  # noqa: F401 (its receivers register themselves)
