"""The way out of an agent, as a whole: a real proxy, the control plane that decides, an agent that tries."""

import base64
import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from testbed.stack import ROOT, Stack, free_port
from testbed.waiting import wait_for
from tests.whole.conftest import LIMITS

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Site:
    """A TLS server of the outside world: `/` answers, `/endless` goes on until somebody hangs up."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        pem = folder / "site.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", "/CN=localhost", "-days", "2", "-keyout", str(pem), "-out", f"{pem}.crt"]
        subprocess.run([*command, *names], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{pem}.crt", str(pem))
        self.open = 0
        self.stop = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                if self.path != "/endless":
                    self.wfile.write(b"the outside world")
                    return
                site.open += 1
                try:
                    while not site.stop.wait(0.05):
                        self.wfile.write(b".")
                except OSError:
                    pass
                finally:
                    site.open -= 1

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it, and all that is open."""
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


class Proxy:
    """The proxy as a process. It may reach `localhost`, which stands for a public host."""

    def __init__(self, folder: Path, url: str, token: str, port: int) -> None:
        file = folder / "egress-token"
        file.write_text(token)
        self.port, self.log = port, folder / "egress.log"
        env = {
            "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "BERTH_URL": url, "EGRESS_TOKEN_FILE": str(file),
            "EGRESS_LISTEN": f"127.0.0.1:{port}", "EGRESS_HEALTH": str(free_port()),
            "EGRESS_EXCEPTIONS": "localhost=127.0.0.1,localhost=::1",
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "egress"], env=env, stderr=log)
        wait_for(lambda: b"listening" in self.log.read_bytes(), 20, f"the proxy; see {self.log}")

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


class Admin:
    """An operator's browser, as far as egress goes."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.cookie = stack, stack.cookies().partition("=")[2]

    def act(self, model: str, action: str, **fields: Any) -> None:
        """Choose rows in a list of the admin, and do something to them."""
        token = "t" * 32
        cookies = {"sessionid": self.cookie, "csrftoken": token}
        body = {"action": action, "csrfmiddlewaretoken": token, "select_across": "1", "_selected_action": "0"} | fields
        page = f"{self.stack.base}/admin/reach/{model}/"
        answer = requests.post(page, body, cookies=cookies, timeout=30, allow_redirects=False)
        assert answer.status_code == 302, answer.text

    def approve(self, session: str, term: str = "good") -> None:
        """Wait until a session's agent has asked, and allow it."""
        row = self.asked(session)
        self.act(
            "egressrequest", "approve_selected", select_across="0", _selected_action=row["id"], confirmed="yes",
            term=term, whose="group", answer="",
        )  # fmt: skip

    def withdraw(self) -> None:
        """Take every rule back."""
        self.act("egressrule", "withdraw_selected")

    def asked(self, session: str) -> dict[str, Any]:
        """Wait until a session's agent has asked for the site; the row as the API tells it."""
        path = f"groups/{self.stack.tenant}/egress"
        found: dict[str, Any] = wait_for(
            lambda: next((row for row in self.stack.get(path) if row["last_session"] == session), None), 30, "a request"
        )
        return found


class World:
    """A stack with its proxy, and a site outside."""

    def __init__(self, folder: Path, **env: str) -> None:
        token, port = uuid.uuid4().hex * 2, free_port()
        self.site = Site(folder)
        self.place = f"localhost:{self.site.port}"
        settings = {"EGRESS_TOKEN": token, "EGRESS_PROXY_URL": f"http://127.0.0.1:{port}"}
        self.stack = Stack.embedded(folder, **LIMITS, **settings, **env)
        self.port = port
        self.proxy: Proxy | None = None
        try:
            self.stack.up()
            self.admin = Admin(self.stack)
            self.proxy = Proxy(folder, self.stack.base, token, port)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all of it."""
        if self.proxy:
            self.proxy.close()
        self.stack.down()
        self.site.close()

    def curl(self, path: str = "/") -> str:
        """What an agent is told to run. `localhost` would else pass by every proxy."""
        return f"$ curl -sSk --noproxy '' https://{self.place}{path} 2>&1"

    def tries(self, session: str, path: str = "/") -> str:
        """What the agent's next try tells."""
        after = self.stack.session(session)["last_seq"]
        self.stack.send(session, self.curl(path))
        return str(self.stack.wait_result(session, after=after)["text"])

    def user(self, session: str) -> str:
        """A run and its credential, as the run's agent knows them: with something between the letters, so that the
        courier doesn't take the password out of the address."""
        after = self.stack.session(session)["last_seq"]
        self.stack.send(session, "$ echo $https_proxy | sed 's/./&_/g'")
        told = self.stack.wait_result(session, after=after)["text"].replace("_", "")
        parts = urlsplit(re.findall(r"http://\S+", told)[-1])
        return f"{parts.username}:{parts.password}"

    def connect(self, user: str) -> bytes:
        """The status line of a CONNECT to the site."""
        word = base64.b64encode(user.encode()).decode()
        head = f"CONNECT {self.place} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {word}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(head.encode())
            return client.makefile("rb").readline()


