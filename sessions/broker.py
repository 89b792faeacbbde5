"""The task queue's broker: Django-Q's own, in the database, but a task is taken out of it when it is begun.

Django-Q's broker hands a task out again when its worker dies, after `retry` seconds and as often as that happens:
`max_attempts` counts failures alone. A task that kills its worker would so kill one after the other, and a slow one be
done twice at a time. Berth needs neither: what a lost task left undone is found by the watcher's sweep within seconds.
"""

import time

from django.db import router
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ


class Once(ORM):
    """At most once: who deletes the row has the task."""

    def dequeue(self) -> list[tuple[int, str]] | None:
        """Take the oldest tasks; None, after a pause, if there are none."""
        rows = self.get_connection().filter(key=self.list_key, lock__lte=timezone.now()).order_by("pk")
        taken = []
        for pk, payload in list(rows.values_list("pk", "payload")[: Conf.BULK]):
            # Not QuerySet.delete(), which would first ask what else has to go.
            if OrmQ.objects.using(Conf.ORM).filter(pk=pk)._raw_delete(Conf.ORM or router.db_for_write(OrmQ)):
                taken.append((pk, payload))
        if not taken:
            time.sleep(Conf.POLL)
        return taken or None

    def acknowledge(self, task_id: int) -> None:
        """It was taken out when it was begun."""
