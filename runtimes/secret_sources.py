"""Secrets by reference: what a source means, which sources are allowed, and reading them.

A kind of source is a class that is known by its scheme (`register`): what people choose it by, which paths it takes,
and how it is read. What it is handed is the text after the scheme, and the `AllowedSources` of this
installation's settings.
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
ReadSecret = Callable[[str, str], Mapping[str, bytes] | None]


class Unreadable(Exception):
    """Why a secret can't be read, in words without its value."""


@dataclass(frozen=True, slots=True)
class AllowedSources:
    """Which sources the settings allow. By default, nothing of the control plane's own."""

    env_prefix: str = "BERTH_SECRET_"  # variables of the control plane; all others may hold its own secrets
    folder: str = ""  # files of the control plane; empty for none
    namespaces: tuple[str, ...] = ()  # of operators, from which Secrets may be copied
    namespace: str = ""  # the group's own
    read_secret: ReadSecret | None = None  # None where there is no cluster


ENVIRONMENT_ONLY = AllowedSources()


class Source:
    """Where a value comes from. `scheme` is what stands before the colon, `label` what people choose it by."""

    scheme: ClassVar[str]
    label: ClassVar[str]

    def __init__(self, path: str, allowed: AllowedSources) -> None:
        self.path, self.allowed = path, allowed

    def problem(self) -> str:
        """What is wrong with its path, in words for who typed it; empty if nothing is. Reading checks it again."""
        raise NotImplementedError

    def read(self) -> bytes:
        """The value, exactly as it is stored. Raises Unreadable."""
        raise NotImplementedError


SOURCES: dict[str, type[Source]] = {}


def register(kind: type[Source]) -> type[Source]:
    """Make a kind of source known by its scheme."""
    SOURCES[kind.scheme] = kind
    return kind


@register
class Variable(Source):
    """`env:NAME`: a variable of the control plane whose name begins as the settings say."""

    scheme, label = "env", "Environment variable of the control plane (NAME)"

    def problem(self) -> str:
        """See `Source.problem`."""
        prefix = self.allowed.env_prefix
        valid = VARIABLE.fullmatch(self.path) and self.path.startswith(prefix) and len(self.path) > len(prefix)
        return "" if valid else f"Use a variable's name that begins with {prefix} (SECRETS_ENV_PREFIX)."

    def read(self) -> bytes:
        """See `Source.read`."""
        prefix = self.allowed.env_prefix
        if not prefix or not self.path.startswith(prefix):
            raise Unreadable(f"of the control plane's environment only {prefix}… may be read, not {self.path}")
        value = os.environb.get(self.path.encode())
        if value is None:
            raise Unreadable(f"the control plane has no environment variable {self.path}")
        return value


@register
class File(Source):
    """`file:/PATH`: a file of the control plane, in the folder that the settings name, links resolved."""

    scheme, label = "file", "File that the control plane reads (/PATH)"

    def problem(self) -> str:
        """See `Source.problem`."""
        folder = self.allowed.folder
        inside = folder and PurePosixPath(self.path).is_relative_to(folder) and ".." not in self.path.split("/")
        return "" if inside else _allowed("files", "SECRETS_FOLDER", folder)

    def read(self) -> bytes:
        """See `Source.read`."""
        if not self.allowed.folder:
            raise Unreadable("no files of the control plane may be read here")
        try:
            folder, path = Path(self.allowed.folder).resolve(), Path(self.path).resolve()
            if not path.is_relative_to(folder):
                raise Unreadable(f"{self.path} is not in {self.allowed.folder}, or is a link that leads out of it")
            with path.open("rb") as file:
                value = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"the control plane can't read {self.path} ({error.strerror})") from error
        except ValueError as error:  # a NUL, which no message should hold either
            raise Unreadable("its path can't be one") from error
        if len(value) > MAX_BYTES:
            raise Unreadable(f"{self.path} has more than {MAX_BYTES} bytes")
        return value


