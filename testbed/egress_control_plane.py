"""A control plane that speaks the egress protocol (docs/egress.md), and misbehaves as a test tells it to."""

import base64
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-for-tests"
Rule = tuple[str, str, int]  # run, host, port


@dataclass
class Rules:
    """What the control plane knows, and how it behaves: `manner` is "", "500" or "hang" (answers nothing)."""

    credentials: dict[str, str] = field(default_factory=lambda: {"run-a": "secret-a", "run-b": "secret-b"})
    allowed: dict[Rule, float | None] = field(default_factory=dict)  # until when
    version: int = 7
    manner: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    polls: int = 0
    tunnels: dict[str, dict[str, Any]] = field(default_factory=dict)
    denials: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuse_reports: int = 0  # this many
    reports: int = 0
    wrong_tokens: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def allow(self, host: str, port: int = 443, run: str = "run-a", until: float | None = None) -> None:
        """Add a rule, without telling."""
        self.allowed[run, host, port] = until

    def change(self) -> None:
        """Tell the proxies that something is different."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def withdraw(self, host: str, port: int = 443, run: str = "run-a") -> None:
        """Take a rule back, and tell."""
        del self.allowed[run, host, port]
        self.change()

    def decide(self, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer a question."""
        self.asked.append(question)
        version = self.version
        if self.credentials.get(question["run"]) != question["credential"]:
            return 401, {"detail": "no such run"}
        rule = (question["run"], question["host"], question["port"])
        found = rule in self.allowed
        reason = "" if found else "Ask for it on the group's page."
        until = self.allowed.get(rule)
        return 200, {"allowed": found, "rule": None, "until": until, "reason": reason, "version": version}

    def report(self, body: dict[str, Any]) -> int:
        """Store a report; returns the status."""
        self.reports += 1
        if self.refuse_reports:
            self.refuse_reports -= 1
            return 503
        self.tunnels |= {tunnel["id"]: tunnel for tunnel in body["tunnels"]}
        self.denials |= {denial["id"]: denial for denial in body["denials"]}
        return 200

    def ended(self, cause: str) -> list[dict[str, Any]]:
        """The tunnels that ended for this cause."""
        return [tunnel for tunnel in list(self.tunnels.values()) if tunnel["ended"] and tunnel["cause"] == cause]

    def denied(self, code: str) -> list[dict[str, Any]]:
        """The denials with this code."""
        return [denial for denial in list(self.denials.values()) if denial["code"] == code]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "ControlPlane"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        rules, query = self.server.rules, parse_qs(urlsplit(self.path).query)
        rules.polls += 1
        if self._misbehaves():
            return
        with rules.changed:
            rules.changed.wait_for(
                lambda: rules.version > int(query["after"][0]) or self.server.closing, float(query["wait"][0])
            )
        self._answer(200, {"version": rules.version})

    def do_POST(self) -> None:
        rules = self.server.rules
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._misbehaves():
            return
        if self.path == "/egress/v1/decide":
            self._answer(*rules.decide(body))
        else:
            self._answer(rules.report(body), {})

    def _misbehaves(self) -> bool:
        rules = self.server.rules
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            rules.wrong_tokens += 1
            self._answer(403, {})
        elif rules.manner == "500":
            self._answer(500, {})
        elif rules.manner == "hang":
            self.server.released.wait(60)
            self.close_connection = True
        else:
            return False
        return True

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)


class ControlPlane(ThreadingHTTPServer):
    """Serves the rules on a port of its own; `stop` makes it go away."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, rules: Rules, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.rules = rules
        self.connections: set[Any] = set()
        self.closing = False
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, address)

    def handle_error(self, *_: Any) -> None:
        pass

    def stop(self) -> None:
        """Close the port and every connection."""
        self.closing = True
        self.released.set()
        with self.rules.changed:
            self.rules.changed.notify_all()
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def authorization(user: str) -> str:
    """The header line for `run:credential`, "" for none."""
    return f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n" if user else ""
