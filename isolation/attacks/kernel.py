"""The kernel: becoming root, leaving the container, touching processes that are not the agent's."""

import contextlib
import ctypes
import os
import stat
import subprocess
from typing import Any

from isolation.attacks.base import Blocked, Success

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
PTRACE_SEIZE = 0x4206  # linux/ptrace.h: attaches without stopping, and ends with the one who did
CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, linux/capability.h
PROGRAMS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/lib", "/usr/libexec")
# Opened for writing, and never written to.
KNOBS = [
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max",
]  # fmt: skip


def call(name: str, *arguments: Any) -> int:
    """A function of libc. Raises OSError with its errno."""
    result: int = getattr(libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def become_root() -> Success:
    """Take root's ids, plainly."""
    for change in (
        lambda: os.setuid(0),
        lambda: os.setresuid(0, 0, 0),
        lambda: os.setgid(0),
        lambda: os.setgroups([0]),
    ):
        with contextlib.suppress(OSError):
            change()
    if 0 in (*os.getresuid(), *os.getresgid()) or 0 in os.getgroups():
        return Success(f"ids {os.getresuid()}, groups {os.getresgid()} and {os.getgroups()}")
    raise Blocked(f"still user {os.getuid()}, group {os.getgid()}")


def set_uid_programs() -> Success:
    """Use the programs that run as root whoever starts them."""
    found = []
    for folder in PROGRAMS:
        for where, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    if os.lstat(path := os.path.join(where, name)).st_mode & (stat.S_ISUID | stat.S_ISGID):
                        found.append(path)
    tries = [["su", "-c", "id -u"], ["sudo", "-n", "id", "-u"], ["pkexec", "id", "-u"], ["newgrp", "root"]]
    for words in tries:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1)
            if done.returncode == 0 and done.stdout.strip() == "0":
                return Success(f"{' '.join(words)} ran as root")
    raise Blocked(f"{len(found)} such programs, none makes root")


def capabilities() -> Success:
    """Take all capabilities."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    sets = (ctypes.c_uint32 * 6)(*([0xFFFFFFFF] * 6))
    call("capset", ctypes.byref(Header(CAPABILITIES, 0)), sets)
    return Success("the kernel gave every capability")


def namespaces() -> Success:
    """Make namespaces of one's own, in which one would be root."""
    refusals = []
    kinds = {"user": CLONE_NEWUSER, "mount": CLONE_NEWNS, "pid": CLONE_NEWPID, "network": CLONE_NEWNET}
    kinds["user and mount"] = CLONE_NEWUSER | CLONE_NEWNS
    for name, flags in kinds.items():
        try:
            call("unshare", flags)
        except OSError as error:
            refusals.append(f"{name}: {error.strerror}")
            continue
        return Success(f"a {name} namespace of its own")
    raise Blocked("; ".join(refusals))


def mounts() -> Success:
    """Mount a file system, bind a folder over another, change the root, enter another's namespace."""
    tries = {
        "mount tmpfs": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "mount proc": lambda: call("mount", b"proc", b"/tmp", b"proc", 0, None),
        "bind /": lambda: call("mount", b"/", b"/tmp", None, 4096, None),
        "remount /": lambda: call("mount", b"none", b"/", None, 32 | 4096, None),
        "chroot": lambda: os.chroot("/tmp"),
        "enter the namespace of process 1": lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
        "make a device": lambda: os.mknod("/tmp/.proof-device", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
    }
    refusals = []
    for name, attempt in tries.items():
        if name.startswith("enter") and _same("/proc/1/ns/mnt"):
            continue
        try:
            attempt()
        except OSError as error:
            refusals.append(f"{name}: {error.strerror}")
            continue
        return Success(name)
    raise Blocked("; ".join(refusals))


def _same(namespace: str) -> bool:
    """Whether this is one's own mount namespace: to enter that is nothing."""
    with contextlib.suppress(OSError):
        return os.readlink(namespace) == os.readlink("/proc/self/ns/mnt")
    return False


def knobs() -> Success:
    """Open what changes the node, and its disks and memory, for writing."""
    disks = [f"/dev/{name}" for name in os.listdir("/dev") if stat.S_ISBLK(os.lstat(f"/dev/{name}").st_mode)]
    for path in [*KNOBS, *disks, "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/fuse", "/dev/kvm"]:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return Success(f"opened {path} for writing")
    raise Blocked(f"none of {len(KNOBS) + len(disks) + 5} could be opened for writing")


def file_handles() -> Success:
    """Open the root of the disk by its inode, past all mounts, as a container without care lets one."""
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)  # how much room it has
    place, where = ctypes.c_int(), os.environ.get("BERTH_WORKSPACE") or "/workspace/group"
    call("name_to_handle_at", -100, where.encode(), handle, ctypes.byref(place), 0)
    folder = os.open(where, os.O_RDONLY)
    found = call("open_by_handle_at", folder, handle, os.O_RDONLY)
    os.close(found)
    return Success("files can be opened by their inodes")


def trace() -> Success:
    """Attach to processes of other containers, such as the courier, or read their memory and files."""
    foreign = foreign_processes()
    for pid in foreign:
        with contextlib.suppress(OSError):
            call("ptrace", PTRACE_SEIZE, pid, None, None)
            return Success(f"attached to process {pid}")
        for name in ("environ", "mem", "root/etc/passwd"):
            with contextlib.suppress(OSError):
                os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
                return Success(f"opened {name} of process {pid}")
    if foreign:
        raise Blocked(f"{len(foreign)} processes of others can be seen, none may be touched")
    raise Blocked("no process of the courier, or of anybody else, can be seen")


def foreign_processes() -> list[int]:
    """The processes that are none of this container's, as far as they can be seen."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _foreign(pid)]


def _foreign(pid: int) -> bool:
    """Whether a process is none of this container's: its mounts are others, or are not to be seen."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except FileNotFoundError:
        return False
    except OSError:
        return True


def confined() -> Success:
    """What the kernel says of this process: no root, no new privileges, a filter of system calls, no capability."""
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    wrong = [
        words
        for words, holds in {
            "it is root": os.getuid() != 0,
            "it may gain privileges": status.get("NoNewPrivs") == "1",
            "no filter of system calls": status.get("Seccomp") == "2",
            "capabilities are left": all(int(status[f"Cap{kind}"], 16) == 0 for kind in ("Prm", "Eff", "Bnd", "Amb")),
        }.items()
        if not holds
    ]
    if wrong:
        raise Blocked("; ".join(wrong))
    return Success(f"user {os.getuid()}, no new privileges, system calls filtered, no capability")


ATTACKS: dict[str, Any] = {
    "become_root": become_root,
    "set_uid_programs": set_uid_programs,
    "capabilities": capabilities,
    "namespaces": namespaces,
    "mounts": mounts,
    "knobs": knobs,
    "file_handles": file_handles,
    "trace": trace,
    "confined": confined,
}
