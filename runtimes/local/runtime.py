"""The local runtime: a run is two processes, the courier and the agent in its wrapper, and a folder.

They belong to nobody: each is a session of its own and outlives whoever started it. There is no daemon either, so what
a kubelet would see to (ending what is left when the agent is gone) is seen to whenever somebody looks, by `_tend`.

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
from runtimes.local.paths import Folders, RunFolder, read_small
from runtimes.local.processes import Note
from runtimes.local.programs import Confinement, Programs
from runtimes.mask import mask
from runtimes.secret_sources import LEAST, Reach

log = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 4.0  # the contract says 5
LOOK_SECONDS = 0.25
# After a stop: the grace is the wrapper's, the rest the courier's, as a pod's termination grace is on a cluster.
LAST_WORDS_SECONDS = 50.0
GRACE_LIMIT = 3600  # seconds; beyond it somebody else than Berth wrote the run's file


@dataclass(frozen=True, slots=True)
class Look:
    """What there is of a run at one instant."""

    agent: Note | None  # None: the agent was never started
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
        secrets: Reach = LEAST,
        confinement: Confinement | None = None,
    ) -> None:
        """With a `confinement` every agent gets a sandbox."""
        self._folders = Folders(data_dir.resolve())
        self._reach = secrets
        self._programs = Programs(self._folders, secrets, confinement, python)
        self.installation = installation
        self._aside: set[Path] = set()  # folders that can't be read, each logged once

    def ensure(self, spec: RunSpec) -> None:
        """See `Runtime.ensure`."""
        files = secret_sources.read(spec.secrets, self._reach)
        folders = mounts.real_folders(spec)
        folder = self._folders.run(spec.ref.run)
        with _outside():
            self._check_owner(spec.ref)
            self._folders.make_group(spec.ref, spec.state_folder)
            self._programs.check_command(spec)
            with processes.locked(folder.lock) as lock:
                about = folder.about()
                if about is None:
                    folder.make(spec, files, *folders)
                elif not names.fits(spec, about["hash"]):
                    raise PermanentFault(Cause.REJECTED, f"run {spec.ref.run} exists and was made for another spec")
                look = self._start_beside(spec, folder, lock)
                if look.agent is None and not look.stopped:
                    self._programs.start_agent(spec, folder, lock)

    def revive(self, spec: RunSpec) -> None:
        """See `Runtime.revive`. What stands between a sandbox and the proxy is brought back as well."""
        folder = self._folders.run(spec.ref.run)
        with _outside():
            if not folder.exists():
                return
            with processes.locked(folder.lock) as lock:
                if not folder.exists():  # destroyed meanwhile; what is left is the lock that we just made
                    folder.remove()
                    return
                self._start_beside(spec, folder, lock)

    def _start_beside(self, spec: RunSpec, folder: RunFolder, lock: int) -> Look:
        """Start what a run has beside its agent, unless it lives or the run was stopped; return how that was before."""
        look = _look(folder)
        if not look.stopped:
            if not look.courier_alive and (look.agent is None or look.agent_alive or not _drained(folder)):
                self._programs.start_courier(spec, folder, lock)
            self._programs.start_relay(spec, folder, lock)
        return look

    def sync_namespace(self, group: GroupSpec) -> None:
        """See `Runtime.sync_namespace`. A group's folders are made with its runs, and hold no rules."""

    def renew(self, ref: RunRef, secrets: tuple[SecretFile, ...]) -> bool:
        """See `Runtime.renew`."""
        values = secret_sources.read(secrets, self._reach)
        folder = self._folders.run(ref.run)
        with _outside():
            if not values or not folder.exists():
                return False
            with processes.locked(folder.lock):
                if not folder.exists():  # destroyed meanwhile; what is left is the lock that we just made
                    folder.remove()
                    return False
                return folder.renew(values)

    def secret(self, group: GroupRef, secret: SecretFile) -> bytes:
        """See `Runtime.secret`. It is the same for every group."""
        return secret_sources.read_one(secret, self._reach)

    def observe(self, ref: RunRef) -> Observed:
        """See `Runtime.observe`."""
        with _outside():
            folder = self._folders.run(ref.run)
            if not folder.exists():
                strays = any(processes.marked(str(folder.path)))
                return Observed(Phase.RUNNING, message="its folder is gone") if strays else Observed(Phase.ABSENT)
            _tend(folder)
            return judge(_look(folder))

    def describe(self, ref: RunRef) -> Description:
        """See `Runtime.describe`. There are no notices: nobody here says anything but the run's own processes."""
        with _outside():
            folder = self._folders.run(ref.run)
            about = folder.about()
            if about is None:
                return Description()
            agent, beside = _notes(folder)
        steps = {name: _utc(note.started) for name, note in (("courier", beside), ("started", agent)) if note}
        return Description(steps=steps, manifest=mask(about))

    def ping(self) -> None:
        """See `Runtime.ping`. Writes a file to the data folder."""
        with _outside():
            self._folders.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folders.runs) as file:
                file.write(b"ping")

    def stop(self, ref: RunRef) -> None:
        """See `Runtime.stop`. What doesn't end within its grace is killed by whoever looks at the run after that."""
        folder = self._folders.run(ref.run)
        with _outside():
            if not folder.exists():
                return
            with processes.locked(folder.lock):
                if not folder.exists():  # destroyed meanwhile; what is left is the lock that we just made
                    folder.remove()
                    return
                look = _look(folder)
                if look.agent is not None and not look.agent_alive:
                    return  # it had ended before
                if not look.stopped:
                    folder.stopped.touch()
                _signal(folder, "agent" if look.agent is not None else "courier", signal.SIGTERM)

    def destroy(self, ref: RunRef) -> None:
        """See `Runtime.destroy`. Returns when the last process is gone."""
        folder = self._folders.run(ref.run)
        with _outside():
            self._folders.runs.mkdir(parents=True, exist_ok=True)
            with processes.locked(folder.lock):
                processes.kill(str(folder.path), _notes(folder))
                folder.remove()

    def runs(self) -> Iterator[RunRef]:
        """See `Runtime.runs`. Finds processes, too, whose folder somebody deleted."""
        with _outside():
            refs = [ref for folder in self._folders.every_run() if (ref := folder.ref())]
            strays = inventory.strays(self._folders)
        yield from refs
        yield from strays - set(refs)

    def run_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.run_resources`."""
        with _outside():
            yield from list(inventory.of_runs(self._folders))

    def group_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.group_resources`."""
        with _outside():
            yield from list(inventory.of_groups(self._folders))

    def remove(self, resource: OwnedResource) -> None:
        """See `Runtime.remove`."""
        if isinstance(resource.owner, RunRef):
            self.destroy(resource.owner)
            return
        with _outside():
            inventory.remove_group(self._folders, resource, resource.owner)

    def watch(self, until: threading.Event) -> Iterator[WatchEvent | None]:
        """See `Runtime.watch`. Looks at every run four times a second."""
        seen: dict[RunRef, Look] = {}
        last_sign = time.monotonic()
        while not until.is_set():
            with _outside():
                now = dict(self._looks())
            changed = [ref for ref in seen.keys() | now.keys() if seen.get(ref) != now.get(ref)]
            seen = now
            yield from map(WatchEvent, changed)
            if time.monotonic() - last_sign > SIGN_OF_LIFE_SECONDS:
                last_sign = time.monotonic()
                yield None
            until.wait(LOOK_SECONDS)

    def _looks(self) -> Iterator[tuple[RunRef, Look]]:
        for folder in self._folders.every_run():
            try:
                _tend(folder)
                ref = folder.ref()
                look = _look(folder) if ref else None
            except (LookupError, TypeError, AttributeError, ValueError, OSError, RuntimeFault) as error:  # anybody's
                if folder.path not in self._aside:
                    self._aside.add(folder.path)
                    log.warning("the run's folder %s is set aside: it can't be read: %r", folder.path, error)
                continue
            if ref and look:
                yield ref, look

    def _check_owner(self, ref: RunRef) -> None:
        """A group that was made anew under an old slug must not get the old one's workspace."""
        owner = self._folders.owner(ref)
        if owner is not None and owner.group != ref.group:
            words = f"the folder groups/{ref.slug} is of a group that is gone; `manage.py gc` removes it"
            raise PermanentFault(Cause.REJECTED, words)


