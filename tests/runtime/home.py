"""A control plane of one file for tests: speaks docs/courier-protocol.md, keeps what it was told in memory."""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Event = dict[str, Any]


@dataclass
class Line:
    """One run's line to its home."""

    run: str
    token: str
    session: str = ""
    events: list[Event] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    command: str | None = None
    hellos: int = 0
    gone: bool = False  # answer 410

    def output(self) -> str:
        """All that the agent said or printed on stdout, in order."""
        return "".join(
            event.get("text") or "" for event in self.events if event["kind"] in ("stdout", "text", "result")
        )

    def exit_code(self) -> int | None:
        """What the run's exit event told, if it came."""
        codes = [event["data"]["code"] for event in self.events if event["kind"] == "exit"]
        return codes[0] if codes else None


class Server(ThreadingHTTPServer):
    """Says nothing of couriers that were killed while they waited for an answer."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Home:
    """The server. `away` makes it answer 503 to everything."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.away = False
        self._news = threading.Condition()
        self._server = Server(("0.0.0.0", 0), self._handler())
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="home", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def expect(self, run: str, token: str, *messages: str) -> Line:
        """Know a run from now on, with these messages waiting for it."""
        self.lines[run] = line = Line(run, token)
        for text in messages:
            self.say(run, text)
        return line

    def say(self, run: str, text: str) -> None:
        """Put a message into the run's inbox."""
        with self._news:
            line = self.lines[run]
            message = {"number": len(line.messages) + 1, "text": text, "sender": "test", "at": time.time()}
            line.messages.append(message)
            self._news.notify_all()

    def order(self, run: str, command: str) -> None:
        """Tell the run's courier to "close" or to "stop"."""
        with self._news:
            self.lines[run].command = command
            self._news.notify_all()

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer one request: (status, JSON)."""
        line = next((each for each in self.lines.values() if each.token == token), None)
        if self.away:
            return 503, {}
        if line is None:
            return 401, {}
        if line.gone:
            return 410, {}
        url = urlsplit(path)
        if (method, url.path) == ("POST", "/agent/v1/hello"):
            line.hellos += 1
            return 200, {"run": line.run, "session": line.session, "stored": len(line.events)}
        if (method, url.path) == ("GET", "/agent/v1/inbox"):
            return 200, self._inbox(line, {key: values[0] for key, values in parse_qs(url.query).items()})
        if (method, url.path) == ("POST", "/agent/v1/events"):
            return self._store(self.lines.get(body.get("run") or line.run, line), body["events"])
        return 404, {}

    def _inbox(self, line: Line, query: dict[str, str]) -> dict[str, Any]:
        end = time.monotonic() + min(float(query.get("wait", 0)), 25)
        with self._news:
            while True:
                after, limit = int(query.get("after", 0)), int(query.get("limit", 100))
                new = [each for each in line.messages if each["number"] > after][:limit]
                known = query.get("command") or None
                if new or line.command != known or time.monotonic() >= end:
                    return {"messages": new, "command": line.command}
                self._news.wait(min(1.0, max(0.0, end - time.monotonic())))

    def _store(self, line: Line, events: list[Event]) -> tuple[int, dict[str, Any]]:
        with self._news:
            for event in events:
                if event["n"] > len(line.events) + 1:
                    return 409, {"stored": len(line.events)}
                if event["n"] == len(line.events) + 1:
                    line.events.append(event)
            return 200, {"stored": len(line.events)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        home = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply({})

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"))

            def _reply(self, body: dict[str, Any]) -> None:
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, answer = home.answer(self.command, self.path, token, body)
                raw = json.dumps(answer).encode()
                self.send_response(status)
                if status in (429, 503):
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
