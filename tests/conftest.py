"""What the tests may use on this machine, and the rows that most of them start from.

| variable | opens |
|---|---|
| `TEST_DATABASE_URL` | tests marked `postgres`: a PostgreSQL where this user may create databases |
| `TEST_REDIS_URL` | tests marked `redis` |
| `KUBECONFIG`, `TEST_NODE_IP`, `CLUSTER_TOOL` | tests marked `cluster`: pods reach this machine at that address, and
  the program builds images onto the node |
| `MODEL_STUB` | tests marked `model`: a stand-in for the Messages API, which takes `--host` and `--port` |
| `CHROMIUM` | tests marked `browser`: the browser's program, if it is not on the path as `chromium` |
| `bwrap` on the path | tests marked `bwrap` |
| `REQUIRE_ALL=1` | nothing is skipped: what is missing is an error |
"""

import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection, connections
from hypothesis import HealthCheck
from hypothesis import settings as effort
from playwright.sync_api import Browser, sync_playwright

from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, Membership
from sessions import db_executor
from sessions.lifecycle import intake
from sessions.models import AgentSession
from sessions.workers import heartbeat

heartbeat.start = lambda: None  # a thread that outlives its test would write into the next one's database

# A machine that runs all tests at once is slow, which is no fault of what is tested.
effort.register_profile("any-machine", effort.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
effort.load_profile("any-machine")

NEEDS = {
    "postgres": ("TEST_DATABASE_URL",),
    "redis": ("TEST_REDIS_URL",),
    "cluster": ("KUBECONFIG", "TEST_NODE_IP", "CLUSTER_TOOL"),
    "model": ("MODEL_STUB",),
}


# As root Chromium needs --no-sandbox; the others keep it from looking for a GPU and from calling home.
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def missing(marker: str) -> str:
    """What this machine lacks for a kind of test; empty if it has all."""
    if marker == "bwrap":
        return "" if shutil.which("bwrap") else "no bubblewrap: install it"
    if marker == "browser":
        found = os.environ.get("CHROMIUM") or shutil.which("chromium")
        return "" if found else "no Chromium: install it, or set CHROMIUM to its program"
    unset = [name for name in NEEDS[marker] if not os.environ.get(name)]
    return f"{' and '.join(unset)} not set" if unset else ""


def lacking() -> dict[str, str]:
    """The kinds of test that can't run on this machine, with the reasons."""
    reasons = {marker: missing(marker) for marker in (*NEEDS, "browser", "bwrap")}
    return {marker: reason for marker, reason in reasons.items() if reason}


def pytest_configure() -> None:
    """With REQUIRE_ALL, refuse to begin where a test can't run. Here, since xdist drops the errors of collection."""
    for marker, reason in lacking().items():
        if os.environ.get("REQUIRE_ALL"):
            raise pytest.UsageError(f"REQUIRE_ALL is set, but tests marked {marker} can't run: {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine can't do, with the reason."""
    for marker, reason in lacking().items():
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


def _let_go(together: threading.Barrier) -> None:
    together.wait(30)
    connections.close_all()


@pytest.fixture(scope="session", autouse=True)
def hang_up(django_db_setup: None) -> Iterator[None]:
    """Let go of the database before it is dropped."""
    yield
    for pool, count in ((db_executor._pool, db_executor.THREADS), (db_executor.STREAMS, db_executor.STREAM_THREADS)):
        together = threading.Barrier(count)
        for future in [pool.submit(_let_go, together) for _ in range(count)]:
            future.result()
    if connection.vendor == "postgresql":
        connection.close_pool()


@pytest.fixture(scope="session", autouse=True)
def forgetful(django_db_setup: None, django_db_blocker: Any) -> None:
    """Between tests SQLite's tables are emptied by DELETE and PostgreSQL's by TRUNCATE, which the audit log refuses."""
    names = connection.settings_dict
    made = connection.vendor == "postgresql" or names["NAME"] == names["TEST"]["NAME"]  # else no test here wants one
    if made:
        word = "no_delete" if connection.vendor == "sqlite" else "no_truncate ON groups_auditentry"
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER groups_auditentry_{word}")


@pytest.fixture(autouse=True)
def settings_for_tests(settings: Any, tmp_path: Any) -> None:
    """No test writes where an installation keeps its data, hashes passwords slowly, or counts another's attempts."""
    cache.clear()
    settings.DATA_DIR = tmp_path / "var"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.RUNTIME = "local"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module's tests."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def group(db: None) -> AgentGroup:
    """A tenant."""
    return AgentGroup.objects.create(slug="harbour", name="Harbour")


@pytest.fixture
def profile(db: None) -> AgentProfile:
    """A profile that needs nothing."""
    return AgentProfile.objects.create(slug="workbench", command=["python3", "workbench.py"])


@pytest.fixture
def people(group: AgentGroup, django_user_model: Any) -> dict[str, Any]:
    """One person of each kind: owner, member and viewer of the group, an outsider, a superuser."""
    found = {name: django_user_model.objects.create_user(name) for name in ("owner", "member", "viewer", "outsider")}
    for role in Role:
        Membership.objects.create(group=group, user=found[role.value], role=role)
    return found | {"operator": django_user_model.objects.create_superuser("operator")}


@pytest.fixture
def session(group: AgentGroup, profile: AgentProfile, people: dict[str, Any]) -> AgentSession:
    """A session whose first message waits for a slot."""
    return intake.open_session(group=group, profile=profile, text="Hello", sender=people["member"])
