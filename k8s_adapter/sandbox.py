"""A local agent's sandbox, made by bubblewrap: no network but the egress proxy, nothing to write but its own folders.

It is a namespace of its own for users, processes, IPC and network (https://github.com/containers/bubblewrap). The
network has a loopback device and nothing else; what listens there is `relay.py`, which passes everything on to a
UNIX socket outside, behind which another `relay.py` connects to the proxy. The machine's files are there to read, but
for those that are hidden: home folders, the data folder, sockets of services, what is temporary.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from k8s_adapter.runtime import EgressAccess

PROGRAM = "bwrap"
RELAY = Path(__file__).with_name("relay.py")
PORT = 3128  # of the relay, inside
SOCKETS, SOCKET = "/run/berth", "egress.sock"  # where the folder with the UNIX socket is, inside
HIDDEN = ("/home", "/root", "/run", "/tmp", "/var/tmp", "/mnt", "/media")
DIRECT = "localhost,127.0.0.1,::1"


@dataclass(frozen=True, slots=True)
class View:
    """What an agent sees of the file system beside what the machine has for all. Later ones lie over earlier ones."""

    hidden: tuple[Path, ...]  # folders that are empty for it
    masked: tuple[Path, ...]  # files that are empty for it
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    folder: Path  # where it starts
    sockets: Path | None  # the folder with the relay's socket; None: no way out


def available() -> bool:
    """Whether bubblewrap is installed."""
    return shutil.which(PROGRAM) is not None


def wrap(command: Sequence[str], view: View, python: str = sys.executable) -> list[str]:
    """The argv that runs `command` in a sandbox. Pure, but for what exists.

    bwrap itself ignores SIGTERM, which the whole process group gets: it has to live until the agent has ended. The
    relay gives the signal its meaning back before it becomes the agent.
    """
    relay = [python, "-I", "-S", str(RELAY), "inside", f"{SOCKETS}/{SOCKET}" if view.sockets else "", str(PORT)]
    bwrap = [PROGRAM, *_options(view, python), "--", *relay, "--", *command]
    return ["sh", "-c", 'trap "" TERM INT HUP; exec "$@"', "sandbox", *bwrap]


def _options(view: View, python: str) -> list[str]:
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "sandbox"]
    options += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for place in dict.fromkeys([*HIDDEN, str(Path.home())]):
        options += ["--tmpfs", place] if Path(place).is_dir() and not Path(place).is_symlink() else []
    options += _bind("--ro-bind", _programs(python))
    for path in view.hidden:
        options += ["--tmpfs", str(path)]
    for path in view.masked:
        options += ["--ro-bind", os.devnull, str(path)] if path.exists() else []
    options += _bind("--ro-bind", view.readable) + _bind("--bind", view.writable)
    if view.sockets:
        options += ["--ro-bind", str(view.sockets), SOCKETS]
    return [*options, "--chdir", str(view.folder)]


def _programs(python: str) -> list[Path]:
    """What has to be there although it may lie in a hidden place: this checkout, and its Python."""
    checkout = Path(__file__).resolve().parent.parent
    return [checkout, Path(sys.prefix), Path(sys.base_prefix), Path(python).resolve().parent.parent]


def _bind(kind: str, paths: Iterable[Path]) -> list[str]:
    return [word for path in dict.fromkeys(paths) for word in (kind, str(path), str(path))]


def outside(access: EgressAccess, python: str = sys.executable) -> list[str]:
    """The argv of the relay outside, to be started in the folder of its socket."""
    parts = urlsplit(access.proxy)
    return [python, "-I", "-S", str(RELAY), "outside", SOCKET, parts.hostname or "", str(parts.port or 80)]


def proxy_variables(run: str, access: EgressAccess, inside: bool) -> Mapping[str, str]:
    """What tells an agent's tools of the proxy, in both cases, since curl obeys only http_proxy for http.

    Node's own fetch looks at it only when told to (https://nodejs.org/api/cli.html#node_use_env_proxy1).
    """
    parts = urlsplit(access.proxy)
    place = f"127.0.0.1:{PORT}" if inside else parts.netloc
    url = f"{'http' if inside else parts.scheme}://{quote(run, safe='')}:{quote(access.credential, safe='')}@{place}"
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
    return dict.fromkeys(names, url) | {"NO_PROXY": DIRECT, "no_proxy": DIRECT, "NODE_USE_ENV_PROXY": "1"}
