"""Whether a mount is allowed: what a group asks for, against what operators allow.

`evaluate` is pure: it asks the file system only through `resolve`. It is called when a mount is saved, in a dry run,
and again at every start; where the run starts, the runtime checks the real path once more.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from groups.choices import MountKind

EXTRA = "/workspace/extra"
# Names that hold keys by convention. No part of a path may be one of them, in any spelling of the case.
BLOCKED = frozenset({
    ".ssh", ".gnupg", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".env", ".netrc", ".npmrc", ".pypirc",
    "credentials", "id_rsa", "id_ed25519", "private_key", ".secret",
})  # fmt: skip
# Which roots a runtime can mount from. A pod mounts no folder of its node: Pod Security's `restricted` has no hostPath.
KINDS_OF = {"local": (MountKind.FOLDER,), "kubernetes": (MountKind.CLAIM, MountKind.NFS)}
# Limits of Linux (limits.h), in bytes, with room for what stands before a path.
PATH_MAX, NAME_MAX = 1024, 255
DEPTH = 4  # of a name under /workspace/extra

# From an absolute path to the real one, with all symlinks resolved; None if there is no such folder.
Resolve = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Root:
    """What an operator allows mounts under."""

    name: str
    kind: MountKind
    place: str  # a claim's name, SERVER:/EXPORT, or an absolute folder
    base: str = ""  # the folder in it that mounts must stay under; empty for all of it
    read_write: bool = False
    blocked: tuple[str, ...] = ()  # names besides BLOCKED


@dataclass(frozen=True, slots=True)
class Tenant:
    """The group that asks."""

    main: bool = False
    may_write: bool = False  # an operator said so of the group; the main group needs no such word
    taken: tuple[str, ...] = ()  # the names of its other mounts
    runtime: str = ""  # where its runs execute; empty: not looked at


@dataclass(frozen=True, slots=True)
class Request:
    """What a group asks for: `path` under the root, at /workspace/extra/`name`."""

    name: str
    path: str
    read_write: bool = False


@dataclass(frozen=True, slots=True)
class MountVerdict:
    """Whether a mount is accepted, and why (not), in words for people."""

    ok: bool
    read_only: bool
    reason: str
    path: str = ""  # relative to the root, cleaned; empty if refused or if it is the root itself


class MountRefused(Exception):
    """Why a mount is refused."""


def evaluate(request: Request, root: Root, tenant: Tenant, resolve: Resolve | None = None) -> MountVerdict:
    """Judge one mount.

    `resolve` is asked for folders of this machine alone. Without it nothing is said of symlinks: the paths of a claim
    and of an export can't be seen from here, so a container looks at them when the run starts.
    """
    try:
        _check_name(request.name, tenant.taken)
        _check_kind(root, tenant.runtime)
        base, path = "/".join(parts_of(root.base or ".", "the root's folder")), "/".join(parts_of(request.path))
        _check_names((*_parts(root.place), *_parts(base), *_parts(path)), root.blocked)
        _check_writing(request, root, tenant)
        if root.kind is MountKind.FOLDER and resolve is not None:
            _check_real(os.path.join(root.place, base), path, root, resolve)  # noqa: PTH118 (text: nothing is touched)
    except MountRefused as refusal:
        return MountVerdict(False, not request.read_write, str(refusal))
    return MountVerdict(True, not request.read_write, _reason(request, root), path)


def parts_of(path: str, what: str = "the path") -> tuple[str, ...]:
    """The components of a relative path; of ".", none. Raises MountRefused for any other path, or one that leads up."""
    if not path.strip():
        raise MountRefused(f"{what} is empty; write . for all of the root")
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in path):
        raise MountRefused(f"{what} has a NUL, a line break or another invisible character in it")
    if path.startswith("/"):
        raise MountRefused(f"{what} is absolute; write it as seen from the root")
    parts = PurePosixPath(path).parts
    if "\\" in path or (parts[:1] and parts[0].startswith("~")):
        raise MountRefused(f"{what} has a ~ or a \\ that is not understood here; write it as seen from the root")
    if ".." in path.split("/"):
        raise MountRefused(f"{what} leads upwards (..); write it as seen from the root")
    if len(path.encode()) > PATH_MAX or any(len(part.encode()) > NAME_MAX for part in parts):
        raise MountRefused(f"{what} is too long: {PATH_MAX} bytes at most, {NAME_MAX} in each part")
    return parts


def blocked_part(parts: Iterable[str], more: Iterable[str] = ()) -> str:
    """The first of `parts` that is a blocked name; empty if there is none."""
    names = BLOCKED | {_normalized(name) for name in more}
    return next((part for part in parts if _normalized(part) in names), "")


def conflicting_name(name: str, others: Iterable[str]) -> str:
    """The first of `others` that `name` can't stand beside: the same, or one lies in the other. Empty if none."""
    parts = _parts(name)
    for other in others:
        shorter = min(len(parts), len(_parts(other)))
        if parts[:shorter] == _parts(other)[:shorter]:
            return other
    return ""


