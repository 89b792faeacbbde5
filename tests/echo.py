"""An application for tests of the server: tells what it was asked, dawdles, or talks without end.

`python -m tests.echo PORT` serves it.
"""

import asyncio
import json
import os
import sys
from typing import Any

told = {"sent": 0, "taken": 0}  # bytes: of /flood, by /drain


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Routes by path."""
    if scope["type"] == "websocket":
        await socket(receive, send)
        return
    path = scope["path"]
    if path == "/idle":  # asks for nothing of the body, and answers when its client is gone
        await asyncio.sleep(30)
    if path == "/drain":
        while (message := await receive()).get("more_body"):
            told["taken"] += len(message["body"])
        told["taken"] += len(message.get("body", b""))
    if path == "/flood":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            told["sent"] += 65536
    headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
    answer = {"root_path": scope["root_path"], "client": scope["client"], "headers": headers, "told": told}
    body = json.dumps(answer).encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def socket(receive: Any, send: Any) -> None:
    """Sends a frame for each that comes, and after "flood" frames without end."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(len(message["text"]))})
        while message["text"] == "flood":
            await send({"type": "websocket.send", "text": "x" * 65536})
            told["sent"] += 65536


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    import django

    django.setup()
    from controlplane.server import Server

    limits = {"/drain": None}
    server = Server(app, "0.0.0.0", int(sys.argv[1]), lambda path: limits.get(path, 1_000_000), ("/healthz",))
    server.run()
    sys.exit(server.failed or 0)
