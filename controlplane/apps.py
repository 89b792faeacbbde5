"""The app that ties the others together: settings, checks, health, the commands that run Berth as a whole."""

from django.apps import AppConfig
from django.conf import settings


class ControlPlaneConfig(AppConfig):
    """Sets up logging and registers the system checks."""

    name = "controlplane"

    def ready(self) -> None:
        """Runs once in every process, after the models are loaded."""
        from controlplane import checks, logs, signin

        logs.configure(settings.LOG_FORMAT, settings.LOG_LEVEL)
        checks.register_all()
        signin.connect_signals()
