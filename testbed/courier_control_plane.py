"""A control plane that speaks the courier's protocol, and misbehaves as a test tells it to."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-for-tests"


def well(number: int) -> str:
    """Behave as a control plane should."""
    return ""


def fit(events: list[dict[str, Any]], size: int) -> int:
    """Take any events."""
    return 0


@dataclass
class Desk:
    """What the server holds, and how it behaves. `manner` is asked before each post of events is stored.

    It gets the number of the post and returns "" (as it should be), "503", "429", "401", "410", "drop" (closes, stores
    nothing), "forget" (stores, closes without an answer), "torn" (stores, closes within the answer) or "delay".
    """

    own: str = "run"
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    command: str | None = None
    manner: Callable[[int], str] = well
    greetings: int = 0
    posts: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False
    heard: list[str] = field(default_factory=list)  # what was asked, in order: "inbox LIMIT", "events RUN KIND…"
    refused: dict[str, int] = field(default_factory=dict)  # other runs, and the status that naming them gets
    unfit: Callable[[list[dict[str, Any]], int], int] = fit  # the status by which events of so many bytes are refused
    busy: set[str] = field(default_factory=set)  # runs whose events get 503
    changed: threading.Condition = field(default_factory=threading.Condition)

    def events(self, run: str = "") -> list[dict[str, Any]]:
        """The stored events of a run, in order."""
        return list(self.runs.get(run or self.own, []))

    def text(self, *kinds: str, run: str = "") -> str:
        """The joined texts of the events of these kinds."""
        return "".join(event.get("text", "") for event in self.events(run) if event["kind"] in kinds)

    def kinds(self, run: str = "") -> list[str]:
        """The kinds of a run's events, in order."""
        return [event["kind"] for event in self.events(run)]

    def of(self, kind: str, run: str = "") -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events(run) if event["kind"] == kind]

    def say(self, text: str) -> None:
        """Put a message into the inbox."""
        with self.changed:
            self.messages.append({"number": len(self.messages) + 1, "text": text, "sender": "ada", "at": time.time()})
            self.changed.notify_all()

    def order(self, command: str) -> None:
        """Give the command `close` or `stop`."""
        with self.changed:
            self.command = command
            self.changed.notify_all()

    def store(self, run: str, events: list[dict[str, Any]]) -> tuple[int, int]:
        """Store what is new of a batch; returns status and highest number."""
        with self.changed:
            held = self.runs.setdefault(run, [])
            for event in events:
                last = held[-1]["n"] if held else 0
                if event["n"] > last + 1 and (held or run == self.own):
                    return 409, last
                if event["n"] > last:
                    held.append(event)
            return 200, held[-1]["n"] if held else 0

    def inbox(self, after: int, wait: float, limit: int, known: str) -> dict[str, Any]:
        """Answer a long poll."""
        end = time.monotonic() + wait
        with self.changed:
            while True:
                found = [message for message in self.messages if message["number"] > after][:limit]
                if found or (self.command or "") != known or self.over or time.monotonic() >= end:
                    return {"messages": found, "command": self.command}
                self.changed.wait(end - time.monotonic())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        desk = self.server.desk
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if self._refused():
            return
        desk.heard.append(f"inbox {query['limit']}")
        answer = desk.inbox(int(query["after"]), float(query["wait"]), int(query["limit"]), query.get("command", ""))
        if desk.over:
            self._answer(410, {})
            return
        self._answer(200, answer)

    def do_POST(self) -> None:
        desk = self.server.desk
        body = self.rfile.read(int(self.headers["Content-Length"]))
        content = json.loads(body)
        if self._refused():
            return
        if self.path.endswith("/hello"):
            desk.greetings += 1
            held = desk.events()
            self._answer(200, {"run": desk.own, "session": "session", "stored": held[-1]["n"] if held else 0})
            return
        desk.posts += 1
        desk.heard.append(f"events {content.get('run', desk.own)} {' '.join(e['kind'] for e in content['events'])}")
        if content.get("run") in desk.refused:
            self._answer(desk.refused[content["run"]], {})
            return
        if status := desk.unfit(content["events"], len(body)):
            self._answer(status, {})
            return
        manner = "503" if content.get("run") in desk.busy else desk.manner(desk.posts)
        if manner in ("503", "429", "401", "410"):
            self._answer(int(manner), {})
            return
        if manner == "drop":
            self.close_connection = True
            return
        desk.sizes.append((len(content["events"]), len(body)))
        status, stored = desk.store(content.get("run", desk.own), content["events"])
        if manner == "forget":
            self.close_connection = True
        elif manner == "torn":
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"sto')
            self.close_connection = True
        else:
            if manner == "delay":
                threading.Event().wait(0.3)
            self._answer(status, {"stored": stored})

    def _refused(self) -> bool:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {})
        elif self.server.desk.over:
            self._answer(410, {})
        else:
            return False
        return True

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Serves a desk on a port of its own; `stop` and `start` make it go away and come back on the same port."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, desk: Desk, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.desk = desk
        self.connections: set[Any] = set()
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
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
