"""Files that agent and courier exchange (contract nanoclaw), in folders that the agent may write to.

The agent owns what is in there and could put a link to the courier's own files, so nothing is followed.
"""

import heapq
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

OUTBOXES = ("messages", "tasks")
FILE_LIMIT = 8 * 1024 * 1024  # bytes, as for a line of structured output
MAX_FILES = 100  # files, and
MAX_BYTES = 16 * 1024 * 1024  # of them, that one poll takes; the rest waits for the next one
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Ipc:
    """The folder that the agent knows as /workspace/ipc."""

    def __init__(self, folder: Path) -> None:
        """Make the folders where they are missing, open to an agent that is another user.

        What an earlier run's agent has put in the place of one is put away: it must not end every later courier.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("input", *OUTBOXES):
            path = folder / name
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                _set_aside(path)
            path.mkdir(exist_ok=True)
            # Somebody else's is theirs to open; a link that an agent puts there meanwhile is not followed.
            with suppress(OSError), self._open(name) as opened:
                os.fchmod(opened, 0o777)
        close = folder / "input" / "_close"  # from an earlier run
        if close.is_dir() and not close.is_symlink():
            _set_aside(close)
        else:
            with self._open("input") as input_folder:
                _unlink(input_folder, "_close")

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put files into input/, each complete at once."""
        with self._open("input") as folder:
            for name, content in files.items():
                _unlink(folder, f".{name}.new")  # a FIFO there would hold the courier up for ever
                fd = os.open(f".{name}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    with suppress(OSError):
                        os.fchmod(fd, 0o666)
                os.rename(f".{name}.new", name, src_dir_fd=folder, dst_dir_fd=folder)

    def files(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (folder, name, content) of what the agent left in messages/ and tasks/, in the order of names.

        At most MAX_FILES files of each, and no more once they have MAX_BYTES.
        """
        left = MAX_BYTES
        for outbox in OUTBOXES:
            with self._open(outbox) as folder:
                # A listing may miss a file that was made before one that it has; one that begins later does not.
                last = max(_files(folder), default="")
                for name in heapq.nsmallest(MAX_FILES, (name for name in _files(folder) if name <= last)):
                    content = _read(folder, name) if left > 0 else None
                    if content is not None:
                        left -= len(content)
                        yield outbox, name, content

    def remove(self, outbox: str, name: str) -> None:
        """Delete a file of messages/ or tasks/."""
        with self._open(outbox) as folder:
            _unlink(folder, name)

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        fd = os.open(self.folder / name, FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)


def _files(folder: int) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
                yield entry.name


def _set_aside(path: Path) -> None:
    path.rename(path.with_name(f".{path.name}.{time.time_ns()}"))


def _read(folder: int, name: str) -> bytes | None:
    """Return the content of a regular file, cut at 8 MiB; None for anything else."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(FILE_LIMIT) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _unlink(folder: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)
