"""What a local run starts: the courier, the agent, and the socket proxy of an agent in a sandbox."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import courier
from courier import contracts, wrapper
from runtimes.base import Cause, PermanentFault, RunSpec
from runtimes.local import bwrap, mounts, processes, seccomp
from runtimes.local.paths import DataFolder, RunFolder
from runtimes.secret_sources import AllowedSources

# What an agent gets of the control plane's own environment; all the rest may hold secrets.
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
CHECKOUT = Path(courier.__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Confinement:
    """What operators say of the sandbox that agents get."""

    readable: tuple[Path, ...] = ()  # what agents see beside the system's programs and their own folders
    hidden: tuple[Path, ...] = ()  # what they don't, even where it lies in a mount
    as_root: bool = False  # also if Berth runs as root


@dataclass(frozen=True, slots=True)
class Programs:
    """Starts them. With a `confinement` agents get a sandbox."""

    data: DataFolder
    allowed_sources: AllowedSources
    confinement: Confinement | None = None
    python: str = sys.executable

    def check_command(self, spec: RunSpec) -> None:
        """Check that the command can be run: a shell would only end with 127 later. Raises PermanentFault REJECTED."""
        folder = self.data.run(spec.ref.run)
        program = spec.command[0] if spec.command else ""
        path = str(self.data.workspace(spec.ref) / program) if "/" in program else program
        found = shutil.which(path, path=self._agent_environment(spec, folder).get("PATH")) if program else None
        if not found:
            raise PermanentFault(Cause.REJECTED, f"the command {program!r} is not a program on this machine")
        if self.confinement is None:
            return
        if message := bwrap.unusable_reason(self.confinement.as_root):
            raise PermanentFault(Cause.REJECTED, f"agents are to be confined, but {message}")
        if not bwrap.can_see(self._filesystem(spec, folder, self.confinement), Path(found), self.python):
            message = (
                f"the sandbox shows nothing of the folder of {program!r}; an operator can add it to LOCAL_BWRAP_FOLDERS"
            )
            raise PermanentFault(Cause.REJECTED, message)

    def start_courier(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start the courier. `lock` is the descriptor of the run's lock, which the caller holds."""
        environment = {
            **_inherited(),
            **self._identity(spec, folder),
            "PYTHONPATH": str(CHECKOUT),
            "BERTH_URL": spec.courier_url,
            "BERTH_CONTRACT": spec.contract,
            "BERTH_RESUME": spec.resume,
            "BERTH_TOKEN_FILE": str(folder.token),
            "BERTH_JOURNAL": str(self.data.journal(spec.ref)),
            **({"BERTH_MAIN": "1"} if spec.main else {}),
        }
        argv = [self.python, "-m", "courier", "--exit-when-done"]
        paths = (folder.path, folder.pid_file("courier"), folder.log("courier"))
        processes.start(argv, environment, *paths, lock)

    def start_agent(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start the agent, in its sandbox if there is to be one."""
        command = contracts.argv(spec.contract, spec.command, spec.resume)
        if self.confinement:
            folder.filter.write_bytes(seccomp.program() or b"")
            command = bwrap.wrap(command, self._filesystem(spec, folder, self.confinement), self.python)
        paths = (self.data.workspace(spec.ref), folder.pid_file("agent"), folder.log("agent"))
        guard = folder.pid_file("guard")
        processes.start(wrapper.wrap(command), self._agent_environment(spec, folder), *paths, lock, guard)

    def start_socket_proxy(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start the socket proxy between a sandbox and the egress proxy. It lives until the run is destroyed."""
        if not self.confinement:
            return
        pid_file = folder.pid_file("socket_proxy")
        if not spec.egress or processes.find(processes.read_pid_file(pid_file), str(folder.path)):
            return
        folder.sockets.mkdir(exist_ok=True)
        environment = _inherited() | self._identity(spec, folder)
        argv = bwrap.proxy_command(spec.egress, self.python)
        processes.start(argv, environment, folder.sockets, pid_file, folder.log("socket_proxy"), lock)

    def _filesystem(self, spec: RunSpec, folder: RunFolder, confinement: Confinement) -> bwrap.Filesystem:
        """What a confined agent sees: of the data folder nothing but what is its own."""
        data, ref = self.data, spec.ref
        links, project = mounts.real_folders(spec)
        written = {mount.path for mount in spec.mounts if not mount.read_only}
        own = [folder.secrets, folder.extra, *([folder.project, project] if project else [])]
        secrets = [Path(self.allowed_sources.folder).resolve()] if self.allowed_sources.folder else []
        return bwrap.Filesystem(
            hidden=(data.path, CHECKOUT / ".env", *secrets, *(each.resolve() for each in confinement.hidden)),
            readable=(*confinement.readable, *own, *(real for path, real in links.items() if path not in written)),
            writable=(
                data.workspace(ref), data.ipc(ref), data.home(ref), data.checkpoints(ref),
                *(real for path, real in links.items() if path in written),
            ),
            folder=data.workspace(ref),
            filter=folder.filter,
            sockets=folder.sockets if spec.egress else None,
        )  # fmt: skip

    def _agent_environment(self, spec: RunSpec, folder: RunFolder) -> dict[str, str]:
        return {
            **_inherited(),
            **({"TMPDIR": "/tmp"} if self.confinement else {}),
            **spec.environment,
            **(
                bwrap.proxy_variables(spec.ref.run, spec.egress, inside=self.confinement is not None)
                if spec.egress
                else {}
            ),
            **self._identity(spec, folder),
            "HOME": str(self.data.home(spec.ref)),
            "BERTH_STOP_GRACE": str(spec.stop_grace_seconds),
            "BERTH_CGROUP": "",  # it shares that of the control plane
            "BERTH_WORKSPACE": str(self.data.workspace(spec.ref)),
            "BERTH_STATE": str(self.data.state(spec.ref, spec.state_folder)),
            "BERTH_EXTRA": str(folder.extra),
            **({"BERTH_PROJECT": str(folder.project)} if spec.main and spec.project else {}),
        }

    def _identity(self, spec: RunSpec, folder: RunFolder) -> dict[str, str]:
        """What tells both processes whose they are, and by which they are found again."""
        return {
            processes.MARK: str(folder.path),
            "BERTH_RUN": spec.ref.run,
            "BERTH_SESSION": spec.ref.session,
            "BERTH_GROUP": spec.ref.slug,
            "BERTH_GROUP_ID": spec.ref.group,
            "BERTH_PIPES": str(folder.pipes),
            "BERTH_IPC": str(self.data.ipc(spec.ref)),
            "BERTH_SECRETS": str(folder.secrets),
        }


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}