def real_folder(path: str) -> str | None:
    """The `Resolve` of this machine. A folder that this user can't reach is not there."""
    try:
        real = os.path.realpath(path, strict=True)
    except (OSError, ValueError):
        return None
    return real if os.path.isdir(real) else None  # noqa: PTH112 (text in, text out)


def is_inside(kind: MountKind, inner: str, outer: str) -> bool:
    """Whether one place lies in another and is not the same, however both are spelled.

    A folder is judged by what it is on this machine: links, bind mounts, and the case where that does not count.
    """
    if kind is MountKind.FOLDER:
        real = PurePosixPath(os.path.realpath(inner))
        return not _same_folder(str(real), outer) and any(_same_folder(str(above), outer) for above in real.parents)
    host, path = _split_place(inner)
    other_host, other_path = _split_place(outer)
    return host == other_host and path != other_path and path[: len(other_path)] == other_path


def _same_folder(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)  # noqa: PTH121 (text in)
    except (OSError, ValueError):  # one is not there
        return os.path.realpath(path) == os.path.realpath(other)


def _split_place(place: str) -> tuple[str, tuple[str, ...]]:
    """Server and folder of SERVER:/EXPORT…, or a claim's name and what is in it, in one spelling."""
    host, _, path = place.partition("/")
    return host.casefold().removesuffix(":").removesuffix("."), tuple(each for each in _parts(path) if each != ".")


def _check_name(name: str, taken: Iterable[str]) -> None:
    parts = parts_of(name, "the name")
    if not parts or len(parts) > DEPTH or name != "/".join(parts):
        raise MountRefused(f"the name must be one to {DEPTH} folder names, such as data or data/reference")
    if other := conflicting_name(name, taken):
        same = f"the group has a mount {other} already"
        raise MountRefused(same if other == name else f"{same}, and one can't lie in the other")


def _check_kind(root: Root, runtime: str) -> None:
    if runtime and root.kind not in KINDS_OF.get(runtime, ()):
        raise MountRefused(f"the root {root.name} is {root.kind.phrase}, which the runtime {runtime} can't mount")


def _check_names(parts: Iterable[str], more: Iterable[str]) -> None:
    if part := blocked_part(parts, more):
        raise MountRefused(f"{part} is a blocked name: such folders and files hold keys")


def _check_writing(request: Request, root: Root, tenant: Tenant) -> None:
    if not request.read_write:
        return
    if not root.read_write:
        raise MountRefused(f"the root {root.name} is read-only; ask for a read-only mount")
    if not tenant.main and not tenant.may_write:
        raise MountRefused("the group's mounts are read-only; ask for a read-only mount, or ask an operator")


def _check_real(base: str, path: str, root: Root, resolve: Resolve) -> None:
    """Look where the path really leads. Neither a link's target nor what lies outside of the root is told."""
    real_base = resolve(base)
    if real_base is None:
        raise MountRefused(f"the root {root.name} is not there on this machine")
    real = resolve(os.path.join(real_base, path))  # noqa: PTH118
    if real is None:
        raise MountRefused(f"there is no folder {path or '.'} under the root {root.name}")
    if not PurePosixPath(real).is_relative_to(real_base):
        raise MountRefused(f"{path} leads out of the root {root.name}, by a symlink")
    if part := blocked_part((*_parts(real_base), *_parts(real)), root.blocked):
        raise MountRefused(f"{path or '.'} really lies in {part}, which is a blocked name")


def _reason(request: Request, root: Root) -> str:
    how = "read-write" if request.read_write else "read-only"
    words = f"{how} at {EXTRA}/{request.name}"
    if root.kind is MountKind.FOLDER:
        note = "" if request.read_write else "; the local runtime can't keep an agent from writing without its sandbox"
        return f"{words}{note}"
    return f"{words}; symlinks are looked at when a run starts"


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(path).parts if part != "/")


def _normalized(name: str) -> str:
    """A name as it is compared: without case, and the same for all spellings that Unicode takes for equal."""
    return unicodedata.normalize("NFKC", name).casefold().strip()
