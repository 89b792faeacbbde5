"""The owner of a run's journal folder: the holder of the lock on its file `lock`, which ends with its process.

A run's own courier that finds its folder locked by another, who took it for an orphan, asks for it by a file `wanted`.
"""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

POLL = 0.1  # seconds between two tries
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def try_lock(folder: Path) -> int | None:
    """Return a descriptor that locks the folder until it is closed; None if another process has it, or it is gone.

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


def lock(folder: Path) -> int:
    """Make the folder and lock it, however long that takes. Where there are no locks, nobody else takes it either."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fd = try_lock(folder)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return os.open(folder / "lock", os.O_RDWR)
        if fd is not None:
            (folder / "wanted").unlink(missing_ok=True)
            return fd
        with suppress(FileNotFoundError):
            (folder / "wanted").touch()
        time.sleep(POLL)


def remove_folder(folder: Path, *more: str) -> None:
    """Delete a folder that is locked and whose events are all stored; `more` are patterns of files to delete with it.

    Spools go first and the journal's newest file last: what a kill leaves of them is never read as news.
    """
    ours = ("out-*", "err-*", "begun", "journal-*", "wanted", "lock")
    for pattern in (*more, *ours):  # and nothing that somebody else put there
        for path in sorted(folder.glob(pattern)):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
