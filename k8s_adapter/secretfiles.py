"""Secrets by reference: what a source means, and reading those that the control plane itself can reach."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from k8s_adapter.runtime import Cause, PermanentFault, SecretFile

# A name becomes a file and a key of a Secret: https://kubernetes.io/docs/concepts/configuration/secret/
NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,200}")


def split(secret: SecretFile) -> tuple[str, str]:
    """Return a source as (scheme, rest), such as ("env", "API_KEY").

    Raises PermanentFault MOUNT, which names the secret, for an unusable name or source.
    """
    scheme, _, rest = secret.source.partition(":")
    if not NAME.fullmatch(secret.name):
        raise PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: not a usable file name")
    if scheme not in ("kubernetes", "file", "env") or not rest:
        raise PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: its source must be kubernetes:, file: or env:")
    return scheme, rest


def cluster_key(secret: SecretFile) -> tuple[str, str] | None:
    """Return (Secret, key) of a `kubernetes:` source, None for another. Raises as `split` does."""
    scheme, rest = split(secret)
    if scheme != "kubernetes":
        return None
    name, _, key = rest.partition("/")
    if not name or not key:
        raise PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: its source must read kubernetes:SECRET/KEY")
    if name.startswith("berth-"):  # the tokens and secrets of other runs in the namespace
        raise PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: Secrets named berth-… are not for agents")
    return name, key


def read(secrets: Iterable[SecretFile]) -> dict[str, bytes]:
    """Read the `file:` and `env:` secrets: name → value, exactly as it is stored.

    Raises PermanentFault MOUNT, which names the secret and never its value, if one can't be read.
    """
    values: dict[str, bytes] = {}
    for secret in secrets:
        scheme, rest = split(secret)
        if scheme == "env":
            value = os.environb.get(rest.encode())
            if value is None:
                words = f"secret {secret.name!r}: the control plane has no environment variable {rest}"
                raise PermanentFault(Cause.MOUNT, words)
            values[secret.name] = value
        elif scheme == "file":
            try:
                values[secret.name] = Path(rest).read_bytes()
            except OSError as error:
                words = f"secret {secret.name!r}: the control plane can't read {rest} ({error.strerror})"
                raise PermanentFault(Cause.MOUNT, words) from error
    return values
