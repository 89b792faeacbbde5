"""The Kubernetes runtime: a run is a Job in its group's namespace.

`ensure` takes three calls for a run whose group is known: the Secret first, so that the pod never waits for it; then
the Job; then the Secret is handed over to the Job, which takes it along when it goes. Each step can be repeated.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from k8s_adapter import manifests, mounts, names
from k8s_adapter.client import Api, Conflict, NotFound, Object
from k8s_adapter.config import KubernetesConfig
from k8s_adapter.describe import describe
from k8s_adapter.diagnose import diagnose, needs_events
from k8s_adapter.dns import Resolver
from k8s_adapter.inventory import Inventory
from k8s_adapter.namespace_sync import NamespaceSync
from k8s_adapter.pod_overrides import check_patch
from k8s_adapter.reflector import Reflector
from k8s_adapter.secrets import ClusterSecrets
from runtimes.base import (
    Cause,
    Description,
    GroupRef,
    GroupSpec,
    Observed,
    OwnedResource,
    PermanentFault,
    RunRef,
    RunSpec,
    RuntimeFault,
    SecretFile,
    TransientFault,
    WatchEvent,
)
from runtimes.names import matches_hash

log = logging.getLogger(__name__)


class KubernetesRuntime:
    """Implements `runtimes.base.Runtime` on a cluster. Cheap to make: connects at the first call."""

    def __init__(self, config: KubernetesConfig) -> None:
        self.config = config
        self._api = Api(config)
        self._resolver = Resolver()
        self._namespaces = NamespaceSync(self._api, config, self._resolver)
        self._secrets = ClusterSecrets(self._api, config)

    def ensure(self, spec: RunSpec) -> None:
        """See `Runtime.ensure`."""
        _check_spec(spec)
        files = self._secrets.read(spec)
        try:
            self._create_run(spec, files)
        except NotFound:  # somebody deleted the group's namespace since it was synced
            self._namespaces.invalidate(spec.ref.slug)
            self._create_run(spec, files)

    def revive(self, spec: RunSpec) -> None:
        """See `Runtime.revive`. The kubelet does it: the courier is a sidecar that is always restarted."""

    def sync_namespace(self, group: GroupSpec) -> None:
        """See `Runtime.sync_namespace`."""
        self._namespaces.invalidate(group.ref.slug)
        self._namespaces.ensure(group)

    def renew(self, ref: RunRef, secrets: tuple[SecretFile, ...]) -> bool:
        """See `Runtime.renew`. The kubelet writes what changed into the pod, within a minute or so."""
        return self._secrets.renew(ref, secrets)

    def secret(self, group: GroupRef, secret: SecretFile) -> bytes:
        """See `Runtime.secret`."""
        return self._secrets.read_one(group.slug, secret)

    def observe(self, ref: RunRef) -> Observed:
        """See `Runtime.observe`."""
        job, pods = self._job_and_pods(ref)
        try:
            seen = diagnose(job, pods, [])
            if needs_events(job, seen, datetime.now(UTC)):
                seen = diagnose(job, pods, self._all_events(ref, pods))
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # no API server tells such a thing
            message = f"what the cluster tells of the run can't be read: {error!r}"
            raise TransientFault(Cause.UNREACHABLE, message, retry_after=30) from error
        if seen.cause is Cause.MOUNT:
            self._namespaces.invalidate(ref.slug)  # check the volume again before the next start
        return seen

    def describe(self, ref: RunRef) -> Description:
        """See `Runtime.describe`."""
        job, pods = self._job_and_pods(ref)
        if job is None and not pods:
            return Description()
        return describe(job, pods, self._all_events(ref, pods))

    def ping(self) -> None:
        """See `Runtime.ping`. Asks for one Job: that takes the server, its storage, and the rights that runs need."""
        self._api.get(self._collection("/apis/batch/v1", "jobs"), limit="1")

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

    def runs(self) -> Iterator[RunRef]:
        """See `Runtime.runs`."""
        seen: set[RunRef] = set()
        for path in (self._collection("/apis/batch/v1", "jobs"), self._collection("/api/v1", "secrets")):
            query = {"labelSelector": names.selector(self.config.installation), "limit": "500"}
            while True:
                page = self._api.get(path, **query)
                for item in page["items"]:
                    ref = names.ref_of(item["metadata"].get("labels"))
                    if ref is not None and ref not in seen:
                        seen.add(ref)
                        yield ref
                if not (more := page["metadata"].get("continue")):
                    break
                query["continue"] = more

    def run_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.run_resources`."""
        return Inventory(self._api, self.config).run_resources()

    def group_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.group_resources`."""
        return Inventory(self._api, self.config).group_resources()

    def remove(self, resource: OwnedResource) -> None:
        """See `Runtime.remove`."""
        self._namespaces.invalidate(resource.owner.slug)
        Inventory(self._api, self.config).remove(resource)

    def watch(self, until: threading.Event) -> Iterator[WatchEvent | None]:
        """See `Runtime.watch`. Raises TransientFault when the API server was away for `watch_timeout_seconds`."""
        paths = [self._collection("/apis/batch/v1", "jobs"), self._collection("/api/v1", "pods")]
        selector = names.selector(self.config.installation)
        timeout, shared = self.config.watch_timeout_seconds, self.config.shared_namespace
        yield from Reflector(self._api, paths, selector, timeout, shared).run(until)

    def _create_run(self, spec: RunSpec, files: dict[str, bytes]) -> None:
        """Sync the group's namespace, unless that was done lately, then make the Secret and the Job."""
        self._namespaces.ensure(spec.group)
        self._namespaces.ensure_volumes(spec.group, spec.mounts, spec.project if spec.main else None)
        namespace = self._namespace(spec.ref)
        secret = self._create(_secrets(namespace), manifests.make_secret(spec, files, self.config), spec)
        hosts = self._resolver.hosts([spec.courier_url, *([spec.egress.proxy] if spec.egress else [])])
        job = self._create(_jobs(namespace), manifests.make_job(spec, self.config, hosts), spec)
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
        if not self._is_ours(found, spec.ref) or not matches_hash(spec, annotations.get(names.SPEC_HASH)):
            raise PermanentFault(Cause.REJECTED, f"{name} exists and was made for another run or another spec")
        return found

    def _job_and_pods(self, ref: RunRef) -> tuple[Object | None, list[Object]]:
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
        """The events of an object. What can't be read is left out: events only add to the message."""
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

    def _collection(self, api: str, kind: str) -> str:
        """The path of a collection over every namespace that this installation uses."""
        shared = self.config.shared_namespace
        return f"{api}/namespaces/{shared}/{kind}" if shared else f"{api}/{kind}"


def _check_spec(spec: RunSpec) -> None:
    """Raise what no cluster needs to be asked about: a patch that would weaken the pod, mounts that can't be made."""
    if refusals := check_patch(spec.pod.patch):
        raise PermanentFault(Cause.REJECTED, f"the profile's patch of its pods: {'; '.join(refusals)}")
    if refusals := mounts.problems(spec):
        raise PermanentFault(Cause.MOUNT, "; ".join(refusals))


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def _secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"
