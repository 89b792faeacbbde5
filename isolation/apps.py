"""Proves that a group's berth holds what runs in it: a hostile agent, judged from inside and outside."""

from django.apps import AppConfig


class IsolationConfig(AppConfig):
    """Django's handle on the app."""

    name = "isolation"
    verbose_name = "Isolation"
