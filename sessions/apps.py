"""Sessions and their life. The label differs from the package's name because Django's own app is called sessions."""

from django.apps import AppConfig


class SessionsConfig(AppConfig):
    """Django's handle on the app."""

    name = "sessions"
    label = "agent_sessions"
    verbose_name = "Sessions"
