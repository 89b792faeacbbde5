"""What exists on a cluster for runs and groups, object by object, and removing one of them.

An object is read again before it is deleted: what meanwhile became another's, or never was this installation's, stays.
"""

from collections.abc import Iterator

from k8s_adapter import names
from k8s_adapter.client import Api, NotFound, Object
from k8s_adapter.config import KubernetesConfig
from runtimes.base import Cause, GroupRef, OwnedResource, PermanentFault, RunRef, TransientFault

# Kind → the API and the plural under which its objects are. A Job comes before what goes with it.
RUN_KINDS = {"Job": ("/apis/batch/v1", "jobs"), "Pod": ("/api/v1", "pods"), "Secret": ("/api/v1", "secrets")}
GROUP_KINDS = {
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "PersistentVolume": ("/api/v1", "persistentvolumes"),  # of an NFS export
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Namespace": ("/api/v1", "namespaces"),
}
CLUSTER_SCOPED = ("PersistentVolume", "Namespace")
KINDS = RUN_KINDS | GROUP_KINDS
OVER = ("Complete", "Failed")  # conditions of a Job that has ended
ENDED = ("Succeeded", "Failed")  # phases of a pod that has


class Inventory:
    """Lists and removes objects of one installation."""

    def __init__(self, api: Api, config: KubernetesConfig) -> None:
        self._api = api
        self._config = config

    def run_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.run_resources`."""
        for kind in RUN_KINDS:
            for item in self._list(self._collection(kind), names.selector(self._config.installation)):
                ref = names.ref_of(item["metadata"].get("labels"))
                if ref is not None:
                    yield _resource(ref, kind, item)

    def group_resources(self) -> Iterator[OwnedResource]:
        """See `Runtime.group_resources`. Policies go with a group's own namespace; a shared one is no group's."""
        for kind in GROUP_KINDS:
            if kind == ("Namespace" if self._config.shared_namespace else "NetworkPolicy"):
                continue
            for item in self._list(self._collection(kind), names.group_selector(self._config.installation)):
                ref = names.group_of(item["metadata"].get("labels"))
                if ref is not None:
                    yield _resource(ref, kind, item)

    def remove(self, resource: OwnedResource) -> None:
        """See `Runtime.remove`."""
        path = f"{self._collection(resource.kind, resource.namespace)}/{resource.name}"
        try:
            found = self._api.get(path)
        except NotFound:
            return
        if _is_terminating(found) or not self._belongs_to(found, resource.owner):
            return
        if isinstance(resource.owner, GroupRef):
            self._refuse_if_used(resource.owner)
        if resource.kind == "Namespace":
            self._refuse_if_shared(resource.name)
        self._api.delete(path)

    def _refuse_if_used(self, ref: GroupRef) -> None:
        """A volume must not go while a run of its group may write to it, nor a policy that holds the run."""
        namespace = names.namespace(ref.slug, self._config.shared_namespace)
        selector = names.group_runs_selector(self._config.installation, ref.group)
        for kind, over in (("Job", _is_job_finished), ("Pod", _is_pod_finished)):
            for item in self._list(self._collection(kind, namespace), selector):
                if not over(item):
                    message = f"{kind} {item['metadata']['name']} of its group is still there"
                    raise TransientFault(Cause.REJECTED, message, retry_after=5.0)

    def _refuse_if_shared(self, namespace: str) -> None:
        """A namespace takes along all that is in it."""
        for kind in (*RUN_KINDS, "PersistentVolumeClaim"):
            selector = names.foreign_selector(self._config.installation)
            for item in self._list(self._collection(kind, namespace), selector):
                other = item["metadata"]["labels"][names.INSTALLATION]
                message = f"it holds {kind} {item['metadata']['name']} of the installation {other}"
                raise PermanentFault(Cause.REJECTED, message)

    def _belongs_to(self, found: Object, ref: RunRef | GroupRef) -> bool:
        """Whether an object still bears the labels of what it was taken for."""
        labels = found["metadata"].get("labels") or {}
        installation = self._config.installation
        if isinstance(ref, RunRef):
            wanted = names.run_labels(ref, installation)
        else:
            wanted = names.group_labels(ref, installation)
        return all(labels.get(key) == value for key, value in wanted.items())

    def _list(self, path: str, selector: str) -> Iterator[Object]:
        """The objects of a collection, page by page, but for those that are being deleted."""
        query = {"labelSelector": selector, "limit": "500"}
        while True:
            page = self._api.get(path, **query)
            yield from (item for item in page["items"] if not _is_terminating(item))
            if not (more := page["metadata"].get("continue")):
                return
            query["continue"] = more

    def _collection(self, kind: str, namespace: str = "") -> str:
        """The path of all objects of a kind: in a namespace, or in every one that this installation uses."""
        api, plural = KINDS[kind]
        namespace = namespace or self._config.shared_namespace
        everywhere = not namespace or kind in CLUSTER_SCOPED
        return f"{api}/{plural}" if everywhere else f"{api}/namespaces/{namespace}/{plural}"


def _resource(ref: RunRef | GroupRef, kind: str, item: Object) -> OwnedResource:
    metadata = item["metadata"]
    return OwnedResource(ref, kind, metadata["name"], metadata.get("namespace", ""))


def _is_terminating(item: Object) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


def _is_job_finished(job: Object) -> bool:
    """Whether a Job will make no pod any more."""
    conditions = job.get("status", {}).get("conditions") or ()
    over = any(each["type"] in OVER and each.get("status") == "True" for each in conditions)
    return over or bool(job["spec"].get("suspend"))


def _is_pod_finished(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ENDED
