"""Model APIs for agents, without their keys in the pod."""

from django.apps import AppConfig


class BrokerConfig(AppConfig):
    """Django's handle on the app."""

    name = "broker"
    verbose_name = "Broker"
