"""The Kubernetes runtime: a run is a Job in its group's namespace.

`ensure` takes three calls for a run whose group is known: the Secret first, so that the pod never waits for it; then
the Job; then the Secret is handed over to the Job, which takes it along when it goes. Each step can be repeated.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from k8s_adapter import manifests, names, secretfiles
from k8s_adapter.api import Api, Conflict, NotFound, Object
from k8s_adapter.cluster_traces import Traces
from k8s_adapter.config import KubernetesConfig as KubernetesConfig
from k8s_adapter.describe import describe
from k8s_adapter.diagnose import diagnose, needs_events
from k8s_adapter.runtime import (
    Cause,
    Description,
    Observed,
    PermanentFault,
    RunRef,
    RunSpec,
    RuntimeFault,
    Trace,
    TransientFault,
)
from k8s_adapter.watching import Watcher

log = logging.getLogger(__name__)

# A group's namespace and volume are looked at again after this long, though nothing says that they changed.
GROUND_SECONDS = 600.0
# How long an `ensure` waits for a new volume; a provisioner usually takes one or two seconds.
BIND_SECONDS = 5.0


class KubernetesRuntime:
    """Implements `k8s_adapter.runtime.Runtime` on a cluster. Cheap to make: connects at the first call."""

    def __init__(self, config: KubernetesConfig) -> None:
        self.config = config
        self._api = Api(config)
        self._grounds: dict[str, float] = {}  # slug → until when (monotonic) its namespace and volume are taken as good

    def ensure(self, spec: RunSpec) -> None:
        """See `Runtime.ensure`."""
        files = secretfiles.read(spec.secrets)
        self._check_cluster_secrets(spec)
        try:
            self._ensure_ground(spec)
            self._ensure_run(spec, files)
        except NotFound:  # somebody deleted the group's namespace since we last looked
            self._grounds.pop(spec.ref.slug, None)
            self._ensure_ground(spec)
            self._ensure_run(spec, files)

    def observe(self, ref: RunRef) -> Observed:
        """See `Runtime.observe`."""
        job, pods = self._look(ref)
        seen = diagnose(job, pods, [])
        if needs_events(job, seen, datetime.now(UTC)):
            seen = diagnose(job, pods, self._all_events(ref, pods))
        if seen.cause is Cause.MOUNT:
            self._grounds.pop(ref.slug, None)  # look at the volume again before the next start
        return seen

    def describe(self, ref: RunRef) -> Description:
        """See `Runtime.describe`."""
        job, pods = self._look(ref)
        if job is None and not pods:
            return Description()
        return describe(job, pods, self._all_events(ref, pods))

    def ping(self) -> None:
        """See `Runtime.ping`. Asks for one Job: that takes the server, its storage, and the rights that runs need."""
        self._api.get(self._everywhere("/apis/batch/v1", "jobs"), limit="1")

    def stop(self, ref: RunRef) -> None:
        """Suspend the Job: its controller deletes the pod, which gets SIGTERM and its grace; the Job tells of it."""
        namespace = self._namespace(ref)
        job = self._read(f"{_jobs(namespace)}/{names.job(ref.run)}")
        if job is None or not self._is_ours(job, ref):
            return
        with contextlib.suppress(NotFound):
            self._api.patch(f"{_jobs(namespace)}/{names.job(ref.run)}", {"spec": {"suspend": True}})

    def destroy(self, ref: RunRef) -> None:
        """See `Runtime.destroy`. The pod goes within its grace; `observe` tells when it has."""
        namespace = self._namespace(ref)
        for path in (f"{_jobs(namespace)}/{names.job(ref.run)}", f"{_secrets(namespace)}/{names.secret(ref.run)}"):
            found = self._read(path)
            if found is not None and self._is_ours(found, ref):
                self._api.delete(path)

    def owned(self) -> Iterator[RunRef]:
        """See `Runtime.owned`."""
        seen: set[RunRef] = set()
        for path in (self._everywhere("/apis/batch/v1", "jobs"), self._everywhere("/api/v1", "secrets")):
            query = {"labelSelector": names.selector(self.config.installation), "limit": "500"}
            while True:
                page = self._api.get(path, **query)
                for item in page["items"]:
                    ref = names.ref_of(item["metadata"]["labels"])
                    if ref is not None and ref not in seen:
                        seen.add(ref)
                        yield ref
                if not (more := page["metadata"].get("continue")):
                    break
                query["continue"] = more

    def traces(self) -> Iterator[Trace]:
        """See `Runtime.traces`."""
        return Traces(self._api, self.config).of_runs()

    def grounds(self) -> Iterator[Trace]:
        """See `Runtime.grounds`."""
        return Traces(self._api, self.config).of_groups()

    def remove(self, trace: Trace) -> None:
        """See `Runtime.remove`."""
        self._grounds.pop(trace.of.slug, None)
        Traces(self._api, self.config).remove(trace)

    def watch(self, until: threading.Event) -> Iterator[RunRef | None]:
        """See `Runtime.watch`. Raises TransientFault when the API server was away for `watch_patience_seconds`."""
        paths = [self._everywhere("/apis/batch/v1", "jobs"), self._everywhere("/api/v1", "pods")]
        selector = names.selector(self.config.installation)
        yield from Watcher(self._api, paths, selector, self.config.watch_patience_seconds).run(until)

    def _ensure_run(self, spec: RunSpec, files: dict[str, bytes]) -> None:
        namespace = self._namespace(spec.ref)
        secret = self._create(_secrets(namespace), manifests.make_secret(spec, files, self.config), spec)
        job = self._create(_jobs(namespace), manifests.make_job(spec, self.config), spec)
        if not secret["metadata"].get("ownerReferences"):
            path = f"{_secrets(namespace)}/{names.secret(spec.ref.run)}"
            self._api.patch(path, manifests.owner_patch(job))

    def _create(self, path: str, manifest: Object, spec: RunSpec) -> Object:
        """Create an object of a run, or adopt the one that stands there, if it was made for the same spec."""
        name = manifest["metadata"]["name"]
        try:
            return self._api.create(path, manifest)
        except Conflict:
            found = self._api.get(f"{path}/{name}")
        if found["metadata"].get("deletionTimestamp"):
            raise TransientFault(Cause.REJECTED, f"{name} of an earlier try is still being deleted")
        annotations = found["metadata"].get("annotations") or {}
        if not self._is_ours(found, spec.ref) or annotations.get(names.SPEC_HASH) != names.spec_hash(spec):
            raise PermanentFault(Cause.REJECTED, f"{name} exists and was made for another run or another spec")
        return found

    def _ensure_ground(self, spec: RunSpec) -> None:
        """Make sure of the group's namespace and volume, unless that was done lately."""
        if self._grounds.get(spec.ref.slug, 0.0) > time.monotonic():
            return
        namespace = self._namespace(spec.ref)
        if not self.config.shared_namespace:
            self._adopt("/api/v1/namespaces", manifests.make_namespace(spec.ref, self.config), spec.ref)
        claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        claim = self._adopt(claims, manifests.make_pvc(spec.ref, spec.storage_gib, self.config), spec.ref)
        self._wait_for_volume(claims, claim)
        self._grounds[spec.ref.slug] = time.monotonic() + GROUND_SECONDS

    def _adopt(self, path: str, manifest: Object, ref: RunRef) -> Object:
        """Return a group's object, made now if need be. One of another group or installation is refused."""
        name = manifest["metadata"]["name"]
        found = self._read(f"{path}/{name}")
        if found is None:
            try:
                return self._api.create(path, manifest)
            except Conflict:
                found = self._api.get(f"{path}/{name}")
        if found["metadata"].get("deletionTimestamp"):
            raise TransientFault(Cause.REJECTED, f"{manifest['kind']} {name} is being deleted", retry_after=5)
        labels = found["metadata"].get("labels") or {}
        wanted = names.group_labels(ref, self.config.installation)
        if any(labels.get(key) != value for key, value in wanted.items() if key != names.SLUG):
            words = f"{manifest['kind']} {name} exists and is not labelled as this group's of this installation"
            raise PermanentFault(Cause.REJECTED, words)
        return found

    def _wait_for_volume(self, path: str, claim: Object) -> None:
        """Wait until a claim is bound, where that happens before a pod uses it.

        A pod made sooner often fails its first mount, and is tried again only after ten seconds and more.
        """
        if claim.get("status", {}).get("phase") == "Bound" or not self._binds_at_once(claim):
            return
        query = {"fieldSelector": f"metadata.name={claim['metadata']['name']}", "timeoutSeconds": f"{BIND_SECONDS:.0f}"}
        for event in self._api.watch(path, BIND_SECONDS * 2, **query):
            if event["object"].get("status", {}).get("phase") == "Bound":
                return
        words = f"PersistentVolumeClaim {claim['metadata']['name']} is not bound yet"
        raise TransientFault(Cause.MOUNT, words, retry_after=2)

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

    def _check_cluster_secrets(self, spec: RunSpec) -> None:
        """A pod that mounts a Secret which is not there would hang; find out before."""
        for secret in spec.secrets:
            source = secretfiles.cluster_key(secret)
            if source is None:
                continue
            name, key = source
            found = self._read(f"{_secrets(self._namespace(spec.ref))}/{name}")
            if found is None or key not in (found.get("data") or {}):
                words = f"namespace {self._namespace(spec.ref)} has no Secret {name} with a key {key}"
                raise PermanentFault(Cause.MOUNT, f"secret {secret.name!r}: {words}")

    def _look(self, ref: RunRef) -> tuple[Object | None, list[Object]]:
        """The run's Job, if there is one that is ours, and its pods."""
        namespace = self._namespace(ref)
        job = self._read(f"{_jobs(namespace)}/{names.job(ref.run)}")
        if job is not None and not self._is_ours(job, ref):
            job = None
        selector = names.selector(self.config.installation, ref.run)
        pods: list[Object] = self._api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)["items"]
        return job, pods

    def _all_events(self, ref: RunRef, pods: list[Object]) -> list[Object]:
        """The events of a run's Job and of its pods."""
        objects = [names.job(ref.run), *(pod["metadata"]["name"] for pod in pods)]
        return [event for name in objects for event in self._events(self._namespace(ref), name)]

    def _events(self, namespace: str, name: str) -> list[Object]:
        """The events of an object. What can't be read is left out: they only add words."""
        try:
            query = {"fieldSelector": f"involvedObject.name={name}"}
            items: list[Object] = self._api.get(f"/api/v1/namespaces/{namespace}/events", **query)["items"]
            return items
        except RuntimeFault as error:
            log.warning("no events of %s: %s", name, error)
            return []

    def _read(self, path: str) -> Object | None:
        try:
            return self._api.get(path)
        except NotFound:
            return None

    def _is_ours(self, found: Object, ref: RunRef) -> bool:
        labels = found["metadata"].get("labels") or {}
        wanted = names.run_labels(ref, self.config.installation)
        return all(labels.get(key) == value for key, value in wanted.items())

    def _namespace(self, ref: RunRef) -> str:
        return names.namespace(ref.slug, self.config.shared_namespace)

    def _everywhere(self, api: str, kind: str) -> str:
        """The path of a collection over every namespace that this installation uses."""
        shared = self.config.shared_namespace
        return f"{api}/namespaces/{shared}/{kind}" if shared else f"{api}/{kind}"


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def _secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"
