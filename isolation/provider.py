"""A stand-in for a model's provider: its answer is the request, so that an agent sees what the broker lets pass."""

import http.server
import json
import threading
from typing import Self

from isolation.attacks.broker import MARK
from isolation.environment import Endpoint
from isolation.listener import own_address

BODY_MAX = 1 << 20


class Provider:
    """Listens from `with` on, at an address that the control plane reaches."""

    def __init__(self, towards: Endpoint) -> None:
        """`towards`: see `Listener`."""
        self._server = http.server.ThreadingHTTPServer((own_address(towards), 0), _Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The API's address, as a brokered key has it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 10.0

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        request = self.rfile.read(min(size, BODY_MAX)).decode(errors="replace")
        hidden = ("x-api-key", "authorization")  # the key is nobody's business
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hidden}
        message = {"type": "message", "mark": MARK, "headers": headers, "asked": request}
        body = json.dumps(message | {"usage": {"input_tokens": 1, "output_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: the agent reports what was requested."""
