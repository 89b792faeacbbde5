"""What a local run starts: the courier, the agent, and the relay of an agent in a sandbox."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import courier
from courier import contracts, wrapper
from k8s_adapter import folder_mounts, processes, sandbox
from k8s_adapter.folders import Folders, RunFolder
from k8s_adapter.runtime import Cause, FolderSource, PermanentFault, RunSpec
from k8s_adapter.secretfiles import Reach

# What an agent gets of the control plane's own environment; all the rest may hold secrets.
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Programs:
    """Starts them. `confined` agents get a sandbox, in which the files `masked` are empty."""

    folders: Folders
    reach: Reach
    confined: bool = False
    masked: tuple[Path, ...] = ()
    python: str = sys.executable

    def check_command(self, spec: RunSpec) -> None:
        """A shell would only tell 127 later. Raises PermanentFault REJECTED."""
        environment = self._agent_environment(spec, self.folders.run(spec.ref.run))
        program = spec.command[0] if spec.command else ""
        path = str(self.folders.workspace(spec.ref) / program) if "/" in program else program
        if not program or not shutil.which(path, path=environment.get("PATH")):
            raise PermanentFault(Cause.REJECTED, f"the command {program!r} is not a program on this machine")

    def start_courier(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start the courier. `lock` is the descriptor of the run's lock, which the caller holds."""
        environment = {
            **_inherited(),
            **self._marks(spec, folder),
            "PYTHONPATH": str(Path(courier.__file__).resolve().parent.parent),
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
        """Start the agent, in its sandbox if there is to be one. Raises PermanentFault REJECTED without bubblewrap."""
        command = contracts.argv(spec.contract, spec.command, spec.resume)
        if self.confined:
            if not sandbox.available():
                raise PermanentFault(Cause.REJECTED, "agents are to be confined, but bubblewrap is not installed here")
            command = sandbox.wrap(command, self._view(spec, folder), self.python)
        place = (self.folders.workspace(spec.ref), folder.pid_file("agent"), folder.log("agent"))
        guard = folder.pid_file("guard")
        processes.start(wrapper.wrap(command), self._agent_environment(spec, folder), *place, lock, guard)

    def start_relay(self, spec: RunSpec, folder: RunFolder, lock: int) -> None:
        """Start what stands between a sandbox and the proxy. It lives until the run is destroyed."""
        if not self.confined:
            return
        pid_file = folder.pid_file("relay")
        if not spec.egress or processes.living(processes.read_note(pid_file), str(folder.path)):
            return
        folder.sockets.mkdir(exist_ok=True)
        environment = _inherited() | self._marks(spec, folder)
        argv = sandbox.outside(spec.egress, self.python)
        processes.start(argv, environment, folder.sockets, pid_file, folder.log("relay"), lock)

    def _view(self, spec: RunSpec, folder: RunFolder) -> sandbox.View:
        """What a confined agent sees: of the data folder nothing but what is its own."""
        folders, ref = self.folders, spec.ref
        links, project = folder_mounts.real_folders(spec)
        written = {mount.path for mount in spec.mounts if not mount.read_only}
        readable = [folder.secrets, folder.extra, *([folder.project] if project else [])]
        return sandbox.View(
            hidden=(folders.data, *self._kept_from(spec)),
            masked=(Path(courier.__file__).resolve().parent.parent / ".env", *self.masked),
            readable=(*readable, *([project] if project else []), *links.values()),
            writable=(
                folders.workspace(ref), folders.ipc(ref), folders.home(ref), folders.checkpoints(ref),
                *(real for path, real in links.items() if path in written),
            ),
            folder=folders.workspace(ref),
            sockets=folder.sockets if spec.egress else None,
        )  # fmt: skip

    def _kept_from(self, spec: RunSpec) -> list[Path]:
        """Folders with what is others': keys, and what lies beside a mount under its root."""
        roots = [mount.source.root for mount in spec.mounts if isinstance(mount.source, FolderSource)]
        return [Path(each) for each in (self.reach.folder, *roots) if each and Path(each).is_dir()]

    def _agent_environment(self, spec: RunSpec, folder: RunFolder) -> dict[str, str]:
        return {
            **_inherited(),
            **({"TMPDIR": "/tmp"} if self.confined else {}),
            **spec.environment,
            **(sandbox.proxy_variables(spec.ref.run, spec.egress, inside=self.confined) if spec.egress else {}),
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
