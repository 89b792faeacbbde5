"""A real server on SQLite in a folder of its own, a real browser, and rows in the server's database."""

import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect

from groups.models import AgentGroup, AgentProfile, Membership
from sessions.courier_api import ingest
from sessions.events import notify
from sessions.events.event_log import NewEvent
from sessions.lifecycle import intake, transitions
from sessions.models import AgentSession, Run
from testbed.stack import migrated_sqlite
from testbed.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
expect.set_options(timeout=30_000)  # ms; a machine that runs all tests at once is slow


def web() -> str:
    """The command that the Procfile runs as `web`, with its limits and options."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith("web:"))


class Server:
    """`web` as it is run, on a database of its own. It can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "berth.sqlite3"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "DATA_DIR": str(self.folder),
            "DATABASE_URL": f"sqlite:///{self.database}",
            "REDIS_URL": "",
            "SECRET_KEY": settings.SECRET_KEY,
            "ALLOWED_HOSTS": "127.0.0.1",
        }

    def start(self) -> None:
        with (self.folder / "web.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", web()],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_for(self.answers, seconds=60, what=f"an answer of the server, see {self.folder / 'web.log'}")

    def answers(self) -> bool:
        assert self.process and self.process.poll() is None, (self.folder / "web.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, started once; a test that stops it starts it again."""
    server = Server(tmp_path_factory.mktemp("web"))
    shutil.copyfile(migrated_sqlite(), server.database)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(server: Server, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's Django works on the server's database while the test lasts."""
    # Playwright's synchronous API keeps an event loop in this thread, which Django would take for asynchronous code.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    # The in-memory layer would not carry the bell to the server anyway; its tick finds what is written here.
    monkeypatch.setattr(notify, "publish", lambda *_: None)
    connection = connections["default"]
    with django_db_blocker.unblock():
        connection.close()
        before = connection.settings_dict
        sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(server.database)}
        options = {"transaction_mode": "IMMEDIATE", "timeout": 20}
        connections["default"] = type(connections)({"default": before | sqlite | {"OPTIONS": options}})["default"]
        yield
        connections["default"].close()
        connections["default"] = connection


@dataclass
class Talk:
    """A session of a group of its own, with the three people that matter, and a run to put output into."""

    server: Server
    session: AgentSession
    people: dict[str, User]
    run: Run | None = None

    @property
    def url(self) -> str:
        return f"{self.server.url}/admin/agent_sessions/agentsession/{self.session.pk}/change/"

    def starts(self) -> "Talk":
        """The session's run starts."""
        transitions.claim(self.session.pk, "local")
        self.run = self.session.runs.get(state="claimed")
        return self.says(("turn", "", {"state": "working"}))

    def says(self, *said: tuple[str, str, dict[str, Any]] | tuple[str, str]) -> "Talk":
        """What the run's courier ships."""
        assert self.run
        self.run.refresh_from_db()
        first = self.run.last_number + 1
        batch = [NewEvent(*one, number=number) for number, one in enumerate(said, first)]
        ingest.ingest(self.run.pk, batch)
        return self


@pytest.fixture
def talk(server: Server, database: None) -> Talk:
    """A fresh session with the first message of its group's owner."""
    mark = uuid.uuid4().hex[:8]
    group = AgentGroup.objects.create(slug=f"harbour-{mark}", name="Harbour")
    people = {
        role: User.objects.create_user(f"{role}-{mark}", is_staff=True) for role in ("owner", "viewer", "outsider")
    }
    for role in ("owner", "viewer"):
        Membership.objects.create(group=group, user=people[role], role=role)
    profile = AgentProfile.objects.create(slug=f"workbench-{mark}", command=["true"])
    session = intake.open_session(
        group=group, profile=profile, text="Hello **agent**", sender=people["owner"], title="Check the moorings"
    )
    return Talk(server, session, people)


Opener = Callable[..., Page]


@pytest.fixture
def browse(chromium: Browser, talk: Talk) -> Iterator[Opener]:
    """Open the session's page as somebody, in a browser profile of their own."""
    contexts: list[BrowserContext] = []

    def open_page(role: str = "owner", **options: Any) -> Page:
        client = Client()
        client.force_login(talk.people[role])
        context = chromium.new_context(viewport=options.pop("viewport", {"width": 1440, "height": 900}), **options)
        contexts.append(context)
        cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": talk.server.url}])
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.problems = []  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: page.problems.append(str(error)))  # type: ignore[attr-defined]
        page.goto(talk.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
