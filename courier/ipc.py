"""Files that agent and courier exchange (contract nanoclaw), in folders that the agent may write to.

The agent owns what is in there and could put a link to the courier's own files, so nothing is followed.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

OUTBOXES = ("messages", "tasks")
FILE_LIMIT = 8 * 1024 * 1024  # bytes, as for a line of structured output
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Ipc:
    """The folder that the agent knows as /workspace/ipc."""

    def __init__(self, folder: Path) -> None:
        """Make the folders where they are missing, open to an agent that is another user."""
        self.folder = folder
        for name in ("input", *OUTBOXES):
            path = folder / name
            path.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # somebody else's, then it is theirs to open
                path.chmod(0o777)
        with self._open("input") as input_folder:
            _unlink(input_folder, "_close")  # from an earlier run

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put files into input/, each complete at once."""
        with self._open("input") as folder:
            for name, content in files.items():
                fd = os.open(
                    f".{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666, dir_fd=folder
                )
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    with suppress(OSError):
                        os.fchmod(fd, 0o666)
                os.rename(f".{name}.new", name, src_dir_fd=folder, dst_dir_fd=folder)

    def found(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (folder, name, content) of what the agent left in messages/ and tasks/, in the order of names."""
        for outbox in OUTBOXES:
            with self._open(outbox) as folder:
                for name in sorted(os.listdir(folder)):  # noqa: PTH208 (of a descriptor)
                    if name.endswith(".json"):
                        content = _read(folder, name)
                        if content is not None:
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
