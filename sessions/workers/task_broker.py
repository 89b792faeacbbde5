"""Django-Q's broker over the table of `sessions.work_queue`: Django-Q's own table stays empty.

Django-Q's broker would hand a task out again when its worker dies, after `retry` seconds and as often as that happens:
a task that kills its worker would so kill one after the other. Here a key comes back when its time is over, and what
fails again and again comes ever more rarely.
"""

import time
import uuid

from django.db import close_old_connections, transaction
from django.utils import timezone
from django_q.brokers import Broker
from django_q.conf import Conf
from django_q.signing import SignedPackage

from sessions import work_queue
from sessions.models import WorkItem


class WorkQueueBroker(Broker):
    """Takes keys. The tasks are done by `work_queue.do`."""

    def enqueue(self, task: str) -> str:
        """Ask for a task that was handed to `async_task`: by its name, with one short argument at most."""
        order = SignedPackage.loads(task)
        if not isinstance(order["func"], str) or order.get("kwargs"):
            raise ValueError("a task is a function's name and one argument")
        work_queue.request(order["func"], *map(str, order["args"]))
        return str(order["id"])

    def dequeue(self) -> list[tuple[str, str]] | None:
        """Take what is due; None, after a pause, if nothing is."""
        if transaction.get_autocommit():
            close_old_connections()
        taken = work_queue.take(Conf.BULK)
        if not taken:
            time.sleep(Conf.POLL)
        return [(key, _order(key, token)) for key, token in taken] or None

    def acknowledge(self, task_id: str) -> None:
        """Nothing to do: `work_queue.do` has settled it."""

    def fail(self, task_id: str) -> None:
        """Nothing to do, as for `acknowledge`."""

    def delete(self, task_id: str) -> None:
        """Nothing to do, as for `acknowledge`."""

    def queue_size(self) -> int:
        """How much waits."""
        return WorkItem.objects.filter(taken_until=None).count()

    def lock_size(self) -> int:
        """How much is at work."""
        return WorkItem.objects.filter(taken_until__gt=timezone.now()).count()

    def purge_queue(self) -> int:
        """Forget all of it: the watcher's sweep finds what is still to be done."""
        return WorkItem.objects.all().delete()[0]

    def ping(self) -> bool:
        """True: every call raises by itself if the database is away."""
        return True

    def info(self) -> str:
        """What it is, for Django-Q's pages."""
        return "Berth's work queue"


def _order(key: str, token: int) -> str:
    """What a worker of Django-Q takes from its pusher."""
    return str(
        SignedPackage.dumps(
            {
                "id": uuid.uuid4().hex,
                "name": key,
                "func": "sessions.work_queue.do",
                "args": (key, token),
                "kwargs": {},
                "started": timezone.now(),
            }
        )
    )
