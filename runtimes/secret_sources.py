"""Secrets by reference: what a source means, how far it may reach, and reading it.

A kind of source is a class that is known by its scheme (`register`): what people choose it by, which places it takes,
and how it is read. What it is handed is the text after the scheme, and the `Reach` that this installation's settings
give it.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from runtimes.base import Cause, PermanentFault, SecretFile

# A name becomes a file and a key of a Secret: https://kubernetes.io/docs/concepts/configuration/secret/
NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,200}")
SECRET_KEY = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9._-]{1,253}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_BYTES = 1024 * 1024  # of one value: a Secret of Kubernetes holds no more

# From (namespace, Secret) to its keys and values; None if there is no such Secret.
LookUp = Callable[[str, str], Mapping[str, bytes] | None]


class Unreadable(Exception):
    """Why a secret can't be read, in words without its value."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the settings let sources reach. By default, nothing of the control plane's own."""

    env_prefix: str = "BERTH_SECRET_"  # variables of the control plane; all others may hold its own secrets
    folder: str = ""  # files of the control plane; empty for none
    namespaces: tuple[str, ...] = ()  # of operators, from which Secrets may be copied
    namespace: str = ""  # the group's own
    look_up: LookUp | None = None  # None where there is no cluster


LEAST = Reach()


class Source:
    """Where a value comes from. `scheme` is what stands before the colon, `label` what people choose it by."""

    scheme: ClassVar[str]
    label: ClassVar[str]

    def __init__(self, place: str, reach: Reach) -> None:
        self.place, self.reach = place, reach

    def problem(self) -> str:
        """What is wrong with its place, in words for who typed it; empty if nothing is. Reading checks it again."""
        raise NotImplementedError

    def read(self) -> bytes:
        """The value, exactly as it is stored. Raises Unreadable."""
        raise NotImplementedError


KINDS: dict[str, type[Source]] = {}


def register(kind: type[Source]) -> type[Source]:
    """Make a kind of source known by its scheme."""
    KINDS[kind.scheme] = kind
    return kind


@register
class Variable(Source):
    """`env:NAME`: a variable of the control plane whose name begins as the settings say."""

    scheme, label = "env", "Environment variable of the control plane (NAME)"

    def problem(self) -> str:
        """See `Source.problem`."""
        prefix = self.reach.env_prefix
        valid = VARIABLE.fullmatch(self.place) and self.place.startswith(prefix) and len(self.place) > len(prefix)
        return "" if valid else f"Use a variable's name that begins with {prefix} (SECRETS_ENV_PREFIX)."

    def read(self) -> bytes:
        """See `Source.read`."""
        prefix = self.reach.env_prefix
        if not prefix or not self.place.startswith(prefix):
            raise Unreadable(f"of the control plane's environment only {prefix}… may be read, not {self.place}")
        value = os.environb.get(self.place.encode())
        if value is None:
            raise Unreadable(f"the control plane has no environment variable {self.place}")
        return value


@register
class File(Source):
    """`file:/PATH`: a file of the control plane, in the folder that the settings name, links resolved."""

    scheme, label = "file", "File that the control plane reads (/PATH)"

    def problem(self) -> str:
        """See `Source.problem`."""
        folder = self.reach.folder
        inside = folder and PurePosixPath(self.place).is_relative_to(folder) and ".." not in self.place.split("/")
        return "" if inside else _allowed("files", "SECRETS_FOLDER", folder)

    def read(self) -> bytes:
        """See `Source.read`."""
        if not self.reach.folder:
            raise Unreadable("no files of the control plane may be read here")
        try:
            folder, path = Path(self.reach.folder).resolve(), Path(self.place).resolve()
            if not path.is_relative_to(folder):
                raise Unreadable(f"{self.place} is not in {self.reach.folder}, or is a link that leads out of it")
            with path.open("rb") as file:
                value = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"the control plane can't read {self.place} ({error.strerror})") from error
        except ValueError as error:  # a NUL, which no words should have either
            raise Unreadable("its path can't be one") from error
        if len(value) > MAX_BYTES:
            raise Unreadable(f"{self.place} has more than {MAX_BYTES} bytes")
        return value


@register
class GroupSecret(Source):
    """`kubernetes:SECRET/KEY`: a Secret in the group's namespace. The kubelet mounts it, and keeps it up to date."""

    scheme, label = "kubernetes", "Secret in the group's namespace (SECRET/KEY)"

    def problem(self) -> str:
        """See `Source.problem`."""
        return "" if SECRET_KEY.fullmatch(self.place) else "Use SECRET/KEY, both as the cluster has them."

    def read(self) -> bytes:
        """See `Source.read`."""
        return _key(self.reach, self.reach.namespace, *self.split())

    def split(self) -> tuple[str, str]:
        """The Secret's name and the key in it. Raises Unreadable."""
        name, _, key = self.place.partition("/")
        if not name or not key:
            raise Unreadable("its source must read kubernetes:SECRET/KEY")
        if name.startswith("berth-"):  # the tokens and secrets of other runs in the namespace
            raise Unreadable("Secrets named berth-… are not for agents")
        return name, key


