"""Receivers of what `sessions` tells."""

import uuid
from typing import Any

from django.conf import settings
from django.db import transaction
from django.dispatch import receiver

from egress_policy import policy_revision
from egress_policy.models import EgressUse
from sessions.signals import run_ended


@receiver(run_ended)
def cut(run_id: uuid.UUID, **_: Any) -> None:
    """A run that ends with something open lets the proxies look. The others need not be told: nobody asks for them."""
    used = settings.EGRESS_TOKEN or settings.EGRESS_TOKEN_FILE
    if used:
        transaction.on_commit(lambda: _cut(run_id))


def _cut(run_id: uuid.UUID) -> None:
    if EgressUse.objects.filter(run=run_id, ended_at=None).exists():
        policy_revision.bump()
