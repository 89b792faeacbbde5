"""Django-Q's broker: what is asked for is in the work queue, and nowhere else."""

import pytest
from django_q.brokers import get_broker
from django_q.models import OrmQ
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from sessions import work_queue
from sessions.models import WorkItem
from sessions.workers.task_broker import WorkQueueBroker


@pytest.fixture
def broker(db: None) -> WorkQueueBroker:
    WorkItem.objects.all().delete()
    return WorkQueueBroker(list_key="berth")


def test_django_q_uses_it_and_its_own_table_stays_empty(broker: WorkQueueBroker) -> None:
    assert isinstance(get_broker(), WorkQueueBroker)
    for _ in range(3):
        async_task("sessions.tasks.admit")
    assert [item.key for item in WorkItem.objects.all()] == ["sessions.tasks.admit"]
    assert not OrmQ.objects.exists()


def test_a_worker_is_handed_the_key_and_its_token(broker: WorkQueueBroker) -> None:
    work_queue.request(work_queue.RECONCILE, "4b2d")
    taken = broker.dequeue()
    assert taken and len(taken) == 1
    order = SignedPackage.loads(taken[0][1])
    assert order["func"] == "sessions.work_queue.do"
    assert order["args"][0] == "sessions.tasks.reconcile 4b2d"
    assert broker.dequeue() is None


@pytest.mark.parametrize("arguments", [("a", "b"), ("a b",), ("x" * 300,)])
def test_what_is_no_key_is_refused(broker: WorkQueueBroker, arguments: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, TypeError)):
        async_task("sessions.tasks.keep", *arguments)
