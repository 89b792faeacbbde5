"""Whose a run's journal folder is: the holder of the lock on its file `lock`, which ends with its process.

A run's own courier that finds its folder held by another, who took it for a leftover, asks for it by a file `wanted`.
"""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

POLL = 0.1  # seconds between two tries
LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def claim(folder: Path) -> int | None:
    """Return a descriptor that holds the folder until it is closed; None if another process has it, or it is gone.

    Raises OSError where the file system has no locks or the folder is somebody else's.
    """
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), (folder / "lock").stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or deleted by its holder
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def insist(folder: Path) -> int:
    """Make the folder and claim it, however long that takes. Where there are no locks, nobody else takes it either."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fd = claim(folder)
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            return os.open(folder / "lock", os.O_RDWR)
        if fd is not None:
            (folder / "wanted").unlink(missing_ok=True)
            return fd
        with suppress(FileNotFoundError):
            (folder / "wanted").touch()
        time.sleep(POLL)


def remove(folder: Path, *more: str) -> None:
    """Delete a folder that is claimed and whose events are all stored; `more` are patterns of files to delete with it.

    Spools go first and the journal's newest file last: what a kill leaves of them is never read as news.
    """
    ours = ("out-*", "err-*", "begun", "journal-*", "wanted", "lock")
    for pattern in (*more, *ours):  # and nothing that somebody else put there
        for path in sorted(folder.glob(pattern)):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
