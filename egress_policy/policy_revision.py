"""The number of the last change of rules or runs: when it grows, the proxies decide anew on what is open."""

from django.db import transaction
from django.db.models import F

from egress_policy.models import EgressVersion
from sessions.events import notify

TOPIC = "egress"  # where others have a session's id


def bump() -> None:
    """Count a change, in the transaction that makes it, and wake those who wait once that is committed."""
    with transaction.atomic():
        EgressVersion.objects.get_or_create(pk=1)
        EgressVersion.objects.filter(pk=1).update(number=F("number") + 1)
        notify.publish_on_commit(TOPIC, notify.INBOX)


def current() -> int:
    """The number now."""
    return EgressVersion.objects.filter(pk=1).values_list("number", flat=True).first() or 0
