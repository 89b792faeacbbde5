"""A local agent's sandbox, made by bubblewrap: no network but the egress proxy, nothing to write but its own folders.

It is a namespace of its own for users, processes, IPC and network (https://github.com/containers/bubblewrap). The
network has a loopback device and nothing else; what listens there is `socket_proxy.py`, which passes everything on to a
UNIX socket outside, behind which another `socket_proxy.py` connects to the proxy. The file system begins empty, and
gets what programs need of the machine, read-only, and what is the agent's: no socket, device or file is there that was
not thought of. The agent keeps its user, has no capability, and a filter of system calls (`seccomp.py`) lets it make no
namespace in which it would have any.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from runtimes.base import EgressAccess
from runtimes.local import seccomp

PROGRAM = "bwrap"
SOCKET_PROXY = Path(__file__).with_name("socket_proxy.py")
PORT = 3128  # of the socket proxy, inside
SOCKETS, SOCKET = "/run/berth", "egress.sock"  # where the folder with the UNIX socket is, inside
DIRECT = "localhost,127.0.0.1,::1"
FILTER = 9  # the descriptor by which bubblewrap is handed the filter; the wrapper uses lower ones

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
# Of /etc what tells programs of libraries, names, certificates and formats; nothing of this machine's services.
ETC = (
    "alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version",
    "default/locale", "fonts", "gai.conf", "group", "host.conf", "hosts", "inputrc", "java", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "locale.alias", "locale.conf", "localtime", "lsb-release", "magic", "mime.types",
    "nsswitch.conf", "os-release", "passwd", "perl", "pki", "protocols", "resolv.conf", "services", "ssl", "terminfo",
    "timezone",
)  # fmt: skip
# Files of /proc that root may write without a capability, since it owns them. To anybody else they are read-only.
PROC = ("acpi", "bus", "fs", "irq", "latency_stats", "mtrr", "scsi", "sys", "sysrq-trigger", "timer_list")
OWN = ("/tmp", "/var/tmp", "/run")  # folders in memory


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What a confined agent sees of the file system beside what programs need of the machine.

    Of two folders that lie in each other the inner one counts for what is in it; of two at one place the later field.
    """

    hidden: tuple[Path, ...]  # folders and files that are empty for it, should they lie in what it sees
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    folder: Path  # where it starts
    filter: Path  # of system calls, as `seccomp.program` makes it
    sockets: Path | None  # the folder with the socket of the egress proxy; None: no network


def unusable_reason(as_root: bool) -> str:
    """Why agents can't be confined here, in words; empty if they can.

    To be root in a sandbox is refused unless an operator says `as_root`: of some things the kernel asks only whose they
    are. What is known of them is read-only in the sandbox (`PROC`), but another user has no need of such a list.
    """
    if shutil.which(PROGRAM) is None:
        return "bubblewrap is not installed here"
    if seccomp.program() is None:
        return f"no filter of system calls is known for this machine; it is for {' and '.join(seccomp.MACHINES)}"
    if os.geteuid() == 0 and not as_root:
        return "Berth runs as root, which is root to the kernel in a sandbox too; run it as another user"
    return ""


def wrap(command: Sequence[str], filesystem: Filesystem, python: str = sys.executable) -> list[str]:
    """The argv that runs `command` in a sandbox. Pure, but for what exists.

    bwrap itself ignores SIGTERM, which the whole process group gets: it has to live until the agent has ended. The
    socket proxy gives the signal its meaning back before it becomes the agent.
    """
    proxy = [
        python,
        "-I",
        "-S",
        str(SOCKET_PROXY),
        "inside",
        f"{SOCKETS}/{SOCKET}" if filesystem.sockets else "",
        str(PORT),
    ]
    bwrap = [PROGRAM, *_options(filesystem, python), "--", *proxy, "--", *command]
    script = f'trap "" TERM INT HUP; exec {FILTER}<"$0"; exec "$@"'
    return ["sh", "-c", script, str(filesystem.filter), *bwrap]


