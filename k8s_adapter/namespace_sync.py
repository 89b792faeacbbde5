"""Sync of a group's namespace: compare it with its manifests, apply what differs, and trust the result for a minute.

What is right costs a few reads and no write. Writes are server-side apply, so that what others add beside it (labels,
annotations) stays. https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from k8s_adapter import names, namespace_manifests
from k8s_adapter.client import Api, Conflict, NotFound, Object
from k8s_adapter.config import KubernetesConfig
from k8s_adapter.dns import Resolver
from runtimes.base import Cause, GroupSpec, Mount, MountSource, NfsSource, PermanentFault, TransientFault

log = logging.getLogger(__name__)

# For how long a synced namespace is trusted, while nothing says that it changed.
FRESH_SECONDS = 60.0
# How long a start waits for a new volume or quota; both usually take a second or two.
WAIT_SECONDS = 5.0


class NamespaceSync:
    """Makes and repairs groups' namespaces, with policies, quotas and volumes. Safe to share among threads."""

    def __init__(self, api: Api, config: KubernetesConfig, resolver: Resolver) -> None:
        self._api = api
        self._config = config
        self._resolver = resolver
        self._synced: dict[str, tuple[str, float]] = {}  # slug → (digest of its manifests, until when it is trusted)
        self._lock = threading.Lock()

    def ensure(self, group: GroupSpec) -> None:
        """Sync a group's namespace, unless the same was done lately."""
        wanted = self._manifests(group)
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        known, until = self._synced.get(group.ref.slug, ("", 0.0))
        if known == digest and until > time.monotonic():
            return
        for attempt in (1, 2):
            try:
                self._sync(group, wanted)
                break
            except NotFound:  # the namespace was deleted meanwhile
                if attempt == 2:
                    raise
        with self._lock:
            self._synced[group.ref.slug] = (digest, time.monotonic() + FRESH_SECONDS)

    def invalidate(self, slug: str) -> None:
        """Sync a group's namespace again before its next start."""
        with self._lock:
            self._synced.pop(slug, None)

    def ensure_volumes(self, group: GroupSpec, mounts: Iterable[Mount], project: MountSource | None) -> None:
        """Make the volumes and claims of the NFS exports among a run's mounts."""
        sources = [*(mount.source for mount in mounts), *([project] if project else [])]
        volumes, claims = self._path(group, "PersistentVolume"), self._path(group, "PersistentVolumeClaim")
        for server, path in sorted({(each.server, each.path) for each in sources if isinstance(each, NfsSource)}):
            self._ensure_persistent_volume(
                volumes, namespace_manifests.make_nfs_volume(group, self._config, server, path)
            )
            self._get_or_create(claims, namespace_manifests.make_nfs_claim(group, self._config, server, path))

    def _ensure_persistent_volume(self, volumes: str, manifest: Object) -> None:
        """Make a group's volume. One whose claim went with its namespace may take another.

        https://kubernetes.io/docs/concepts/storage/persistent-volumes/#retain
        """
        if self._get_or_create(volumes, manifest).get("status", {}).get("phase") == "Released":
            gone = {"uid": None, "resourceVersion": None}
            self._api.patch(f"{volumes}/{manifest['metadata']['name']}", {"spec": {"claimRef": gone}})

    def _manifests(self, group: GroupSpec) -> list[Object]:
        """All that lasts of a group but its volume, in the order in which it is made."""
        config = self._config
        courier, proxy = (
            self._resolver.endpoint_with_history(config.courier_url),
            self._resolver.endpoint_with_history(config.egress_url),
        )
        policies = namespace_manifests.make_policies(group, config, courier, proxy)
        if config.shared_namespace:
            return policies
        whole = [namespace_manifests.make_namespace(group, config), *policies]
        return [*whole, namespace_manifests.make_limits(group, config), namespace_manifests.make_quota(group, config)]

    def _sync(self, group: GroupSpec, wanted: list[Object]) -> None:
        """Read what there is, apply what differs, and wait for what the cluster has to do for it."""
        kinds = dict.fromkeys(each["kind"] for each in wanted)
        claim = namespace_manifests.make_pvc(group, self._config)
        with ThreadPoolExecutor(len(kinds) + 1) as pool:  # a start waits for these reads
            reads = {kind: pool.submit(self._existing, group, kind) for kind in kinds}
            volume = pool.submit(self._read, self._path(group, "PersistentVolumeClaim"), claim)
        found = {kind: read.result() for kind, read in reads.items()}
        for manifest in wanted:
            kind = manifest["kind"]
            made = self._apply(self._path(group, kind), manifest, found[kind].get(manifest["metadata"]["name"]))
            if kind == "ResourceQuota":
                self._wait_for_quota(self._path(group, kind), made)
        claims = self._path(group, "PersistentVolumeClaim")
        self._wait_for_volume(claims, self._get_or_create(claims, claim, volume.result()))

    def _existing(self, group: GroupSpec, kind: str) -> dict[str, Object]:
        """The objects of a kind, by name. A policy that is not ours may open what ours close: it is logged."""
        path, namespace = self._path(group, kind), names.namespace(group.ref.slug, self._config.shared_namespace)
        if kind == "Namespace":
            one = self._read(path, {"metadata": {"name": namespace}})
            return {namespace: one} if one else {}
        found = {each["metadata"]["name"]: each for each in self._api.get(path)["items"]}
        for name, each in found.items():
            foreign = (each["metadata"].get("labels") or {}).get(names.MANAGED_BY) != names.BERTH
            if kind == "NetworkPolicy" and foreign and not self._config.shared_namespace:
                log.warning("%s has a NetworkPolicy %s that is not Berth's", namespace, name)
        return found

    def _apply(self, path: str, manifest: Object, found: Object | None) -> Object:
        """Make an object of a group as it should be. One of another group or installation is refused."""
        name = manifest["metadata"]["name"]
        if found:
            self._check_owner(manifest, found)
            if not namespace_manifests.differs(manifest, found):
                return found
            log.warning("%s %s was changed: it is put right", manifest["kind"], name)
        made = self._api.apply(f"{path}/{name}", manifest, names.MANAGER)
        if namespace_manifests.differs(
            manifest, made
        ):  # somebody added what apply can't take away, not being the owner of it
            made = self._api.replace(f"{path}/{name}", manifest)
        return made

    def _get_or_create(self, path: str, manifest: Object, found: Object | None = None) -> Object:
        """Return a group's object, made now if need be, and never changed: most of a volume can't be."""
        found = found or self._read(path, manifest)
        if found is None:
            try:
                return self._api.create(path, manifest)
            except Conflict:
                found = self._api.get(f"{path}/{manifest['metadata']['name']}")
        self._check_owner(manifest, found)
        return found

    def _check_owner(self, manifest: Object, found: Object) -> None:
        name = manifest["metadata"]["name"]
        if found["metadata"].get("deletionTimestamp"):
            raise TransientFault(Cause.REJECTED, f"{manifest['kind']} {name} is being deleted", retry_after=5)
        labels = found["metadata"].get("labels") or {}
        # What stands in a namespace of the group's own is its own, whatever somebody did to its labels.
        if manifest["kind"] in ("NetworkPolicy", "LimitRange", "ResourceQuota") and not self._config.shared_namespace:
            return
        wanted = manifest["metadata"]["labels"]
        if any(labels.get(key) != wanted[key] for key in (names.MANAGED_BY, names.INSTALLATION, names.GROUP)):
            message = f"{manifest['kind']} {name} exists and is not labelled as this group's of this installation"
            raise PermanentFault(Cause.REJECTED, message)

    def _wait_for_quota(self, path: str, quota: Object) -> None:
        """Wait until a new quota counts. Before that, the API server lets nothing in ("status unknown for quota")."""
        if _is_enforced(quota) or any(map(_is_enforced, self._watch_object(path, names.QUOTA))):
            return
        raise TransientFault(Cause.QUOTA, f"ResourceQuota {names.QUOTA} does not count yet", retry_after=2)

    def _wait_for_volume(self, path: str, claim: Object) -> None:
        """Wait until a claim is bound, where that happens before a pod uses it.

        A pod made sooner often fails its first mount, and is tried again only after ten seconds and more.
        """
        if claim.get("status", {}).get("phase") == "Bound" or not self._binds_at_once(claim):
            return
        name = claim["metadata"]["name"]
        for each in self._watch_object(path, name):
            if each.get("status", {}).get("phase") == "Bound":
                return
        raise TransientFault(Cause.MOUNT, f"PersistentVolumeClaim {name} is not bound yet", retry_after=2)

    def _watch_object(self, path: str, name: str) -> Iterator[Object]:
        """An object as it is now, and as it becomes within `WAIT_SECONDS`."""
        query = {"fieldSelector": f"metadata.name={name}", "timeoutSeconds": f"{WAIT_SECONDS:.0f}"}
        for event in self._api.watch(path, WAIT_SECONDS * 2, **query):
            if event["type"] != "BOOKMARK":
                yield event["object"]

    def _binds_at_once(self, claim: Object) -> bool:
        """Whether the claim's StorageClass binds without waiting for a pod. If we may not know, we don't wait."""
        name = claim["spec"].get("storageClassName")
        if not name:
            return False
        try:
            storage_class = self._api.get(f"/apis/storage.k8s.io/v1/storageclasses/{name}")
        except PermanentFault:
            return False
        return bool(storage_class.get("volumeBindingMode") == "Immediate")

    def _read(self, path: str, manifest: Object) -> Object | None:
        try:
            return self._api.get(f"{path}/{manifest['metadata']['name']}")
        except NotFound:
            return None

    def _path(self, group: GroupSpec, kind: str) -> str:
        """The collection of a kind: in the group's namespace, but for namespaces and volumes themselves."""
        if kind in ("Namespace", "PersistentVolume"):
            return f"/api/v1/{kind.lower()}s"
        namespace = names.namespace(group.ref.slug, self._config.shared_namespace)
        if kind == "NetworkPolicy":
            return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        return f"/api/v1/namespaces/{namespace}/{kind.lower()}s"


def _is_enforced(quota: Object) -> bool:
    return bool(quota["spec"]["hard"].keys() <= (quota.get("status", {}).get("hard") or {}).keys())
