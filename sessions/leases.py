"""Who may do what only one process may do. Rows are moved by compare-and-set, so it works on every database."""

from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from sessions.models import Lease

WATCHER, QUEUE = "watcher", "queue"
LASTS = timedelta(seconds=10)  # a holder that has not renewed for this long has lost it


def acquire(name: str, holder: str) -> int | None:
    """Take or renew a lease; return its epoch, or None while somebody else holds it."""
    now = timezone.now()
    mine = Lease.objects.filter(name=name, holder=holder)
    if mine.update(renewed_at=now):
        return mine.values_list("epoch", flat=True).get()
    Lease.objects.get_or_create(name=name, defaults={"renewed_at": now - 2 * LASTS})
    stale = Lease.objects.filter(name=name, renewed_at__lt=now - LASTS)
    if stale.update(holder=holder, epoch=F("epoch") + 1, renewed_at=now):
        return mine.values_list("epoch", flat=True).first()
    return None


def release(name: str, holder: str) -> None:
    """Give a lease up, so that the next in line needn't wait for it to go stale."""
    Lease.objects.filter(name=name, holder=holder).update(holder="", renewed_at=timezone.now() - 2 * LASTS)
