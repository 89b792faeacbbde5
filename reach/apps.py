"""What agents may reach on the internet: rules, what was refused and asked for, what was reached."""

from django.apps import AppConfig


class ReachConfig(AppConfig):
    """Django's handle on the app."""

    name = "reach"
    verbose_name = "Egress"

    def ready(self) -> None:
        """Listen to what sessions tell, and add to the run's page."""
        from reach import receivers  # noqa: F401 (they register themselves)
