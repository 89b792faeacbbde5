"""Secrets of runs on a cluster: read before a pod is made, and renewed in the run's Secret while it lives."""

import base64
import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

from k8s_adapter import names
from k8s_adapter.client import Api, NotFound
from k8s_adapter.config import KubernetesConfig
from runtimes import secret_sources
from runtimes.base import RunRef, RunSpec, SecretFile
from runtimes.secret_sources import AllowedSources

REMEMBERED = 4096  # runs of which the delivered values are known


class ClusterSecrets:
    """Reads and delivers. Safe to share among threads; values are not kept."""

    def __init__(self, api: Api, config: KubernetesConfig) -> None:
        self._api = api
        self._config = config
        self._delivered: dict[str, str] = {}  # run → digest of what its Secret holds
        self._lock = threading.Lock()

    def read(self, spec: RunSpec) -> dict[str, bytes]:
        """The values for a run that starts. A pod that mounts a Secret which is not there would hang.

        Raises as `secret_sources.read` does, and the faults of the API.
        """
        return secret_sources.read(spec.secrets, self._allowed(spec.ref.slug))

    def read_one(self, slug: str, secret: SecretFile) -> bytes:
        """One secret, as a run of that group would get it. Raises as `read` does."""
        return secret_sources.read_one(secret, self._allowed(slug))

    def renew(self, ref: RunRef, secrets: Iterable[SecretFile]) -> bool:
        """Put what changed into the run's Secret; whether anything had. The kubelet sees to those of the namespace."""
        ours = [secret for secret in secrets if secret_sources.cluster_key(secret) is None]
        values = secret_sources.read(ours, self._allowed(ref.slug)) if ours else {}
        digest = digest_of(values)
        if not values or self._delivered.get(ref.run) == digest:
            return False
        path = f"{self._path(names.namespace(ref.slug, self._config.shared_namespace))}/{names.secret(ref.run)}"
        try:
            found = self._api.get(path)
        except NotFound:
            return False
        if (found["metadata"].get("labels") or {}).get(names.RUN) != ref.run:
            return False
        stored = found.get("data") or {}
        wanted = {names.FILE_KEY_PREFIX + name: _encoded(value) for name, value in values.items()}
        # A key that the pod was not made with is mounted nowhere.
        changed = {key: value for key, value in wanted.items() if key in stored and stored[key] != value}
        if changed:
            self._api.patch(path, {"data": changed})
        with self._lock:
            if len(self._delivered) >= REMEMBERED:
                self._delivered.clear()
            self._delivered[ref.run] = digest
        return bool(changed)

    def _allowed(self, slug: str) -> AllowedSources:
        namespace = names.namespace(slug, self._config.shared_namespace)
        return replace(self._config.secrets, namespace=namespace, read_secret=self._read_secret)

    def _read_secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        try:
            found = self._api.get(f"{self._path(namespace)}/{name}")
        except NotFound:
            return None
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    def _path(self, namespace: str) -> str:
        return f"/api/v1/namespaces/{namespace}/secrets"


def digest_of(values: Mapping[str, bytes]) -> str:
    """A digest that is equal for equal values, so that they need not be kept to be compared."""
    whole = hashlib.sha256()
    for name, value in sorted(values.items()):
        whole.update(f"{name} {len(value)} ".encode() + value)
    return whole.hexdigest()


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
