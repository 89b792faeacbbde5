"""What a proof needs while it runs, deleted afterwards: profiles, a secret, a mount, egress rules, two groups."""

import base64
import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from egress_policy import rules
from egress_policy.models import EgressRequest, EgressRule
from groups.choices import Contract, MountKind, MountState, Provider, SecretKind
from groups.models import AgentGroup, AgentProfile, BrokeredKey, GroupMount, MountRoot, SecretReference
from isolation.discovery import Cluster
from k8s_adapter.client import Conflict, NotFound
from runtimes.base import GroupRef, GroupSpec, Runtime
from sessions.cleanup import deleted_groups
from sessions.lifecycle import namespaces

BY = "manage.py prove_isolation"
NAME = "isolation-proof"  # of the Secret, the claim and the rows for them
FILE, MOUNT = "proof", "proof"
MEMORY_MIB = 1024  # more than the scratch that the agent fills
MINUTES = 15  # of the rules, should nobody withdraw them
BOUND_SECONDS = 5.0


@contextmanager
def profile(slug: str, secret: bool) -> Iterator[AgentProfile]:
    """The profile of the hostile agent, or of its neighbour; active for as long as it is needed."""
    fields = {
        "description": f"Attacks what isolates groups, for {BY}. Switched off otherwise.",
        "contract": Contract.JSONL,
        "image": settings.WORKBENCH_IMAGE,
        "command": ["python3", "-m", "isolation.attacks.agent"],
        "environment": {"PYTHONPATH": "/opt/berth"},
        "secrets": {FILE: f"ref:{NAME}"} if secret else {},
        "memory_mib": MEMORY_MIB if secret else 128,
        "active": True,
    }
    made = AgentProfile.objects.update_or_create(slug=slug, defaults=fields)[0]
    try:
        yield made
    finally:
        made.active = False
        made.save(update_fields=["active"])


@contextmanager
def groups(slugs: list[str], keep: bool) -> Iterator[tuple[AgentGroup, AgentGroup]]:
    """Two groups: those that are named, or new ones, which are deleted afterwards unless they are to be kept."""
    if slugs:
        found = [AgentGroup.objects.get(slug=slug) for slug in slugs]
        yield found[0], found[1]
        return
    mark = secrets.token_hex(4)
    made = [
        AgentGroup.objects.create(slug=f"proof-{letter}-{mark}", name=f"Proof of isolation, {letter} ({mark})")
        for letter in "ab"
    ]
    try:
        yield made[0], made[1]
    finally:
        for group in made if not keep else []:
            deleted_groups.delete_group(group, by=BY)


class Fixtures:
    """Makes what a proof needs; all of it is deleted at the end of `with`, unless `keep`."""

    def __init__(self, runtime: Runtime, cluster: Cluster, group: AgentGroup, keep: bool) -> None:
        self.runtime, self.cluster, self.group, self.keep = runtime, cluster, group, keep
        self._cleanup = ExitStack()

    def __enter__(self) -> "Fixtures":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            self._cleanup.close()

    def ensure_namespace(self) -> None:
        """The group's namespace, in which the rest is made."""
        group = self.group
        ref = GroupRef(str(group.pk), group.slug)
        self.runtime.sync_namespace(GroupSpec(ref, group.storage_gib, namespaces.quota(group)))

    def secret(self, owner: AgentProfile) -> str:
        """A secret with a new value, granted to the group and the profile. Returns the SHA-256 of the value."""
        value = secrets.token_urlsafe(32).encode()
        path = f"/api/v1/namespaces/{self.cluster.namespace(self.group)}/secrets"
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": NAME},
            "data": {FILE: base64.b64encode(value).decode()},
        }
        self.cluster.api.delete(f"{path}/{NAME}")  # of a proof that was cut short
        self.cluster.api.create(path, body)
        source = {"kind": SecretKind.KUBERNETES, "place": f"{NAME}/{FILE}", "description": f"Made by {BY}."}
        reference, _ = SecretReference.objects.update_or_create(name=NAME, defaults=source)
        reference.profiles.add(owner)
        reference.groups.add(self.group)
        self._cleanup.callback(lambda: self.cluster.api.delete(f"{path}/{NAME}"))
        self._cleanup.callback(lambda: reference.groups.remove(self.group))
        return hashlib.sha256(value).hexdigest()

    def key(self, owner: AgentProfile, url: str) -> str:
        """A brokered key for a provider at `url`; needs `secret`. Returns the file name of its stand-in."""
        reference = SecretReference.objects.get(name=NAME)
        made, _ = BrokeredKey.objects.update_or_create(
            provider=Provider.ANTHROPIC,
            group=self.group,
            profile=owner,
            defaults={"reference": reference, "base_url": url, "active": True},
        )
        self._cleanup.callback(made.delete)
        return made.file_name

    def mount(self) -> str:
        """A claim of the group's, mounted read-only. Returns its name under /workspace/extra."""
        path = f"/api/v1/namespaces/{self.cluster.namespace(self.group)}/persistentvolumeclaims"
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        if settings.K8S_STORAGE_CLASS:
            spec["storageClassName"] = settings.K8S_STORAGE_CLASS
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": NAME}, "spec": spec}
        with suppress(Conflict):  # of a proof that was cut short
            self.cluster.api.create(path, body)
        self._wait_for_volume(f"{path}/{NAME}")
        source = {"kind": MountKind.CLAIM, "place": NAME, "description": f"Made by {BY}.", "read_write": False}
        root, _ = MountRoot.objects.update_or_create(name=NAME, defaults=source)
        fields = {"root": root, "path": ".", "read_write": False, "state": MountState.APPROVED, "decision": BY}
        mount, _ = GroupMount.objects.update_or_create(group=self.group, name=MOUNT, defaults=fields)
        self._cleanup.callback(lambda: self.cluster.api.delete(f"{path}/{NAME}"))
        self._cleanup.callback(mount.delete)
        return MOUNT

    def delete_denials(self, owner: AgentProfile) -> None:
        """Delete, at the end, the requests for access that come of the agent's refused attempts."""
        requests = EgressRequest.objects.filter(group=self.group, profile=owner)
        self._cleanup.callback(lambda: requests.delete())

    def allow(self, host: str, port: int) -> None:
        """A rule for the group, for some minutes at most."""
        until = timezone.now() + timedelta(minutes=MINUTES)
        rule = EgressRule(host=host, ports=[port], group=self.group, until=until, reason=BY)
        rules.store(rule, by=BY)
        self._cleanup.callback(lambda: rules.withdraw(rule, by=BY))

    def _wait_for_volume(self, path: str) -> None:
        """A pod on a claim that is not bound yet starts late; some claims are bound only by a pod."""
        end = time.monotonic() + BOUND_SECONDS
        while time.monotonic() < end:
            try:
                if self.cluster.api.get(path)["status"].get("phase") == "Bound":
                    return
            except NotFound:
                return
            time.sleep(0.1)
