"""Which system calls a confined agent has: a filter for seccomp(2), assembled by hand since it is short.

Everything is allowed but what reaches past a sandbox or has a history of doing so: new namespaces (within a user
namespace of its own a process has every right again) and mounts, other processes' memory, keyrings, kernel modules and
programs in the kernel, handles of files, asynchronous calls that no filter sees, and sockets of families that no
network namespace holds (vsock reaches the machine's hypervisor). What Docker's default profile refuses is the measure:
https://docs.docker.com/engine/security/seccomp/. A debugger (ptrace) does not work in a sandbox.

The form is classic BPF over `struct seccomp_data`:
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

import errno
import platform
import struct

# Name → its number on x86_64 (asm/unistd_64.h) and on aarch64 (asm-generic/unistd.h); None where there is none.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "userfaultfd": (323, 282),
    "uselib": (134, None),
    "vhangup": (153, 58),
}
# Answered as by a kernel that lacks them, so that programs fall back: glibc to clone, libuv to threads.
LACKING: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),  # its flags are behind a pointer, where no filter can look
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
CLONE, UNSHARE, SOCKET, IOCTL = (56, 220), (272, 97), (41, 198), (16, 29)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of <linux/sched.h>
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
NEWTIME = 0x80  # of unshare alone: to clone it is part of a signal's number
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
TERMINAL = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type into the terminal of whoever started the agent

# <linux/audit.h>; the place of a machine in the tables above
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
X32 = 0x40000000  # from here on are the numbers of x86_64's other interface; elsewhere there is nothing so high

NUMBER, ARCH, FIRST, SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data; of the arguments the lower half
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str = "") -> bytes | None:
    """The filter for a machine as `platform.machine()` names it, this one by default; None if it is not known."""
    if (known := MACHINES.get(machine or platform.machine())) is None:
        return None
    arch, column = known
    lines = [_line(LOAD, ARCH), _line(EQUAL, arch, 1, 0), _line(RETURN, KILL), _line(LOAD, NUMBER)]
    lines += _if(AT_LEAST, X32, ERRNO | errno.ENOSYS)
    for table, answer in ((NUMBERS, errno.EPERM), (LACKING, errno.ENOSYS)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                lines += _if(EQUAL, number, ERRNO | answer)
    lines += _call(CLONE[column], _if(ANY_BIT, NAMESPACES, ERRNO | errno.EPERM), ALLOW)
    lines += _call(UNSHARE[column], _if(ANY_BIT, NAMESPACES | NEWTIME, ERRNO | errno.EPERM), ALLOW)
    typing = [line for each in TERMINAL for line in _if(EQUAL, each, ERRNO | errno.EPERM)]
    lines += _call(IOCTL[column], typing, ALLOW, SECOND)
    families = [line for each in FAMILIES for line in _if(EQUAL, each, ALLOW)]
    lines += _call(SOCKET[column], families, ERRNO | errno.EAFNOSUPPORT)
    return b"".join([*lines, _line(RETURN, ALLOW)])


def _line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One struct sock_filter: what to do, and how many lines to skip if a test holds, or not."""
    return struct.pack("<HBBI", code, yes, no, value)


def _if(test: int, value: int, answer: int) -> list[bytes]:
    return [_line(test, value, 0, 1), _line(RETURN, answer)]


def _call(number: int, tests: list[bytes], otherwise: int, argument: int = FIRST) -> list[bytes]:
    """Tests of an argument of a call, of which the lower half counts (both machines are little-endian)."""
    ahead = _line(EQUAL, number, 0, len(tests) + 2)
    return [ahead, _line(LOAD, argument), *tests, _line(RETURN, otherwise)]
