"""What the agent wrote, as bytes on the volume: moved there from its FIFO, read back for parsing, then forgotten.

A spool is a row of files `<name>-<offset>`, each named for the offset of its first byte in the stream.
"""

import errno
import os
from pathlib import Path

SEGMENT = 8 * 1024 * 1024  # bytes; a file at least this long is followed by a new one
MOVE = 1024 * 1024  # bytes moved by one call; a FIFO holds 64 KiB unless told otherwise
READ = 256 * 1024  # bytes read back at once, which bounds what one step takes


class Spool:
    """One stream of a run. `start` is the offset of the first byte that is kept, `end` the offset after the last."""

    def __init__(self, folder: Path, name: str, consumed: int) -> None:
        """Open the spool, or make it where there is none; reading goes on at the offset `consumed`."""
        self.folder, self.name = folder, name
        self.position = consumed
        self.starts = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob(f"{name}-*")) or [consumed]
        self.fd = self._open()
        self.end = self.starts[-1] + os.fstat(self.fd).st_size
        self.forget(consumed)

    def fill(self, fifo: int) -> int:
        """Move what the FIFO holds to the end of the spool; return how many bytes, 0 when nobody has it open to write.

        Raises BlockingIOError when it is empty, and the OSError of a full volume (then nothing was taken).
        """
        if self.end - self.starts[-1] >= SEGMENT:
            os.close(self.fd)
            self.starts.append(self.end)
            self.fd = self._open()
        count = move(fifo, self.fd, self.end - self.starts[-1])
        self.end += count
        return count

    def read(self) -> bytes:
        """Return the next bytes, at most 256 KiB; b"" at the end."""
        data = self.slice(self.position, min(self.position + READ, self.end))
        self.position += len(data)
        return data

    def slice(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, or up to the end of the file that holds `start`."""
        if start >= end:
            return b""
        if start >= self.starts[-1]:
            return os.pread(self.fd, end - start, start - self.starts[-1])
        first = max(offset for offset in self.starts if offset <= start)
        with self._path(first).open("rb") as file:
            file.seek(start - first)
            return file.read(end - start)

    def forget(self, consumed: int) -> None:
        """Delete the files that end at or before `consumed`; the last one stays."""
        while len(self.starts) > 1 and self.starts[1] <= consumed:
            self._path(self.starts.pop(0)).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the last file."""
        os.close(self.fd)

    def _path(self, start: int) -> Path:
        return self.folder / f"{self.name}-{start:015d}"

    def _open(self) -> int:
        return os.open(self._path(self.starts[-1]), os.O_RDWR | os.O_CREAT, 0o600)


def move(fifo: int, file: int, offset: int) -> int:
    """Move bytes from the FIFO to `offset` of the file, in one system call where there is one for it (Linux).

    A kill between reading and writing would lose what was read; splice(2) has no such moment.
    """
    if hasattr(os, "splice"):
        try:
            return os.splice(fifo, file, MOVE, offset_dst=offset, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without it
                raise
    data = os.read(fifo, 64 * 1024)
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
    return len(data)
