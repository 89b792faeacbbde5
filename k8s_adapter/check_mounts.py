"""Checks what a run is to mount, where it is mounted: only there are links seen for what they are.

Run as a program it reads BERTH_MOUNTS, a JSON list of `{"name", "root", "subpath", "blocked", "base"}`, and ends with
status 1 and the refusals in /dev/termination-log. It is handed as text to an image with Python: it imports no Berth.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

TERMINATION_LOG = "/dev/termination-log"


def refusal(root: str, subpath: str, blocked: Iterable[str] = (), base: str = "") -> str:
    """Why the folder or file `subpath` of the volume at `root` can't be mounted; empty if it can.

    Its real path must exist, lie in the volume, under its folder `base`, and have no part that is called like one of
    `blocked` (in any case).
    """
    root = os.path.realpath(root)
    real = os.path.realpath(Path(root, subpath.lstrip("/")))
    if os.path.commonpath((root, real)) != root:
        return f"{subpath} leads out of its volume, to {real}"
    if base and not Path(real).is_relative_to(os.path.realpath(Path(root, base))):
        return f"{subpath} leads out of {base}"
    try:
        Path(real).stat()
    except OSError as error:
        return f"{subpath or 'the volume'} can't be found in its volume ({error.strerror})"
    names = {name.casefold() for name in blocked}
    for part in Path(real).relative_to(root).parts:
        if part.casefold() in names:
            return f"{subpath} is {part} or lies in it, which may not be mounted"
    return ""


def main() -> int:
    """Check every mount; 0 if all may be mounted."""
    mounts = json.loads(os.environ["BERTH_MOUNTS"])
    checked = ((each["name"], refusal(each["root"], each["subpath"], each["blocked"], each["base"])) for each in mounts)
    refusals = [f"mount {name!r}: {reason}" for name, reason in checked if reason]
    if refusals:
        Path(TERMINATION_LOG).write_text("; ".join(refusals)[:4000])
    return 1 if refusals else 0


if __name__ == "__main__":
    sys.exit(main())
