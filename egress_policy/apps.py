"""What agents may reach on the internet: rules, what was refused and asked for, what was reached."""

from django.apps import AppConfig


class EgressPolicyConfig(AppConfig):
    """Django's handle on the app."""

    name = "egress_policy"
    label = "reach"
    verbose_name = "Egress"

    def ready(self) -> None:
        """Listen to what sessions tell, and add to the run's page."""
        from egress_policy import signal_handlers  # noqa: F401 (they register themselves)
