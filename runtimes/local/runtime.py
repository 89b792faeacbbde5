"""The local runtime: a run is two processes, the courier and the agent in its wrapper, and a folder.

They are nobody's children: each leads a session of its own and outlives whoever started it. There is no daemon either:
what a kubelet would do (end what is left when the agent is gone) is done at every observation, by `_reap`.

Nothing is isolated, unless agents are put into a sandbox (`bwrap.py`): an agent runs as the same user as the control
plane. For a laptop and for tests.
"""

import contextlib
import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from runtimes import names, secret_sources
from runtimes.base import (
    Cause,
    Description,
    GroupRef,
    GroupSpec,
    Observed,
    OwnedResource,
    PermanentFault,
    Phase,
    RunRef,
    RunSpec,
    RuntimeFault,
    SecretFile,
    TransientFault,
    WatchEvent,
)
from runtimes.local import inventory, mounts, processes
from runtimes.local.paths import DataFolder, RunFolder, read_limited
from runtimes.local.processes import ProcessRecord
from runtimes.local.programs import Confinement, Programs
from runtimes.mask import mask
from runtimes.secret_sources import ENVIRONMENT_ONLY, AllowedSources

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 4.0  # the contract says 5
POLL_SECONDS = 0.25
# After a stop: the grace is the wrapper's, the rest the courier's, as a pod's termination grace is on a cluster.
LAST_WORDS_SECONDS = 50.0
GRACE_LIMIT = 3600  # seconds; beyond it somebody else than Berth wrote the run's file


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The processes of a run at one instant. The run's folder exists."""

    agent: ProcessRecord | None  # None: it was never started
    agent_alive: bool
    courier_alive: bool
    exit_code: int | None
    stopped: bool


