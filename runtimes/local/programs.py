"""What a local run starts: the courier, the agent, and the relay of an agent in a sandbox."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import courier
from courier import contracts, wrapper
from runtimes.base import Cause, PermanentFault, RunSpec
from runtimes.local import bwrap, mounts, processes, seccomp
from runtimes.local.paths import Folders, RunFolder
from runtimes.secret_sources import Reach

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

    folders: Folders
    reach: Reach
    confinement: Confinement | None = None
    python: str = sys.executable

    def check_command(self, spec: RunSpec) -> None:
        """A shell would only tell 127 later. Raises PermanentFault REJECTED."""
        folder = self.folders.run(spec.ref.run)
        program = spec.command[0] if spec.command else ""
        path = str(self.folders.workspace(spec.ref) / program) if "/" in program else program
        found = shutil.which(path, path=self._agent_environment(spec, folder).get("PATH")) if program else None
        if not found:
            raise PermanentFault(Cause.REJECTED, f"the command {program!r} is not a program on this machine")
        if self.confinement is None:
            return
        if words := bwrap.problem(self.confinement.as_root):
            raise PermanentFault(Cause.REJECTED, f"agents are to be confined, but {words}")
        if not bwrap.sees(self._view(spec, folder, self.confinement), Path(found), self.python):
            words = (
                f"the sandbox shows nothing of the folder of {program!r}; an operator can add it to LOCAL_BWRAP_FOLDERS"
            )
            raise PermanentFault(Cause.REJECTED, words)

    def start_courier(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start the courier. `lock` is the descriptor of the run's lock, which the caller holds."""
        environment = {
            **_inherited(),
            **self._marks(spec, folder),
            "PYTHONPATH": str(CHECKOUT),
            "BERTH_URL": spec.courier_url,
            "BERTH_CONTRACT": spec.contract,
            "BERTH_RESUME": spec.resume,
            "BERTH_TOKEN_FILE": str(folder.token),
            "BERTH_JOURNAL": str(self.folders.journal(spec.ref)),
            **({"BERTH_MAIN": "1"} if spec.main else {}),
        }
        argv = [self.python, "-m", "courier", "--exit-when-done"]
        place = (folder.path, folder.pid_file("courier"), folder.log("courier"))
        processes.start(argv, environment, *place, lock)

    def start_agent(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start the agent, in its sandbox if there is to be one."""
        command = contracts.argv(spec.contract, spec.command, spec.resume)
        if self.confinement:
            folder.filter.write_bytes(seccomp.program() or b"")
            command = bwrap.wrap(command, self._view(spec, folder, self.confinement), self.python)
        place = (self.folders.workspace(spec.ref), folder.pid_file("agent"), folder.log("agent"))
        guard = folder.pid_file("guard")
        processes.start(wrapper.wrap(command), self._agent_environment(spec, folder), *place, lock, guard)

    def start_relay(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start what stands between a sandbox and the proxy. It lives until the run is destroyed."""
        if not self.confinement:
            return
        pid_file = folder.pid_file("relay")
        if not spec.egress or processes.living(processes.read_note(pid_file), str(folder.path)):
            return
        folder.sockets.mkdir(exist_ok=True)
        environment = _inherited() | self._marks(spec, folder)
        argv = bwrap.outside(spec.egress, self.python)
        processes.start(argv, environment, folder.sockets, pid_file, folder.log("relay"), lock)

    def _view(self, spec: RunSpec, folder: RunFolder, confinement: Confinement) -> bwrap.View:
        """What a confined agent sees: of the data folder nothing but what is its own."""
        folders, ref = self.folders, spec.ref
        links, project = mounts.real_folders(spec)
        written = {mount.path for mount in spec.mounts if not mount.read_only}
        own = [folder.secrets, folder.extra, *([folder.project, project] if project else [])]
        secrets = [Path(self.reach.folder).resolve()] if self.reach.folder else []
        return bwrap.View(
            hidden=(folders.data, CHECKOUT / ".env", *secrets, *(each.resolve() for each in confinement.hidden)),
            readable=(*confinement.readable, *own, *(real for path, real in links.items() if path not in written)),
            writable=(
                folders.workspace(ref), folders.ipc(ref), folders.home(ref), folders.checkpoints(ref),
                *(real for path, real in links.items() if path in written),
            ),
            folder=folders.workspace(ref),
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
            **self._marks(spec, folder),
            "HOME": str(self.folders.home(spec.ref)),
            "BERTH_STOP_GRACE": str(spec.stop_grace_seconds),
            "BERTH_CGROUP": "",  # it shares that of the control plane
            "BERTH_WORKSPACE": str(self.folders.workspace(spec.ref)),
            "BERTH_STATE": str(self.folders.state(spec.ref, spec.state_folder)),
            "BERTH_EXTRA": str(folder.extra),
            **({"BERTH_PROJECT": str(folder.project)} if spec.main and spec.project else {}),
        }

    def _marks(self, spec: RunSpec, folder: RunFolder) -> dict[str, str]:
        """What both processes are told, and are known by."""
        return {
            processes.MARK: str(folder.path),
            "BERTH_RUN": spec.ref.run,
            "BERTH_SESSION": spec.ref.session,
            "BERTH_GROUP": spec.ref.slug,
            "BERTH_GROUP_ID": spec.ref.group,
            "BERTH_PIPES": str(folder.pipes),
            "BERTH_IPC": str(self.folders.ipc(spec.ref)),
            "BERTH_SECRETS": str(folder.secrets),
        }


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}
