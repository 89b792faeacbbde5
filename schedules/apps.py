"""Tasks by the clock: what is due becomes a message; agents may ask for more."""

from django.apps import AppConfig


class SchedulesConfig(AppConfig):
    """Django's handle on the app."""

    name = "schedules"
    verbose_name = "Schedules"

    def ready(self) -> None:
        """Listen to what sessions tell."""
        from schedules import due_tasks  # noqa: F401 (its receivers register themselves)