class LocalRuntime:
    """Implements `runtimes.base.Runtime` with processes of this machine, under the folder `data_dir`."""

    def __init__(
        self,
        data_dir: Path,
        installation: str,
        python: str = sys.executable,
        secrets: AllowedSources = ENVIRONMENT_ONLY,
        confinement: Confinement | None = None,
    ) -> None:
        """With a `confinement` every agent gets a sandbox."""
        self._data = DataFolder(data_dir.resolve())
        self._allowed_sources = secrets
        self._programs = Programs(self._data, secrets, confinement, python)
        self.installation = installation
        self._unreadable: set[Path] = set()  # folders that can't be read, each logged once

    def ensure(self, spec: RunSpec) -> None:
        """See `Runtime.ensure`."""
        files = secret_sources.read(spec.secrets, self._allowed_sources)
        folders = mounts.real_folders(spec)
        folder = self._data.run(spec.ref.run)
        with _io_faults():
            self._check_owner(spec.ref)
            self._data.make_group(spec.ref, spec.state_folder)
            self._programs.check_command(spec)
            with processes.file_lock(folder.lock) as lock:
                stored = folder.read_spec()
                if stored is None:
                    folder.make(spec, files, *folders)
                elif not names.matches_hash(spec, stored["hash"]):
                    raise PermanentFault(Cause.REJECTED, f"run {spec.ref.run} exists and was made for another spec")
                status = self._start_helpers(spec, folder, lock)
                if status.agent is None and not status.stopped:
                    self._programs.start_agent(spec, folder, lock)

    def revive(self, spec: RunSpec) -> None:
        """See `Runtime.revive`. The socket proxy of a sandbox comes back as well."""
        folder = self._data.run(spec.ref.run)
        with _io_faults():
            if not folder.exists():
                return
            with processes.file_lock(folder.lock) as lock:
                if _was_destroyed(folder):
                    return
                self._start_helpers(spec, folder, lock)

    def _start_helpers(self, spec: RunSpec, folder: RunFolder, lock: int) -> ProcessStatus:
        """Start the courier and the socket proxy, unless they live or the run was stopped; return the status before."""
        status = _status(folder)
        if not status.stopped:
            if not status.courier_alive and (status.agent is None or status.agent_alive or not _is_drained(folder)):
                self._programs.start_courier(spec, folder, lock)
            self._programs.start_socket_proxy(spec, folder, lock)
        return status

    def sync_namespace(self, group: GroupSpec) -> None:
        """See `Runtime.sync_namespace`. A group's folders are made with its runs, and hold no rules."""

    def renew(self, ref: RunRef, secrets: tuple[SecretFile, ...]) -> bool:
        """See `Runtime.renew`."""
        values = secret_sources.read(secrets, self._allowed_sources)
        folder = self._data.run(ref.run)
        with _io_faults():
            if not values or not folder.exists():
                return False
            with processes.file_lock(folder.lock):
                if _was_destroyed(folder):
                    return False
                return folder.renew(values)

    def secret(self, group: GroupRef, secret: SecretFile) -> bytes:
        """See `Runtime.secret`. It is the same for every group."""
        return secret_sources.read_one(secret, self._allowed_sources)

    def observe(self, ref: RunRef) -> Observed:
        """See `Runtime.observe`."""
        with _io_faults():
            folder = self._data.run(ref.run)
            if not folder.exists():
                left = any(processes.iter_marked(str(folder.path)))
                return Observed(Phase.RUNNING, message="its folder is gone") if left else Observed(Phase.ABSENT)
            _reap(folder)
            return diagnose(_status(folder))

    def describe(self, ref: RunRef) -> Description:
        """See `Runtime.describe`. There are no notices: nobody here says anything but the run's own processes."""
        with _io_faults():
            folder = self._data.run(ref.run)
            manifest = folder.read_spec()
            if manifest is None:
                return Description()
            agent, courier = _processes(folder)
        steps = {name: _utc(process.started) for name, process in (("courier", courier), ("started", agent)) if process}
        return Description(steps=steps, manifest=mask(manifest))

    def ping(self) -> None:
        """See `Runtime.ping`. Writes a file to the data folder."""
        with _io_faults():
            self._data.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._data.runs) as file:
                file.write(b"ping")

    def stop(self, ref: RunRef) -> None:
        """See `Runtime.stop`. What doesn't end within its grace is killed by the next observation (`_reap`)."""
        folder = self._data.run(ref.run)
        with _io_faults():
            if not folder.exists():
                return
            with processes.file_lock(folder.lock):
                if _was_destroyed(folder):
                    return
                status = _status(folder)
                if status.agent is not None and not status.agent_alive:
                    return  # it had ended before
                if not status.stopped:
                    folder.stopped.touch()
                _signal(folder, "agent" if status.agent is not None else "courier", signal.SIGTERM)

    def destroy(self, ref: RunRef) -> None:
        """See `Runtime.destroy`. Returns when the last process is gone."""
        folder = self._data.run(ref.run)
        with _io_faults():
            self._data.runs.mkdir(parents=True, exist_ok=True)
            with processes.file_lock(folder.lock):
                processes.kill_all(str(folder.path), _processes(folder))
                folder.remove()

    def runs(self) -> Iterator[RunRef]:
        """See `Runtime.runs`. Includes those of which only processes are left."""
        with _io_faults():
            refs = [ref for folder in self._data.run_folders() if (ref := folder.ref())]
            without_folder = inventory.runs_with_processes(self._data) - set(refs)
        yield from refs
        yield from without_folder

    def run_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.run_resources`."""
        with _io_faults():
            yield from list(inventory.run_resources(self._data))

    def group_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.group_resources`."""
        with _io_faults():
            yield from list(inventory.group_resources(self._data))

    def remove(self, resource: OwnedResource) -> None:
        """See `Runtime.remove`."""
        if isinstance(resource.owner, RunRef):
            self.destroy(resource.owner)
            return
        with _io_faults():
            inventory.remove_group(self._data, resource, resource.owner)

    def watch(self, until: threading.Event) -> Iterator[WatchEvent | None]:
        """See `Runtime.watch`. Polls every run four times a second."""
        seen: dict[RunRef, ProcessStatus] = {}
        last_heartbeat = time.monotonic()
        while not until.is_set():
            with _io_faults():
                now = dict(self._statuses())
            changed = [ref for ref in seen.keys() | now.keys() if seen.get(ref) != now.get(ref)]
            seen = now
            yield from map(WatchEvent, changed)
            if time.monotonic() - last_heartbeat > HEARTBEAT_SECONDS:
                last_heartbeat = time.monotonic()
                yield None
            until.wait(POLL_SECONDS)

    def _statuses(self) -> Iterator[tuple[RunRef, ProcessStatus]]:
        for folder in self._data.run_folders():
            try:
                _reap(folder)
                ref = folder.ref()
                status = _status(folder) if ref else None
            except (LookupError, TypeError, AttributeError, ValueError, OSError, RuntimeFault) as error:  # anybody's
                if folder.path not in self._unreadable:
                    self._unreadable.add(folder.path)
                    log.warning("the run's folder %s is set aside: it can't be read: %r", folder.path, error)
                continue
            if ref and status:
                yield ref, status

    def _check_owner(self, ref: RunRef) -> None:
        """A group that was made anew under an old slug must not get the old one's workspace."""
        owner = self._data.owner(ref)
        if owner is not None and owner.group != ref.group:
            message = f"the folder groups/{ref.slug} is of a group that is gone; `manage.py gc` removes it"
            raise PermanentFault(Cause.REJECTED, message)


