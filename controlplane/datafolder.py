"""The data folder of a local installation: private, and one supervisor's at a time.

It holds every conversation, and folders in which a file is a request of an agent's. Who may enter it may read the ones
and make the others, so nobody but its owner may: that the outermost folder is closed is what counts, since some below
it are open by design (an agent and its courier are different users in a pod).
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LOCK = "up.lock"
OTHERS = 0o077


class InUse(Exception):
    """Another supervisor has the folder. `str()` says which."""


def lock(folder: Path) -> int:
    """Hold the folder's lock for as long as the returned descriptor is open, here or in a process that was forked.

    Raises InUse if another process holds it, and OSError where files can't be locked.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise InUse(f"process {holder}, or what it started" if holder else "another process") from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def exposed(folder: Path, *files: Path) -> Iterator[Path]:
    """What others of this machine may enter or read: the folder, what holds rows in it, and these files."""
    databases = sorted(folder.glob("*.sqlite3*")) if folder.is_dir() else []
    yield from (path for path in (folder, *databases, *files) if path.exists() and path.stat().st_mode & OTHERS)


def make_private(folder: Path, *files: Path) -> list[Path]:
    """Take the rights of others from what is `exposed`, and return it. Raises OSError for what is another user's."""
    found = list(exposed(folder, *files))
    for path in found:
        path.chmod(path.stat().st_mode & ~OTHERS & 0o7777)
    return found