@register
class OperatorsSecret(Source):
    """`operators:NAMESPACE/SECRET/KEY`: a Secret that agents' namespaces don't have, copied to the run's own."""

    scheme, label = "operators", "Secret in an operators' namespace (NAMESPACE/SECRET/KEY)"

    def problem(self) -> str:
        """See `Source.problem`."""
        namespace, _, rest = self.place.partition("/")
        if not SECRET_KEY.fullmatch(rest):
            return "Use NAMESPACE/SECRET/KEY, all as the cluster has them."
        allowed = self.reach.namespaces
        return "" if namespace in allowed else _allowed("namespaces", "K8S_SECRETS_NAMESPACES", ", ".join(allowed))

    def read(self) -> bytes:
        """See `Source.read`."""
        namespace, _, rest = self.place.partition("/")
        name, _, key = rest.partition("/")
        if not namespace or not name or not key:
            raise Unreadable("its source must read operators:NAMESPACE/SECRET/KEY")
        if namespace not in self.reach.namespaces:
            raise Unreadable(f"Secrets of the namespace {namespace} may not be copied")
        return _key(self.reach, namespace, name, key)


def source_of(secret: SecretFile, reach: Reach) -> Source:
    """The source of a secret. Raises PermanentFault MOUNT, which names it, for an unusable name or source."""
    scheme, _, place = secret.source.partition(":")
    if not NAME.fullmatch(secret.name):
        raise fault(secret, "not a usable file name")
    if scheme not in KINDS or not place:
        known = ", ".join(f"{each}:" for each in KINDS)
        raise fault(secret, f"its source must be one of {known}")
    return KINDS[scheme](place, reach)


def cluster_key(secret: SecretFile) -> tuple[str, str] | None:
    """(Secret, key) of a secret that a pod mounts from its own namespace; None for what the control plane hands over.

    Raises as `read` does.
    """
    if secret.value:
        return None
    source = source_of(secret, LEAST)
    if not isinstance(source, GroupSecret):
        return None
    try:
        return source.split()
    except Unreadable as error:
        raise fault(secret, str(error)) from error


def read_one(secret: SecretFile, reach: Reach) -> bytes:
    """The value of one secret, from wherever it is. Raises PermanentFault MOUNT, which names it and not its value."""
    if secret.value:
        return secret.value.encode()
    source = source_of(secret, reach)
    try:
        return source.read()
    except Unreadable as error:
        raise fault(secret, str(error)) from error


def read(secrets: Iterable[SecretFile], reach: Reach) -> dict[str, bytes]:
    """Read what the control plane hands over: name → value. The others are looked at: a pod would wait for them.

    Raises PermanentFault MOUNT, which names the secret and never its value, for the first that can't be read.
    """
    values = {}
    for secret in secrets:
        value = read_one(secret, reach)
        if cluster_key(secret) is None:
            values[secret.name] = value
    return values


def fault(secret: SecretFile, words: str) -> PermanentFault:
    """The fault that names a secret."""
    return PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: {words}")


def _allowed(what: str, setting: str, allowed: str) -> str:
    where = f"only those in {allowed}" if allowed else "none"
    return f"Of {what}, {where} may be read here: the setting {setting} says so."


def _key(reach: Reach, namespace: str, name: str, key: str) -> bytes:
    if reach.look_up is None:
        raise Unreadable("it is in a cluster, and this runtime has none")
    found = reach.look_up(namespace, name)
    if found is None or key not in found:
        raise Unreadable(f"namespace {namespace} has no Secret {name} with a key {key}")
    return found[key]
