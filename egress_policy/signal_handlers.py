"""Handlers of the signals of `sessions`."""

import uuid
from typing import Any

from django.conf import settings
from django.db import transaction
from django.dispatch import receiver

from egress_policy import policy_revision
from egress_policy.models import EgressUse
from sessions.signals import run_ended


@receiver(run_ended)
def close_tunnels(run_id: uuid.UUID, **_: Any) -> None:
    """A run that ends with something open lets the proxies look. The others need not be told: nobody asks for them."""
    used = settings.EGRESS_TOKEN or settings.EGRESS_TOKEN_FILE
    if used:
        transaction.on_commit(lambda: _bump_if_open(run_id))


def _bump_if_open(run_id: uuid.UUID) -> None:
    if EgressUse.objects.filter(run=run_id, ended_at=None).exists():
        policy_revision.bump()