def judge(look: Look) -> Observed:
    """What a look at a run means. The run's folder exists."""
    started = _utc(look.agent.started) if look.agent else None
    if look.agent is None and not look.stopped:
        return Observed(Phase.PENDING, message="being started", courier_alive=look.courier_alive)
    if look.agent_alive or look.courier_alive:
        return Observed(Phase.RUNNING, courier_alive=look.courier_alive, started_at=started)
    if look.stopped:
        cause, words = Cause.STOPPED, ""
    elif look.exit_code is None:
        cause, words = Cause.VANISHED, "the agent's processes are gone and left no exit code"
    elif look.exit_code == 0:
        cause, words = Cause.COMPLETED, ""
    else:
        cause, words = Cause.AGENT_ERROR, f"the agent ended with exit code {look.exit_code}"
    return Observed(
        Phase.FINISHED,
        cause=cause,
        message=words,
        exit_code=look.exit_code,
        courier_alive=False,
        started_at=started,
    )


def _look(folder: RunFolder) -> Look:
    agent, beside = _notes(folder)
    mark = str(folder.path)
    guard = processes.read_note(folder.pid_file("guard"))  # lives until nothing is left of what the agent started
    agent_alive = any(processes.living(note, mark) is not None for note in (agent, guard))
    exit_code = None
    with contextlib.suppress(OSError, ValueError):  # read after the agent was seen dead: it is complete then
        exit_code = int(read_small(folder.exit)) % 256
    courier_alive = processes.living(beside, mark) is not None
    return Look(agent, agent_alive, courier_alive, exit_code, folder.stopped.exists())