def can_see(filesystem: Filesystem, program: Path, python: str = sys.executable) -> bool:
    """Whether an agent sees a program, and what it leads to if it is a link."""
    shown = {each: True for place in _visible(filesystem, python) for each in (place, place.resolve())}
    places = dict.fromkeys(filesystem.hidden, False) | shown

    def seen(path: Path) -> bool:
        return next((places[each] for each in (path, *path.parents) if each in places), False)

    return seen(program.absolute()) and seen(program.resolve())


def _options(filesystem: Filesystem, python: str) -> list[str]:
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "sandbox"]
    options += ["--seccomp", str(FILTER), *_system(), "--dev", "/dev", "--proc", "/proc"]
    for name in PROC:
        options += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for place in OWN:
        options += ["--tmpfs", place]
    placed = {path: _hide(path) for path in filesystem.hidden if path.exists()}
    placed |= {path: ["--ro-bind", str(path), str(path)] for path in (*_programs(python), *filesystem.readable)}
    placed |= {path: ["--bind", str(path), str(path)] for path in filesystem.writable}
    for path in sorted(placed, key=lambda path: len(path.parts)):  # what lies in another comes after it
        options += placed[path]
    if filesystem.sockets:
        options += ["--ro-bind", str(filesystem.sockets), SOCKETS]
    for path in (Path("/"), *(path for path in filesystem.hidden if placed.get(path, [""])[0] == "--tmpfs")):
        options += ["--remount-ro", str(path)]  # once all that lies in it has its place
    return [*options, "--chdir", str(filesystem.folder)]


def _hide(path: Path) -> list[str]:
    return ["--tmpfs", str(path)] if path.is_dir() else ["--ro-bind", os.devnull, str(path)]


def _system() -> Iterator[str]:
    """The machine's programs and what they need. Where /bin is a link to /usr/bin, it is one inside too."""
    for place in SYSTEM:
        if Path(place).is_symlink():
            yield from ("--symlink", str(Path(place).readlink()), place)
        else:
            yield from ("--ro-bind-try", place, place)
    for name in ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


def _programs(python: str) -> list[Path]:
    """Berth's own that has to be there: its Python, the socket proxy, the agents that come with it."""
    checkout = SOCKET_PROXY.parents[2]
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(python).resolve().parent.parent}
    outside = [each for each in prefixes if not each.is_relative_to("/usr") and each != Path("/")]
    agents = [checkout / "agents", checkout / "isolation" / "attacks"]
    return [SOCKET_PROXY, *filter(Path.is_dir, agents), *outside]


def _visible(filesystem: Filesystem, python: str) -> Iterator[Path]:
    yield from (*map(Path, SYSTEM), *_programs(python), *filesystem.readable, *filesystem.writable)


def proxy_command(access: EgressAccess, python: str = sys.executable) -> list[str]:
    """The argv of the socket proxy outside, to be started in the folder of its socket."""
    parts = urlsplit(access.proxy)
    return [python, "-I", "-S", str(SOCKET_PROXY), "outside", SOCKET, parts.hostname or "", str(parts.port or 80)]


def proxy_variables(run: str, access: EgressAccess, inside: bool) -> Mapping[str, str]:
    """The variables that point an agent's tools to the proxy, in both cases, since curl obeys only http_proxy for http.

    Node's own fetch looks at it only when told to (https://nodejs.org/api/cli.html#node_use_env_proxy1).
    """
    parts = urlsplit(access.proxy)
    address = f"127.0.0.1:{PORT}" if inside else parts.netloc
    url = f"{'http' if inside else parts.scheme}://{quote(run, safe='')}:{quote(access.credential, safe='')}@{address}"
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
    return dict.fromkeys(names, url) | {"NO_PROXY": DIRECT, "no_proxy": DIRECT, "NODE_USE_ENV_PROXY": "1"}
