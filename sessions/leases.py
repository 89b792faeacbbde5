"""Who may do what only one process may do. Rows are moved by compare-and-set, so it works on every database."""

from datetime import datetime, timedelta

from django.db.models import F
from django.utils import timezone

from sessions.models import Lease

WATCHER, QUEUE, WEB = "watcher", "queue", "web"
LASTS = timedelta(seconds=10)  # a holder that has not renewed for this long has lost it


def acquire(name: str, holder: str) -> int | None:
    """Take or renew a lease; return its epoch, or None while somebody else holds it.

    A holder that let it go stale takes it anew, with a new epoch: others may have held it meanwhile, and what the
    holder had begun under the old epoch is no longer its own to finish.
    """
    now = timezone.now()
    mine = Lease.objects.filter(name=name, holder=holder)
    if mine.filter(renewed_at__gte=now - LASTS).update(renewed_at=now):
        return mine.values_list("epoch", flat=True).first()
    Lease.objects.get_or_create(name=name, defaults={"renewed_at": now - 2 * LASTS})
    stale = Lease.objects.filter(name=name, renewed_at__lt=now - LASTS)
    if stale.update(holder=holder, epoch=F("epoch") + 1, renewed_at=now, since=now):
        return mine.values_list("epoch", flat=True).first()
    return None


def holds(name: str, holder: str, epoch: int) -> bool:
    """Whether the lease still is what `acquire` gave: asked before what can't be taken back (a fencing token).

    Kleppmann, "How to do distributed locking", 2016: a holder that slept through its lease must not act on it.
    """
    mine = Lease.objects.filter(name=name, holder=holder, epoch=epoch)
    return mine.filter(renewed_at__gte=timezone.now() - LASTS).exists()


def release(name: str, holder: str) -> None:
    """Give a lease up, so that the next in line needn't wait for it to go stale."""
    Lease.objects.filter(name=name, holder=holder).update(holder="", renewed_at=timezone.now() - 2 * LASTS)


def heartbeat(name: str) -> None:
    """Note that a service that may have many processes lives; `since` starts anew after a silence."""
    now = timezone.now()
    row = Lease.objects.filter(name=name)
    if row.filter(renewed_at__gte=now - LASTS).update(renewed_at=now):
        return
    if not row.update(renewed_at=now, since=now):
        Lease.objects.get_or_create(name=name, defaults={"renewed_at": now, "since": now})


def alive_since(name: str) -> datetime | None:
    """Since when a service has lived without a silence; None if it is silent now."""
    fresh = Lease.objects.filter(name=name, renewed_at__gte=timezone.now() - LASTS)
    return fresh.values_list("since", flat=True).first()
