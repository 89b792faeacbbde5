"""`/healthz` and `/readyz`: what they say, to whom, and that nothing behind them can hold them up."""

import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from controlplane import health
from runtimes.base import Cause, TransientFault
from sessions import leases, work_queue
from sessions.models import Lease

pytestmark = pytest.mark.django_db(transaction=True)
NAMES = ["database", "migrations", "broker", "channel layer", "runtime", "watcher"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of another test, and a short patience."""
    monkeypatch.setattr(health, "shared", health.SharedChecks())
    monkeypatch.setattr(health, "_hanging", {})
    monkeypatch.setattr(health, "LIMIT_SECONDS", 20.0)


@pytest.fixture
def leader() -> None:
    leases.acquire(leases.WATCHER, "harbour:1")


def ready(expected: int) -> dict[str, dict[str, Any]]:
    answer = Client().get("/readyz")
    assert answer.status_code == expected, answer.content
    body = answer.json()
    assert body["ready"] == (expected == 200)
    assert [check["name"] for check in body["checks"]] == NAMES
    assert all(check["milliseconds"] >= 0 for check in body["checks"])
    return {check["name"]: check for check in body["checks"]}


def failed(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, check in checks.items() if not check["ok"]]


def break_check(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setitem(health.IN_THREADS, name, fail)


def test_all_is_well(leader: None) -> None:
    checks = ready(200)

    assert failed(checks) == []
    assert re.fullmatch(r"renewed \d+\.\d s ago", checks["watcher"]["detail"])  # and not by whom
    assert checks["broker"]["detail"] == "no task waits"


def test_nobody_leads() -> None:
    checks = ready(503)

    assert failed(checks) == ["watcher"]
    assert "is a watcher running" in checks["watcher"]["detail"]


def test_a_watcher_that_fell_silent(leader: None) -> None:
    Lease.objects.update(renewed_at=timezone.now() - timedelta(seconds=31))

    checks = ready(503)
    assert failed(checks) == ["watcher"]
    assert checks["watcher"]["detail"].startswith("renewed 31.")


@pytest.mark.parametrize(("age", "bad", "words"), [(45, [], "late"), (130, ["broker"], "is a worker running")])
def test_a_task_that_nobody_takes(age: int, bad: list[str], words: str, leader: None) -> None:
    work_queue.request(work_queue.ADMIT, due_at=timezone.now() - timedelta(seconds=age))

    checks = ready(503 if bad else 200)
    assert failed(checks) == bad
    assert words in checks["broker"]["detail"]


def test_a_migration_that_was_not_applied(leader: None, monkeypatch: pytest.MonkeyPatch) -> None:
    health.migrations.cache_clear()
    missing = [(type("Migration", (), {"app_label": "groups", "name": "0009_more"})(), False)]
    monkeypatch.setattr(health.MigrationExecutor, "migration_plan", lambda *_: missing)

    checks = ready(503)
    assert failed(checks) == ["migrations"]
    assert checks["migrations"]["detail"] == "1 not applied, from groups.0009_more on: run manage.py migrate"


def test_a_runtime_that_is_away_is_named_by_its_cause_alone(leader: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = TransientFault(Cause.UNREACHABLE, "the API server can't be reached: https://ann:s3same@10.0.0.1:6443")
    break_check(monkeypatch, "runtime", fault)

    checks = ready(503)
    assert failed(checks) == ["runtime"]
    assert checks["runtime"]["detail"] == "unreachable: see the log"


def test_a_database_that_is_away_tells_no_address(leader: None, monkeypatch: pytest.MonkeyPatch) -> None:
    break_check(
        monkeypatch, "database", OperationalError("password authentication failed for user berth at db.internal")
    )

    checks = ready(503)
    assert failed(checks) == ["database"]
    assert checks["database"]["detail"] == "OperationalError: see the log"


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The runtime's check hangs until the test is over; the list tells how often it was begun."""
    begun: list[str] = []
    over = threading.Event()

    def hang() -> str:
        begun.append("runtime")
        over.wait(60)
        return "late"

    monkeypatch.setitem(health.IN_THREADS, "runtime", hang)
    monkeypatch.setattr(health, "LIMIT_SECONDS", 0.2)
    yield begun
    over.set()


def test_a_check_that_hangs_fails_by_name_and_is_begun_once(leader: None, stuck: list[str]) -> None:
    for _ in range(3):
        health.shared = health.SharedChecks()
        answer = Client().get("/readyz").json()
        runtime = next(check for check in answer["checks"] if check["name"] == "runtime")
        assert (runtime["ok"], runtime["detail"]) == (False, "no answer within 0.2 s")

    assert stuck == ["runtime"]


def test_an_answer_is_shared_by_those_who_ask_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    asked: list[str] = []
    monkeypatch.setitem(health.IN_THREADS, "runtime", lambda: asked.append("runtime") or "local")

    async def many() -> None:
        await asyncio.gather(*(health.shared.checks() for _ in range(20)))
        await health.shared.checks()

    asyncio.run(many())
    assert asked == ["runtime"]


def test_an_old_answer_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    asked: list[str] = []
    monkeypatch.setattr(health, "SHARED_SECONDS", -1.0)
    monkeypatch.setitem(health.IN_THREADS, "runtime", lambda: asked.append("runtime") or "local")

    async def twice() -> None:
        await health.shared.checks()
        await health.shared.checks()

    asyncio.run(twice())
    assert asked == ["runtime", "runtime"]


def test_healthz_asks_nobody(django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_begin", lambda name: pytest.fail(f"{name} was asked"))

    with django_assert_num_queries(0):
        answer = Client().get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


@pytest.mark.parametrize("page", ["/healthz", "/readyz"])
def test_probes_need_neither_login_nor_https(page: str, leader: None, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True

    answer = Client().get(page)
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "no-store"
    assert Client().post(page).status_code == 405
    assert Client().get(page, headers={"host": "elsewhere.example"}).status_code == 400