def diagnose(status: ProcessStatus) -> Observed:
    """What a status means."""
    started = _utc(status.agent.started) if status.agent else None
    if status.agent is None and not status.stopped:
        return Observed(Phase.PENDING, message="being started", courier_alive=status.courier_alive)
    if status.agent_alive or status.courier_alive:
        return Observed(Phase.RUNNING, courier_alive=status.courier_alive, started_at=started)
    if status.stopped:
        cause, message = Cause.STOPPED, ""
    elif status.exit_code is None:
        cause, message = Cause.VANISHED, "the agent's processes are gone and left no exit code"
    elif status.exit_code == 0:
        cause, message = Cause.COMPLETED, ""
    else:
        cause, message = Cause.AGENT_ERROR, f"the agent ended with exit code {status.exit_code}"
    return Observed(
        Phase.FINISHED,
        cause=cause,
        message=message,
        exit_code=status.exit_code,
        courier_alive=False,
        started_at=started,
    )


def _status(folder: RunFolder) -> ProcessStatus:
    agent, courier = _processes(folder)
    mark = str(folder.path)
    guard = processes.read_pid_file(folder.pid_file("guard"))  # lives until nothing is left of what the agent started
    agent_alive = any(processes.find(process, mark) is not None for process in (agent, guard))
    exit_code = None
    with contextlib.suppress(OSError, ValueError):  # read after the agent was seen dead: it is complete then
        exit_code = int(read_limited(folder.exit)) % 256
    courier_alive = processes.find(courier, mark) is not None
    return ProcessStatus(agent, agent_alive, courier_alive, exit_code, folder.stopped.exists())


def _reap(folder: RunFolder) -> None:
    """Kill what is left of a run whose agent vanished, and what outlived its stop. Leaves a locked run alone."""
    status = _status(folder)
    vanished = status.agent is not None and not status.agent_alive and status.exit_code is None and status.courier_alive
    overdue = status.stopped and (status.agent_alive or status.courier_alive)
    if not vanished and not overdue:
        return
    with contextlib.suppress(TransientFault), processes.file_lock(folder.lock, seconds=0.0):
        if _was_destroyed(folder):
            return
        agent, courier = _processes(folder)
        terminated = folder.path / "told"
        if vanished and not terminated.exists():  # once: the courier takes its time to ship what was said
            spared = processes.find(courier, str(folder.path))
            for process in processes.of_run(str(folder.path), [agent]):
                if spared is None or process.pid != spared.pid:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            _signal(folder, "courier", signal.SIGTERM)
            terminated.touch()
        if overdue and time.time() - folder.stopped.stat().st_mtime > _stop_timeout(folder):
            processes.kill_all(str(folder.path), [agent, courier])


def _stop_timeout(folder: RunFolder) -> float:
    """Seconds that a run has between its stop and its end."""
    grace = (folder.read_spec() or {}).get("stop_grace_seconds")
    return (grace if isinstance(grace, int) and 0 < grace < GRACE_LIMIT else 0) + LAST_WORDS_SECONDS


def _processes(folder: RunFolder) -> tuple[ProcessRecord | None, ProcessRecord | None]:
    """The agent and the courier, as far as they were started."""
    return processes.read_pid_file(folder.pid_file("agent")), processes.read_pid_file(folder.pid_file("courier"))


def _signal(folder: RunFolder, name: str, number: signal.Signals) -> None:
    process = processes.find(processes.read_pid_file(folder.pid_file(name)), str(folder.path))
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _was_destroyed(folder: RunFolder) -> bool:
    """Whether a run went before its lock was taken: then all there is of it is that lock, which goes as well."""
    if folder.exists():
        return False
    folder.remove()
    return True


def _is_drained(folder: RunFolder) -> bool:
    """Whether the courier had everything in its journal; what it had not sent, the group's next run sends."""
    return (folder.pipes / "drained").exists()


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextlib.contextmanager
def _io_faults() -> Iterator[None]:
    """A full disk, or a folder that can't be written, is a fault that passes when somebody makes room."""
    try:
        yield
    except OSError as error:
        raise TransientFault(Cause.UNREACHABLE, f"the data folder: {error}", retry_after=5.0) from error
