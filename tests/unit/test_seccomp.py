"""What a confined agent's filter of system calls says of a call."""

import errno
import platform
import struct
import subprocess
import sys

import pytest

from runtimes.local import seccomp

EPERM, ENOSYS, FAMILY = errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT
X86, ARM = "x86_64", "aarch64"
NEW_USER = 0x10000000
HUGE = 1 << 32  # in the upper half of an argument, at which the kernel does not look either

# machine, number, arguments, errno; 0 if the call is let through
TABLE = [
    (X86, 0, (), 0),  # read
    (X86, 165, (), EPERM),  # mount
    (ARM, 40, (), EPERM),
    (ARM, 165, (), 0),  # getrusage
    (X86, 435, (), ENOSYS),  # clone3
    (ARM, 425, (), ENOSYS),  # io_uring_setup
    (X86, 56, (17,), 0),  # clone, as fork does it
    (X86, 56, (17 | 0x80,), 0),
    (X86, 56, (17 | NEW_USER,), EPERM),
    (X86, 56, (HUGE | NEW_USER,), EPERM),
    (ARM, 220, (0x20000,), EPERM),
    (X86, 272, (0x200,), 0),  # unshare, of what threads share
    (X86, 272, (NEW_USER,), EPERM),
    (X86, 272, (0x80,), EPERM),
    (X86, 41, (1,), 0),  # socket
    (X86, 41, (16,), 0),
    (X86, 41, (40,), FAMILY),  # AF_VSOCK
    (X86, 41, (HUGE | 40,), FAMILY),
    (ARM, 198, (17,), FAMILY),  # AF_PACKET
    (X86, 16, (0, 0x5401), 0),  # ioctl
    (X86, 16, (0, 0x5412), EPERM),
    (X86, 16, (0, HUGE | 0x541C), EPERM),
    (X86, 0x40000000 | 165, (), ENOSYS),  # mount, of x32
    (X86, 10_000, (), 0),
]


def judged(program: bytes, arch: int, number: int, arguments: tuple[int, ...]) -> int:
    """What a program of classic BPF returns for a call."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    lines = list(struct.iter_unpack("<HBBI", program))
    at, register = 0, 0
    tests = {0x15: int.__eq__, 0x35: int.__ge__, 0x45: int.__and__}
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            (register,) = struct.unpack_from("<I", data, value)
        else:
            at += yes if tests[code](register, value) else no


@pytest.mark.parametrize(("machine", "number", "arguments", "answer"), TABLE)
def test_a_call_is_judged(machine: str, number: int, arguments: tuple[int, ...], answer: int) -> None:
    program = seccomp.program(machine)
    assert program is not None
    expected = 0x50000 | answer if answer else 0x7FFF0000
    assert judged(program, seccomp.MACHINES[machine][0], number, arguments) == expected


def test_another_interface_of_the_machine_has_no_calls_at_all() -> None:
    program = seccomp.program(X86)
    assert program is not None and judged(program, 0x40000003, 1, ()) == 0x80000000  # of i386, `exit`


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert seccomp.program("riscv64") is None


INSTALL = """
import ctypes, os, sys
libc, raw = ctypes.CDLL(None, use_errno=True), sys.stdin.buffer.read()
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]
lines = ctypes.create_string_buffer(raw)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(raw) // 8, ctypes.addressof(lines))), 0, 0) == 0, "not taken"
import socket, threading
thread = threading.Thread(target=lambda: print(os.popen("echo works").read().strip(), flush=True))
thread.start(); thread.join(); socket.socket(socket.AF_UNIX).close()
for name, number, *arguments in eval(sys.argv[1]):
    assert libc.syscall(number, *arguments) == -1
    print(name, ctypes.get_errno())
"""


@pytest.mark.skipif(platform.machine() not in seccomp.MACHINES or sys.platform != "linux", reason="no filter for it")
def test_the_kernel_takes_it_and_ordinary_programs_go_on() -> None:
    column = seccomp.MACHINES[platform.machine()][1]
    refused = [(name, numbers[column], 0, 0, 0, 0) for name, numbers in seccomp.NUMBERS.items() if numbers[column]]
    refused += [("unshare", seccomp.UNSHARE[column], NEW_USER), ("socket", seccomp.SOCKET[column], 40, 1, 0)]
    program = seccomp.program()
    assert program is not None
    done = subprocess.run(
        [sys.executable, "-c", INSTALL, repr(refused)], input=program, capture_output=True, timeout=60, check=False
    )
    told = done.stdout.decode().splitlines()
    assert told[:1] == ["works"], done.stderr
    assert told[1:] == [f"{name} {FAMILY if name == 'socket' else EPERM}" for name, *_ in refused]
