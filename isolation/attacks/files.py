"""Files: what is the agent's own, and all that is not."""

import contextlib
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Any

from isolation.attacks import kernel
from isolation.attacks.base import Blocked, Success

SECRETS = "/var/secrets"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN = re.compile(
    rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9a-f]{64}"
)  # see sessions/lifecycle/run_tokens.py
SKIPPED = ("/proc", "/sys")  # of a walk; what of /proc leads elsewhere is walked by itself
WALK_SECONDS = 3.0
# Of those who could do anything on a machine, whether or not a walk finds them.
SERVICES = (
    "/run/containerd/containerd.sock", "/var/run/docker.sock", "/run/crio/crio.sock", "/run/podman/podman.sock",
    "/run/systemd/private", "/run/dbus/system_bus_socket", "/run/snapd.socket",
    "/var/lib/kubelet/pod-resources/kubelet.sock",
)  # fmt: skip
NOT_DISKS = ("tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "overlay")


def own(paths: list[str]) -> Success:
    """Write, read back, rename and remove a file in each of the agent's own folders."""
    folders = [os.path.expanduser(path) for path in paths]
    for folder in folders:
        name = os.path.join(folder, f".proof-{os.getpid()}")
        with open(name, "w") as file:
            file.write("mine")
        os.rename(name, f"{name}.new")
        with open(f"{name}.new") as file:
            if file.read() != "mine":
                raise Blocked(f"{folder}: another text came back")
        os.unlink(f"{name}.new")
    return Success(f"wrote and read in {', '.join(folders)}")


def secret(name: str, sha256: str) -> Success:
    """Read a secret of the agent's own, and compare it; nobody is told its value."""
    with open(os.path.join(os.environ.get("BERTH_SECRETS") or SECRETS, name), "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != sha256:
        raise Blocked(f"{name} holds another value")
    return Success(f"{name} holds what it should")


def read(paths: list[str]) -> Success:
    """Read files, or list folders. One is enough."""
    refusals: dict[str, list[str]] = {}
    for path in paths:
        try:
            if os.path.isdir(path):
                return Success(f"{path} lists {len(os.listdir(path))} entries")
            with open(path, "rb") as file:
                return Success(f"{path} gives {len(file.read(1024))} bytes")
        except OSError as error:
            refusals.setdefault(str(error.strerror), []).append(path)
    raise Blocked(_describe(refusals))


def write(paths: list[str]) -> Success:
    """Make a file in folders. One is enough; it is removed."""
    refusals: dict[str, list[str]] = {}
    for folder in paths:
        name = os.path.join(folder, f".proof-{os.getpid()}")
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except OSError as error:
            refusals.setdefault(str(error.strerror), []).append(folder)
            continue
        os.unlink(name)
        return Success(f"made a file in {folder}")
    raise Blocked(_describe(refusals))


def _describe(refusals: dict[str, list[str]]) -> str:
    """The kernel's errors, each with its paths."""
    return "; ".join(f"{words}: {', '.join(paths)}" for words, paths in refusals.items())


def search(name: str, also: list[str]) -> Success:
    """Look for a file of the neighbour's in all that can be seen, and in what other processes see."""
    until, seen = time.monotonic() + WALK_SECONDS, 0
    roots = ["/", *also, *(f"/proc/{pid}/{way}" for pid in kernel.foreign_processes() for way in ("root", "cwd"))]
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = [each for each in folders if os.path.join(folder, each) not in SKIPPED]
            seen += len(files)
            if name in files:
                with open(os.path.join(folder, name), "rb") as file:
                    digest = hashlib.sha256(file.read(4096)).hexdigest()
                return Success(f"found {os.path.join(folder, name)}", digest=digest)
            if time.monotonic() > until:
                raise Blocked(f"not among {seen} files, in the time there was")
    raise Blocked(f"not among {seen} files")


def symlinks(folder: str, targets: list[str]) -> Success:
    """Leave a folder by symlinks, absolute or like `../../journal`. One that can be read is enough."""
    link = os.path.join(folder, f".proof-link-{os.getpid()}")
    for target in targets:
        os.symlink(target, link)
        try:
            return Success(f"{target}: {read([link, os.path.join(folder, target)]).detail}")
        except Blocked:
            continue
        finally:
            os.unlink(link)
    raise Blocked(f"none of {len(targets)} links and paths leads anywhere")


def unix_sockets(own: list[str]) -> Success:
    """Connect to services of the machine by their sockets, wherever in the file system, and to those without a path."""
    with open("/proc/net/unix") as file:  # https://man7.org/linux/man-pages/man5/proc.5.html
        named = [fields[7] for line in file if len(fields := line.split()) > 7]
    found = {f"\0{name[1:]}" if name.startswith("@") else name for name in named}
    tried = 0
    for path in (*SERVICES, *sorted(found), *_sockets()):
        if path.startswith(tuple(own)):
            continue
        tried += 1
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
                sock.settimeout(0.2)
                sock.connect(path)
                return Success(f"connected to {path!r}")
    raise Blocked(f"none of {tried} can be connected to")


def _sockets() -> Iterator[str]:
    """The sockets in the file system, as far as a walk comes."""
    until = time.monotonic() + WALK_SECONDS
    for folder, folders, names in os.walk("/"):
        folders[:] = [each for each in folders if os.path.join(folder, each) not in SKIPPED]
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    yield path
        if time.monotonic() > until:
            return


def node_disk(own: list[str]) -> Success:
    """Open for writing what is mounted from the node's disk besides the volume, such as the termination log.

    Nobody counts what is written there. Nothing is.
    """
    count = 0
    with open("/proc/self/mountinfo") as file:  # https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
        fields = [line.split() for line in file]
    for each in fields:
        mount_point, kind = each[4], each[each.index("-") + 1]
        if kind in NOT_DISKS or mount_point.startswith(("/proc", "/sys", *own)):
            continue
        count += 1
        with contextlib.suppress(OSError):
            if os.path.isdir(mount_point):
                return write([mount_point])
            os.close(os.open(mount_point, os.O_WRONLY))
            return Success(f"opened {mount_point} for writing")
    raise Blocked(f"none of {count} may be written to")


def courier_token(paths: list[str]) -> Success:
    """Look for the courier's token: where it is mounted, and in all of /proc. `digests` are SHA-256 of what looks so.

    The agent has credentials of its own that look alike; who knows the token tells them apart.
    """
    digests = token_digests([*paths, *_proc_paths()])
    opened = [path for path in paths if os.access(path, os.R_OK)]
    if opened:
        return Success(f"{opened[0]} can be read", digests=digests)
    raise Blocked(f"nothing at {', '.join(paths)}; {len(digests)} texts of its form elsewhere", digests=digests)


def token_digests(paths: Iterable[str]) -> list[str]:
    """SHA-256 of all texts in files that look like a token of a run.

    What is no file is not read, which only who has opened it can tell: a pipe of an attempt that runs beside this one
    would lose its answer.
    """
    digests = []
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                continue
            with open(fd, "rb") as file:
                digests += [hashlib.sha256(each).hexdigest() for each in TOKEN.findall(file.read(1 << 20))]
    return digests


def service_account(folder: str = SERVICE_ACCOUNT) -> Success:
    """Read the token that Kubernetes gives to pods which are to talk to it."""
    for path in (folder, folder.replace("/var/run", "/run")):
        if os.path.isdir(path):
            return Success(f"{path} lists {len(os.listdir(path))} entries")
    raise Blocked(f"there is no {folder}")


def _proc_paths() -> Iterator[str]:
    """Files of /proc, and small files of the places where a pod is given things."""
    for pid in _pids():
        yield from (f"/proc/{pid}/{name}" for name in ("environ", "cmdline", "root/var/lib/berth/token/token"))
        with contextlib.suppress(OSError):
            yield from (f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))
    for root in ("/var/lib/berth", SECRETS, "/run", "/tmp", "/workspace"):
        for folder, _, files in os.walk(root):
            yield from (os.path.join(folder, name) for name in files[:1000])


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


ATTACKS: dict[str, Any] = {
    "own": own,
    "secret": secret,
    "read": read,
    "write": write,
    "search": search,
    "symlinks": symlinks,
    "node_disk": node_disk,
    "unix_sockets": unix_sockets,
    "courier_token": courier_token,
    "service_account": service_account,
}
