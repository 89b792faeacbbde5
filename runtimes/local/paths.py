"""Where the local runtime keeps things: a folder for each run, and one for each group that lasts.

<data>/runs/<run>.lock          held while the run is being changed
<data>/runs/<run>/spec.json     the run, without its token and secrets: a folder always tells whose it is
                 token, secrets/, extra/, project, pipes/, agent.pid, agent.log, courier.pid, courier.log, stopped
<data>/groups/<slug>/           what is the group's volume on a cluster: group/, ipc/<session>/, state/<session>/,
                                checkpoints/, journal/, owner.json (whose it is)
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from runtimes import names
from runtimes.base import GroupRef, RunRef, RunSpec

OWNER = "owner.json"
SPEC_LIMIT = 16 * 1024 * 1024  # bytes of spec.json; a profile's command and environment have 1 MiB at most
FOLDER = os.O_RDONLY | os.O_DIRECTORY
RUN_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.new|\.lock)?")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    @property
    def pipes(self) -> Path:
        return self.path / "pipes"

    @property
    def exit(self) -> Path:
        """The agent's exit status, written by its wrapper."""
        return self.pipes / "exit"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def extra(self) -> Path:
        """The links that are the run's mounts."""
        return self.path / "extra"

    @property
    def project(self) -> Path:
        """The link to the project, if the run sees it."""
        return self.path / "project"

    @property
    def sockets(self) -> Path:
        """Where a confined agent finds the socket of the egress proxy."""
        return self.path / "sockets"

    @property
    def filter(self) -> Path:
        """Which system calls a confined agent has."""
        return self.path / "seccomp"

    @property
    def token(self) -> Path:
        return self.path / "token"

    @property
    def egress(self) -> Path:
        """The credential at the egress proxy, for the courier, which redacts it from what the agent says."""
        return self.path / "egress"

    @property
    def stopped(self) -> Path:
        """Exists once the run was asked to stop; its mtime is when."""
        return self.path / "stopped"

    def pid_file(self, name: str) -> Path:
        """The pid file of `name`: agent, courier, guard or socket_proxy."""
        return self.path / f"{name}.pid"

    def log(self, name: str) -> Path:
        """The log of `name` itself: agent (its wrapper), courier or socket_proxy."""
        return self.path / f"{name}.log"

    def exists(self) -> bool:
        """Whether the run was made here."""
        return (self.path / "spec.json").exists()

    def make(
        self,
        spec: RunSpec,
        secrets: Mapping[str, bytes],
        links: Mapping[str, Path] | None = None,
        project: Path | None = None,
    ) -> None:
        """Make the folder with all that the run's processes read: whole, or not at all.

        `links` are its mounts: a relative path under `extra` → the folder that it leads to.
        """
        new = RunFolder(self.path.with_name(self.path.name + ".new"))
        shutil.rmtree(new.path, ignore_errors=True)
        new.path.mkdir(parents=True, mode=0o700)
        new.pipes.mkdir()
        new.secrets.mkdir(mode=0o700)
        _write(new.token, spec.token.encode(), 0o600)
        if spec.egress:
            _write(new.egress, spec.egress.credential.encode(), 0o600)
        for name, value in secrets.items():
            _write(new.secrets / name, value, 0o400)
        new.extra.mkdir()
        for name, target in (links or {}).items():
            (new.extra / name).parent.mkdir(parents=True, exist_ok=True)
            (new.extra / name).symlink_to(target)
        if project:
            new.project.symlink_to(project)
        stored = {key: value for key, value in asdict(spec).items() if key != "token"}
        # It is shown on the run's page: where secrets are is for operators.
        stored["secrets"] = {secret.name: secret.source.partition(":")[0] for secret in spec.secrets}
        stored |= {"hash": names.spec_hash(spec), "egress": spec.egress and spec.egress.proxy}
        _write(new.path / "spec.json", json.dumps(stored, indent=2).encode(), 0o600)
        new.path.rename(self.path)

    def renew(self, secrets: Mapping[str, bytes]) -> bool:
        """Write anew those secrets that the run was made with and that have changed, each whole or not at all."""
        changed = False
        for name, value in secrets.items():
            path = self.secrets / name
            if not path.exists() or path.read_bytes() == value:
                continue
            new = self.path / f"{name}.renewed"  # beside the folder: what looks at that sees whole files alone
            new.unlink(missing_ok=True)
            _write(new, value, 0o400)
            new.rename(path)
            changed = True
        return changed

    def read_spec(self) -> dict[str, Any] | None:
        """The spec as `make` wrote it; None if the run was not made here."""
        try:
            stored = json.loads(read_limited(self.path / "spec.json", SPEC_LIMIT))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return stored if isinstance(stored, dict) else None

    def ref(self) -> RunRef | None:
        """The run whose folder this is."""
        try:
            return RunRef(**(self.read_spec() or {})["ref"])
        except (KeyError, TypeError):  # somebody changed it
            return None

    def remove(self) -> None:
        """Remove the folder and its lock, which the caller holds."""
        shutil.rmtree(self.path.with_name(self.path.name + ".new"), ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The data folder of a local installation."""

    path: Path

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def run(self, run: str) -> RunFolder:
        """The folder of the run with this id, whether it exists or not."""
        return RunFolder(self.runs / run)

    def run_folders(self) -> Iterator[RunFolder]:
        """The folders of all runs that exist."""
        if self.runs.is_dir():
            complete = (each for each in sorted(self.runs.iterdir()) if not each.suffix)  # not .lock, not .new
            yield from (folder for each in complete if (folder := RunFolder(each)).exists())

    def run_ids(self) -> Iterator[str]:
        """The ids of all runs of which anything is in the file system, be it half a folder or a lock."""
        if self.runs.is_dir():
            yield from sorted({match[1] for each in self.runs.iterdir() if (match := RUN_NAME.fullmatch(each.name))})

    def group_folders(self) -> Iterator[tuple[Path, GroupRef]]:
        """The folders of all groups, and whose they are."""
        groups = self.path / "groups"
        for folder in sorted(groups.iterdir()) if groups.is_dir() else ():
            if folder.is_dir() and not folder.is_symlink():
                yield folder, _owner(folder) or GroupRef("", folder.name)

    def owner(self, ref: RunRef) -> GroupRef | None:
        """The group that a slug's folder was made for; None if there is none, or it names none."""
        return _owner(self._group(ref))

    def remove_group(self, folder: Path) -> None:
        """Remove a group's folder. Whose it is goes last, so that a removal that was cut short can be finished."""
        for root, inside, _ in os.walk(folder):
            for name in inside:  # a folder without rights for its owner, as some package caches are, can't be emptied
                path = Path(root, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != OWNER:
                child.unlink()
        (folder / OWNER).unlink(missing_ok=True)
        folder.rmdir()

    def workspace(self, ref: RunRef) -> Path:
        """The folder that agents of the group work in."""
        return self._group(ref) / "group"

    def ipc(self, ref: RunRef) -> Path:
        return self._group(ref) / "ipc" / ref.session

    def journal(self, ref: RunRef) -> Path:
        return self._group(ref) / "journal"

    def checkpoints(self, ref: RunRef) -> Path:
        return self._group(ref) / "checkpoints"

    def home(self, ref: RunRef) -> Path:
        """The session's home, which lasts from run to run."""
        return self._group(ref) / "state" / ref.session

    def state(self, ref: RunRef, state_folder: str) -> Path:
        """The profile's state folder, at the place in the session's home that it has in the pod's home."""
        path = PurePosixPath(state_folder)
        home = names.home_of(state_folder)
        inside = path.relative_to(home) if path.is_relative_to(home) else PurePosixPath(path.name)
        return self.home(ref) / inside

    def make_group(self, ref: RunRef, state_folder: str) -> None:
        """Make the folders of a group and a session, where they are missing.

        What lies in the session's home is the agent's: a link that it has put there is left as it is, not followed.
        """
        folders = (self.workspace(ref), self.ipc(ref), self.journal(ref), self.checkpoints(ref), self.home(ref))
        for folder in (*folders, self.state(ref, state_folder), self.runs):
            mkdir_no_follow(self.path, folder.relative_to(self.path))
        if self.owner(ref) is None:
            new = self._group(ref) / f"{OWNER}.{ref.run}"  # whole or not at all
            _write(new, json.dumps({"group": ref.group, "slug": ref.slug}).encode(), 0o600)
            new.rename(self._group(ref) / OWNER)

    def _group(self, ref: RunRef) -> Path:
        return self.path / "groups" / names.dns_label(ref.slug)


def mkdir_no_follow(root: Path, path: PurePath) -> None:
    """Make the folder `path` in `root` where it is missing, and what it lies in, as far as no link is in the way."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    above = os.open(root, FOLDER)
    try:
        for name in path.parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=above)
            inner = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=above)
            os.close(above)
            above = inner
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):  # the last is what some BSDs say of a link
            raise
    finally:
        os.close(above)


def read_limited(path: Path, limit: int = 4096) -> str:
    """What a file holds that an agent of the same user may have replaced: no link, no pipe, no more than `limit` bytes.

    Raises OSError, and ValueError for what is no such text.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name} is no file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return content.decode()


def _owner(folder: Path) -> GroupRef | None:
    try:
        return GroupRef(**json.loads(read_limited(folder / OWNER)))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that never had other permissions than `mode`."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