def _tend(folder: RunFolder) -> None:
    """End what is left of a run whose agent vanished, and what outlived its stop. Leaves a locked run alone."""
    look = _look(folder)
    vanished = look.agent is not None and not look.agent_alive and look.exit_code is None and look.courier_alive
    overdue = look.stopped and (look.agent_alive or look.courier_alive)
    if not vanished and not overdue:
        return
    with contextlib.suppress(TransientFault), processes.locked(folder.lock, seconds=0.0):
        if not folder.exists():  # destroyed meanwhile; what is left is the lock that we just made
            folder.remove()
            return
        notes = _notes(folder)
        told = folder.path / "told"
        if vanished and not told.exists():  # once: the courier takes its time to ship what was said
            beside = processes.living(notes[1], str(folder.path))
            for process in processes.members(str(folder.path), notes[:1]):
                if beside is None or process.pid != beside.pid:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            _signal(folder, "courier", signal.SIGTERM)
            told.touch()
        if overdue and time.time() - folder.stopped.stat().st_mtime > _patience(folder):
            processes.kill(str(folder.path), notes)


def _patience(folder: RunFolder) -> float:
    """Seconds that a run has between its stop and its end."""
    grace = (folder.about() or {}).get("stop_grace_seconds")
    return (grace if isinstance(grace, int) and 0 < grace < GRACE_LIMIT else 0) + LAST_WORDS_SECONDS


def _notes(folder: RunFolder) -> tuple[Note | None, Note | None]:
    """The notes of the agent and the courier."""
    return processes.read_note(folder.pid_file("agent")), processes.read_note(folder.pid_file("courier"))


def _signal(folder: RunFolder, name: str, number: signal.Signals) -> None:
    process = processes.living(processes.read_note(folder.pid_file(name)), str(folder.path))
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _drained(folder: RunFolder) -> bool:
    """Whether the courier had everything in its journal; what it had not sent, the group's next run sends."""
    return (folder.pipes / "drained").exists()


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """A full disk, or a folder that can't be written, is a fault that passes when somebody makes room."""
    try:
        yield
    except OSError as error:
        raise TransientFault(Cause.UNREACHABLE, f"the data folder: {error}", retry_after=5.0) from error
