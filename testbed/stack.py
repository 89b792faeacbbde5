"""The whole of Berth as its operator runs it: web, worker and watcher as processes, with a database of their own."""

import atexit
import contextlib
import functools
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import psycopg
import requests
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from testbed.shell import Shell
from testbed.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("web", "worker", "watcher")
WORKBENCH = [sys.executable, str(ROOT / "agents" / "workbench.py")]


def free_port() -> int:
    """A port that nobody has now, below those that the system gives to outgoing connections (Linux: from 32768 on)."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port


def postgresql(statement: str) -> None:
    """Execute a statement on the server of `TEST_DATABASE_URL`."""
    with psycopg.connect(os.environ["TEST_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(statement.encode())


@functools.cache
def migrated_sqlite() -> Path:
    """A file with an empty, migrated database, to be copied: to migrate takes ten seconds, so it is done once."""
    folder = Path(tempfile.mkdtemp(prefix="berth-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    stack = Stack(folder, RUNTIME="local")
    stack.manage("migrate", "--verbosity", "0")
    return Path(stack.env["DATA_DIR"]) / "berth.sqlite3"


@functools.cache
def migrated_postgresql() -> str:
    """The name of an empty, migrated database on the server, to be a template, as `migrated_sqlite` is."""
    name = f"stack_{uuid.uuid4().hex[:8]}"
    postgresql(f"CREATE DATABASE {name}")
    atexit.register(postgresql, f"DROP DATABASE {name} WITH (FORCE)")
    url = urlsplit(os.environ["TEST_DATABASE_URL"])._replace(path=f"/{name}").geturl()
    with tempfile.TemporaryDirectory() as folder:
        Stack(Path(folder), RUNTIME="local", DATABASE_URL=url).manage("migrate", "--verbosity", "0")
    return name


class Stack:
    """Starts, kills and stops the processes, and speaks to them as people and programs do."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder, self.port = folder, free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.log = folder / "stack.log"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        keep = ("PATH", "HOME", "KUBECONFIG", "LANG", "SSL_CERT_FILE")
        self.env = {key: os.environ[key] for key in keep if key in os.environ} | {
            "DATA_DIR": str(folder / "var"),
            "PORT": str(self.port),
            "HOST": "0.0.0.0",
            "SECRET_KEY": uuid.uuid4().hex * 2,
            "ALLOWED_HOSTS": "*",
            "LOG_LEVEL": "INFO",
            "INSTALLATION": f"test-{uuid.uuid4().hex[:8]}",
            "PYTHONUNBUFFERED": "1",
        }
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.env |= env
        self.database = ""
        self.shell = Shell(self.log)
        self.tenant = f"test-{uuid.uuid4().hex[:8]}"  # a group of its own: a namespace belongs to one installation
        self.api = requests.Session()

    @classmethod
    def embedded(cls, folder: Path, **env: str) -> Self:
        """SQLite, the in-memory channel layer, the local runtime."""
        return cls(folder, RUNTIME="local", **env)

    @classmethod
    def production(cls, folder: Path, **env: str) -> Self:
        """PostgreSQL, Redis and Kubernetes, from the variables that tests/conftest.py describes."""
        stack = cls(folder, RUNTIME="kubernetes", **env)
        stack.use_postgresql()
        stack.env["REDIS_URL"] = os.environ["TEST_REDIS_URL"]
        stack.env.setdefault("COURIER_URL", f"http://{os.environ['TEST_NODE_IP']}:{stack.port}")
        return stack

    def use_postgresql(self) -> None:
        """A migrated database on PostgreSQL, in place of SQLite's."""
        self.database = f"stack_{uuid.uuid4().hex[:8]}"
        postgresql(f"CREATE DATABASE {self.database} TEMPLATE {migrated_postgresql()}")
        self.env["DATABASE_URL"] = urlsplit(os.environ["TEST_DATABASE_URL"])._replace(path=f"/{self.database}").geturl()

    def furnish(self) -> None:
        """The administrator with a token for `api`, the profile `workbench`, and the groups `demo` and `tenant`."""
        if not self.database:
            Path(self.env["DATA_DIR"]).mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(migrated_sqlite(), Path(self.env["DATA_DIR"]) / "berth.sqlite3")
        token = self.python(
            "from controlplane import demo\n"
            "from groups.models import ApiToken\n"
            "print(ApiToken.issue(demo.create()[2], name='tests'))"
        )
        self.api.headers["Authorization"] = f"Bearer {token.strip()}"
        self.group(self.tenant)

    # --- processes ---

    def up(self) -> Self:
        """Furnish, start everything, and wait until it answers."""
        self.furnish()
        for name in NAMES:
            self.start(name)
        self.wait_for_web()
        return self

    def wait_for_web(self) -> None:
        """Until `web` answers."""
        wait_for(self.answers, 60, f"web on {self.port}; see {self.log}")

    def answers(self) -> bool:
        """Whether `web` answers a request now."""
        try:
            return requests.get(f"{self.base}/admin/login/", timeout=2).ok
        except requests.RequestException:
            return False

    def start(self, name: str) -> None:
        """Start one process of the Procfile."""
        lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
        command = re.sub(r"\$\{(\w+):-[^}]*\}", lambda m: shlex.quote(self.env[m[1]]), lines[name])
        with self.log.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["sh", "-c", command], cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kill one process and its children at once, as a crash of its machine would."""
        process = self.processes.pop(name)
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=10)
        process.wait(10)

    def down(self) -> None:
        """End everything, agents included, and drop the database."""
        try:
            self.python("from controlplane.shutdown import end_local_runs; end_local_runs()")
            if self.env["RUNTIME"] == "kubernetes":
                self.python(
                    "from sessions.lifecycle import runtime_factory\n"
                    "r = runtime_factory.get('kubernetes')\n"
                    "for ref in list(r.runs()): r.destroy(ref)"
                )
                label = f"berth/installation={self.env['INSTALLATION']}"
                subprocess.run(
                    ["kubectl", "delete", "namespace", "-l", label, "--wait=false"], env=self.env, check=False
                )
        finally:
            for name in list(self.processes):
                self.kill(name)
            self.shell.close()
            if self.database:
                postgresql(f"DROP DATABASE {self.database} WITH (FORCE)")

    def manage(self, *words: str) -> str:
        """Run a management command with this stack's settings; return its standard output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=240
        )
        if done.returncode:
            raise AssertionError(f"manage.py {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def python(self, code: str) -> str:
        """Run code inside this stack's Django; return its standard output."""
        return self.shell.run(code, self.env)

    # --- what people and programs do ---

    def group(self, slug: str = "", **fields: Any) -> str:
        """Make a group and return its slug."""
        slug = slug or f"test-{uuid.uuid4().hex[:8]}"
        fields = {"max_runs": 20} | fields | {"slug": slug, "name": slug}
        self.python(f"from groups.models import AgentGroup; AgentGroup.objects.create(**{fields!r})")
        return slug

    def profile(self, slug: str, **fields: Any) -> str:
        """Make a profile and return its slug. Without a command it is a workbench."""
        local = self.env["RUNTIME"] == "local"
        command = WORKBENCH if local else ["python3", "/opt/berth/workbench.py"]
        image = "" if local else "registry.local/workbench:latest"
        fields = {"slug": slug, "command": command, "image": image, "memory_mib": 256} | fields
        self.python(f"from groups.models import AgentProfile; AgentProfile.objects.create(**{fields!r})")
        return slug

    def secret(self, name: str, kind: str, place: str, *profiles: str) -> str:
        """Make a secret that these profiles may deliver in every group; return how a profile names it."""
        fields = {"name": name, "kind": kind, "place": place, "every_group": True}
        self.python(
            "from groups.models import AgentProfile, SecretReference\n"
            f"row = SecretReference.objects.create(**{fields!r})\n"
            f"row.profiles.set(AgentProfile.objects.filter(slug__in={profiles!r}))"
        )
        return f"ref:{name}"

    def open(self, message: str, group: str = "", profile: str = "workbench") -> str:
        """Open a session through the API; return its id."""
        answer = self.post(f"groups/{group or self.tenant}/sessions", {"profile": profile, "message": message})
        return str(answer["id"])

    def send(self, session: str, text: str, key: str = "") -> int:
        """Send a message; return its number."""
        headers = {"Idempotency-Key": key} if key else {}
        return int(self.post(f"sessions/{session}/messages", {"text": text}, headers)["number"])

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """POST to the API; raises for an answer that is no 2xx."""
        answer = self.api.post(f"{self.base}/api/v1/{path}", json=body, headers=headers, timeout=30)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def get(self, path: str) -> Any:
        """GET from the API."""
        answer = self.api.get(f"{self.base}/api/v1/{path}", timeout=30)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def session(self, session: str) -> Any:
        """The session, as the API shows it."""
        return self.get(f"sessions/{session}")

    def events(self, session: str, after: int = 0) -> list[dict[str, Any]]:
        """All events after a cursor."""
        found: list[dict[str, Any]] = []
        while page := self.get(f"sessions/{session}/events?after={found[-1]['seq'] if found else after}&limit=1000")[
            "events"
        ]:
            found += page
        return found

    def text(self, session: str, *kinds: str) -> str:
        """What the agent said, all events of some kinds joined."""
        return "".join(e["text"] for e in self.events(session) if e["kind"] in kinds)

    def wait_state(self, session: str, *states: str, seconds: float = 60) -> Any:
        """Wait until the session is in one of the states; return it."""

        def reached() -> Any:
            current = self.session(session)
            return current if current["state"] in states else None

        return wait_for(reached, seconds, f"session {states}; see {self.log}")

    def wait_result(self, session: str, seconds: float = 60, after: int = 0) -> dict[str, Any]:
        """Wait for an answer after a cursor."""
        return wait_for(
            lambda: next((e for e in self.events(session, after) if e["kind"] == "result"), {}),
            seconds,
            f"a result; session {self.session(session)}; see {self.log}",
        )

    def wait_verdict(self, session: str, seconds: float = 60, run: int = 1) -> dict[str, Any]:
        """Wait until a run has its verdict; return the run."""

        def ended() -> Any:
            runs = self.session(session)["runs"]
            return runs[run - 1] if len(runs) >= run and runs[run - 1]["verdict"] else None

        return wait_for(ended, seconds, f"verdict of {session}; see {self.log}")

    def cookies(self, user: str = "admin") -> str:
        """A Cookie header of a logged-in browser."""
        code = (
            "from importlib import import_module\n"
            "from django.conf import settings\n"
            "from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model\n"
            f"user = get_user_model().objects.get(username={user!r})\n"
            "store = import_module(settings.SESSION_ENGINE).SessionStore()\n"
            "store[SESSION_KEY] = str(user.pk)\n"
            "store[BACKEND_SESSION_KEY] = 'django.contrib.auth.backends.ModelBackend'\n"
            "store[HASH_SESSION_KEY] = user.get_session_auth_hash()\n"
            "store.create(); print(store.session_key)"
        )
        return f"sessionid={self.python(code).strip()}"


class Follower:
    """A page without a browser: follows a session's websocket, acknowledges, and reconnects at its cursor."""

    def __init__(self, stack: Stack, session: str, cookie: str = "") -> None:
        self.address = f"ws://127.0.0.1:{stack.port}/ws/sessions/{session}/"
        self.headers = {"Cookie": cookie or stack.cookies(), "Origin": stack.base}
        self.events: list[dict[str, Any]] = []
        self.code: int | None = None
        self.connections = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cursor(self) -> int:
        """The last number shown."""
        return int(self.events[-1]["seq"]) if self.events else 0

    def text(self, *kinds: str) -> str:
        """All text of some kinds."""
        return "".join(e["text"] for e in self.events if e["kind"] in kinds)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (OSError, WebSocketException) as error:
                self.code = getattr(getattr(error, "rcvd", None), "code", None)
                if self.code in (4404, 4401):
                    return
                self._stop.wait(0.2)

    def _follow(self) -> None:
        address = f"{self.address}?after={self.cursor}"
        with connect(address, additional_headers=self.headers, max_size=None, open_timeout=5) as socket:
            self.connections += 1
            while not self._stop.is_set():
                try:
                    frame = json.loads(socket.recv(timeout=0.5))
                except TimeoutError:
                    continue
                if frame["type"] == "session":
                    continue
                self.events += frame["events"]
                socket.send(json.dumps({"type": "ack", "seq": frame["last_seq"]}))
