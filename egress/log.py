"""Log lines: JSON on standard error. No credential, no token, no URL's path is ever among the fields."""

import json
import sys
import time
from typing import Any


def log(event: str, **fields: Any) -> None:
    """Write one line."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"at": at, "event": event, **fields}, separators=(",", ":"), default=str)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
