"""The task queue's broker: who begins a task takes it out of the queue."""

import pytest
from django_q.models import OrmQ
from django_q.tasks import async_task

from sessions.broker import Once


@pytest.fixture
def broker(db: None) -> Once:
    OrmQ.objects.all().delete()
    return Once(list_key="berth")


def test_a_task_is_handed_out_once_whatever_becomes_of_its_worker(broker: Once) -> None:
    async_task("sessions.tasks.admit")
    taken = broker.dequeue()
    assert taken and len(taken) == 1
    assert broker.dequeue() is None and not OrmQ.objects.exists()


def test_tasks_come_in_the_order_in_which_they_were_asked_for(broker: Once) -> None:
    for name in ("a", "b", "c"):
        broker.enqueue(name)
    taken = [payload for _ in range(3) for _, payload in broker.dequeue() or ()]
    assert taken == ["a", "b", "c"]


def test_django_q_uses_it(broker: Once) -> None:
    from django_q.brokers import get_broker

    assert isinstance(get_broker(), Once)
