"""The pipes folder: the courier's side of the FIFOs that it shares with the agent's wrapper."""

import errno
import fcntl
import os
import stat
import termios
import time
from contextlib import suppress
from pathlib import Path

FIFOS = ("in", "out", "err", "bell", "ctl")  # ctl last: the wrapper starts when it has seen all that it needs
PIPE_BUF = 4096  # bytes that a FIFO takes whole or not at all
INPUT_SIZE = 1024 * 1024  # bytes; Linux lets anyone make a FIFO this large
VANISHED = 137  # 128 + SIGKILL: nothing else ends a wrapper before it notes the agent's status
SET_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # Linux; Python 3.11 for macOS has no such name


class Pipes:
    """FIFOs, made where missing. The wrapper writes to `bell` when it has them open, and when the agent ended."""

    def __init__(self, folder: Path) -> None:
        """Make what is missing, open to everybody, since the agent may be another user; the folder is theirs alone."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mask = os.umask(0)
        for name in FIFOS:
            path = folder / name
            if path.is_symlink() or (path.exists() and not path.is_fifo()):
                path.rename(folder / f".{name}.{time.time_ns()}")  # the agent's doing, which must not end each courier
            with suppress(FileExistsError):
                os.mkfifo(path, 0o666)
        os.umask(mask)
        # Read-write: a bell that nobody else has open is neither an error nor at its end.
        self.bell = _fifo(folder / "bell", os.O_RDWR)
        self.streams = {name: _fifo(folder / name, os.O_RDONLY) for name in ("out", "err")}
        self.input: int | None = None
        self.attached = False  # the wrapper has been seen

    def attach(self) -> bool:
        """Open the agent's input once the wrapper holds it (earlier, a write could be lost); tell whether it does."""
        if not self.attached and self.wrapper_lives():  # it opens ctl last, so it holds all others as well
            self.input = self._open("in")
            self.attached = self.input is not None
            with suppress(OSError):  # macOS, or many FIFOs of one user: then it holds less
                fcntl.fcntl(self.input or 0, SET_SIZE, INPUT_SIZE)
        return self.attached

    def write(self, data: bytes, begun: bool) -> int:
        """Write to the agent's input and return how many bytes it took.

        Where it can, the FIFO takes all or nothing, so that a courier that is killed leaves no half a message: up to
        4 KiB always, up to its size when it is empty. `begun` says that the beginning of `data` has been written.
        """
        if self.input is None:
            return 0
        if not begun and PIPE_BUF < len(data) <= INPUT_SIZE and self._unread():
            return 0
        try:
            return os.write(self.input, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # nobody will ever read it: the wrapper is gone, and its end is on its way

    def end_input(self) -> bool:
        """Let go of the agent's input and have the wrapper do the same; False when the wrapper is not there (yet)."""
        if self.input is not None:
            os.close(self.input)
            self.input = None
        return self.control("eof")

    def control(self, word: str) -> bool:
        """Send the wrapper a word; False when it is not there (yet)."""
        ctl = self._open("ctl")
        if ctl is None:
            return False
        try:
            os.write(ctl, word.encode() + b"\n")
        except (BlockingIOError, BrokenPipeError):
            return False
        finally:
            os.close(ctl)
        return True

    def wrapper_lives(self) -> bool:
        """Tell whether a wrapper reads its orders."""
        ctl = self._open("ctl")
        if ctl is not None:
            os.close(ctl)
        return ctl is not None

    def exit_code(self, seen: bool) -> int | None:
        """Return the agent's exit status, None while it has none; 137 if a wrapper that was `seen` left none behind."""
        code = self._exit_status()
        if code is None and seen and not self.wrapper_lives():
            code = self._exit_status()  # noted between the two checks
            return VANISHED if code is None else code
        return code

    def peak(self) -> int | None:
        """Return the most memory that the agent's container used, in bytes; None if nobody knows."""
        try:
            peak = int(self._read("peak"))
        except (OSError, ValueError):
            return None
        return peak if 0 < peak < 2**63 else None

    def drain_bell(self) -> None:
        """Read what the wrapper wrote there."""
        with suppress(BlockingIOError):
            os.read(self.bell, 4096)

    def mark_drained(self) -> None:
        """Let the wrapper end."""
        with suppress(FileExistsError):
            os.close(os.open(self.folder / "drained", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))

    def _open(self, name: str) -> int | None:
        """Open a FIFO for writing; None when nobody reads it, or the agent has put something else in its place."""
        try:
            return _fifo(self.folder / name, os.O_WRONLY)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ELOOP, errno.ENOENT, errno.EINVAL, errno.EISDIR, errno.EACCES):
                raise
            return None

    def _exit_status(self) -> int | None:
        try:
            return int(self._read("exit"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            return VANISHED  # the tmpfs was full, or the agent put something else there

    def _read(self, name: str) -> bytes:
        """Return what a small file holds. The folder is open to the agent, which could put a FIFO in its place."""
        fd = os.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            return os.read(fd, 64)
        finally:
            os.close(fd)

    def _unread(self) -> int:
        return int.from_bytes(fcntl.ioctl(self.input or 0, termios.FIONREAD, bytes(4)), "little")


def _fifo(path: Path, flags: int) -> int:
    """Open a FIFO. Raises OSError for anything else: the agent may put a link to a file of the courier's there."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a FIFO", str(path))
    return fd