@register
class GroupSecret(Source):
    """`kubernetes:SECRET/KEY`: a Secret in the group's namespace. The kubelet mounts it, and keeps it up to date."""

    scheme, label = "kubernetes", "Secret in the group's namespace (SECRET/KEY)"

    def problem(self) -> str:
        """See `Source.problem`."""
        return "" if SECRET_KEY.fullmatch(self.path) else "Use SECRET/KEY, both as the cluster has them."

    def read(self) -> bytes:
        """See `Source.read`."""
        return _key(self.allowed, self.allowed.namespace, *self.split())

    def split(self) -> tuple[str, str]:
        """The Secret's name and the key in it. Raises Unreadable."""
        name, _, key = self.path.partition("/")
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
        namespace, _, rest = self.path.partition("/")
        if not SECRET_KEY.fullmatch(rest):
            return "Use NAMESPACE/SECRET/KEY, all as the cluster has them."
        allowed = self.allowed.namespaces
        return "" if namespace in allowed else _allowed("namespaces", "K8S_SECRETS_NAMESPACES", ", ".join(allowed))

    def read(self) -> bytes:
        """See `Source.read`."""
        namespace, _, rest = self.path.partition("/")
        name, _, key = rest.partition("/")
        if not namespace or not name or not key:
            raise Unreadable("its source must read operators:NAMESPACE/SECRET/KEY")
        if namespace not in self.allowed.namespaces:
            raise Unreadable(f"Secrets of the namespace {namespace} may not be copied")
        return _key(self.allowed, namespace, name, key)


def source_of(secret: SecretFile, allowed: AllowedSources) -> Source:
    """The source of a secret. Raises PermanentFault MOUNT, which names it, for an unusable name or source."""
    scheme, _, path = secret.source.partition(":")
    if not NAME.fullmatch(secret.name):
        raise mount_fault(secret, "not a usable file name")
    if scheme not in SOURCES or not path:
        known = ", ".join(f"{each}:" for each in SOURCES)
        raise mount_fault(secret, f"its source must be one of {known}")
    return SOURCES[scheme](path, allowed)


def cluster_key(secret: SecretFile) -> tuple[str, str] | None:
    """(Secret, key) of a secret that a pod mounts from its own namespace; None for what the control plane delivers.

    Raises as `read` does.
    """
    if secret.value:
        return None
    source = source_of(secret, ENVIRONMENT_ONLY)
    if not isinstance(source, GroupSecret):
        return None
    try:
        return source.split()
    except Unreadable as error:
        raise mount_fault(secret, str(error)) from error


def read_one(secret: SecretFile, allowed: AllowedSources) -> bytes:
    """The value of one secret, from wherever it is. Raises PermanentFault MOUNT, which names it and not its value."""
    if secret.value:
        return secret.value.encode()
    source = source_of(secret, allowed)
    try:
        return source.read()
    except Unreadable as error:
        raise mount_fault(secret, str(error)) from error


def read(secrets: Iterable[SecretFile], allowed: AllowedSources) -> dict[str, bytes]:
    """Read what the control plane delivers: name → value. The others are read as a check: a pod would wait for them.

    Raises PermanentFault MOUNT, which names the secret and never its value, for the first that can't be read.
    """
    values = {}
    for secret in secrets:
        value = read_one(secret, allowed)
        if cluster_key(secret) is None:
            values[secret.name] = value
    return values


def mount_fault(secret: SecretFile, message: str) -> PermanentFault:
    """The fault that names a secret."""
    return PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: {message}")


def _allowed(what: str, setting: str, allowed: str) -> str:
    where = f"only those in {allowed}" if allowed else "none"
    return f"Of {what}, {where} may be read here: the setting {setting} says so."


def _key(allowed: AllowedSources, namespace: str, name: str, key: str) -> bytes:
    if allowed.read_secret is None:
        raise Unreadable("it is in a cluster, and this runtime has none")
    found = allowed.read_secret(namespace, name)
    if found is None or key not in found:
        raise Unreadable(f"namespace {namespace} has no Secret {name} with a key {key}")
    return found[key]