@pytest.fixture(scope="module", params=["free", pytest.param("confined", marks=pytest.mark.bwrap)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Agents without walls and with them."""
    root = str(os.geteuid() == 0)
    confined = {"LOCAL_BWRAP": "true", "LOCAL_BWRAP_ROOT": root} if request.param == "confined" else {}
    found = World(tmp_path_factory.mktemp(request.param), **confined)
    yield found
    found.close()


@pytest.fixture
def session(world: World) -> Iterator[str]:
    """A session whose agent waits, and was refused the site. Nothing is allowed."""
    world.admin.withdraw()
    found = world.stack.open(world.curl())
    assert "403" in world.stack.wait_result(found)["text"]
    world.stack.wait_state(found, "waiting")
    yield found
    world.stack.post(f"sessions/{found}/stop")


def test_a_refusal_is_told_and_asked_for_and_an_approval_lets_the_next_try_through(world: World, session: str) -> None:
    row = world.admin.asked(session)
    assert (row["host"], row["port"], row["state"]) == ("localhost", world.site.port, "open")
    (event,) = [event for event in world.stack.events(session) if event["kind"] == "denied"]
    assert event["data"] == {"host": "localhost", "port": world.site.port, "code": "rule", "count": 1}
    assert world.stack.post(f"egress/{row['id']}/propose", {"reason": "For the test"})["state"] == "proposed"
    world.admin.approve(session)
    wait_for(lambda: "the outside world" in world.tries(session), 60, "a try that goes through")
    assert len(world.stack.session(session)["runs"]) == 1  # nothing was restarted


def test_what_was_reached_is_kept_with_the_run(world: World, session: str) -> None:
    world.admin.approve(session, "1h")
    wait_for(lambda: "the outside world" in world.tries(session), 60, "a try that goes through")

    def ended() -> Any:
        reached = world.stack.get(f"sessions/{session}/runs/1/egress")["reached"]
        return reached if reached and reached[0]["open"] == 0 else None

    (use,) = wait_for(ended, 30, "the report")
    assert (use["host"], use["port"]) == ("localhost", world.site.port)
    assert use["sent"] > 100 and use["received"] > 100


def test_a_rule_that_is_withdrawn_ends_what_is_open(world: World, session: str) -> None:
    user = world.user(session)
    world.admin.approve(session)
    wait_for(lambda: "the outside world" in world.tries(session), 60, "a try that goes through")
    after = world.stack.session(session)["last_seq"]
    world.stack.send(session, world.curl("/endless"))
    wait_for(lambda: world.site.open == 1, 30, "the tunnel")
    world.admin.withdraw()
    wait_for(lambda: world.site.open == 0, 5, "the end of the tunnel")
    assert "outside" not in world.stack.wait_result(session, after=after)["text"]
    assert b" 403 " in world.connect(user)


def test_a_run_that_ends_loses_its_way_out(world: World, session: str) -> None:
    user = world.user(session)
    world.admin.approve(session)
    wait_for(lambda: b" 200 " in world.connect(user), 30, "a connection")
    world.stack.post(f"sessions/{session}/stop")
    world.stack.wait_verdict(session)
    # What was decided before may be used for 10 s more, by who has no open tunnel then: nobody, since the run is over.
    wait_for(lambda: b" 407 " in world.connect(user), 30, "a refusal")


def test_others_credentials_open_nothing(world: World, session: str) -> None:
    run = world.user(session).partition(":")[0]
    for user in (f"{run}:", f"{run}:{'0' * 64}", f"{uuid.uuid4()}:{'0' * 64}", "x:y"):
        assert b" 407 " in world.connect(user)


def test_without_the_control_plane_nothing_new_goes_out(world: World, session: str) -> None:
    user = world.user(session)
    world.admin.approve(session)
    wait_for(lambda: b" 200 " in world.connect(user), 30, "a connection")
    world.stack.kill("web")
    try:
        wait_for(lambda: b" 503 " in world.connect(user), 30, "a refusal")
    finally:
        world.stack.start("web")
        world.stack.wait_for_web()
    wait_for(lambda: b" 200 " in world.connect(user), 60, "a connection")


def test_the_session_says_what_confines_its_agent(world: World, session: str) -> None:
    first = next(event for event in world.stack.events(session) if "Run 1 starts" in event["text"])
    confined = world.stack.env.get("LOCAL_BWRAP")
    assert ("in a sandbox" if confined else "which nothing confines") in first["text"]


def test_a_confined_agent_has_no_other_way(world: World, session: str) -> None:
    if not world.stack.env.get("LOCAL_BWRAP"):
        pytest.skip("this one is not confined")
    after = world.stack.session(session)["last_seq"]
    tries = [
        f"curl -sk --noproxy '*' -m 3 https://{world.place}/",
        f"curl -s --noproxy '*' -m 3 {world.stack.base}/healthz",
    ]
    world.stack.send(session, f"$ {'; '.join(f'{each} || echo refused' for each in tries)}")
    words = world.stack.wait_result(session, after=after)["text"]
    assert words.count("refused") == 2 and "outside world" not in words
