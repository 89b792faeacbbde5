"""Log lines: JSON on standard error, with the run and the session in each."""

import sys
import time
from typing import Any

from courier.events import dump

_context: dict[str, Any] = {}


def bind(**context: Any) -> None:
    """Put these fields into every line from now on."""
    _context.update(context)


def log(event: str, **fields: Any) -> None:
    """Write one line. Holds no agent's output and no secret: only what the courier itself does."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.buffer.write(dump({"at": at, "event": event, **_context, **fields}) + b"\n")
    sys.stderr.buffer.flush()
