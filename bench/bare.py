"""Bare Jobs with the shape of a run's, made without Berth: the floors of what Berth does with runs."""

import dataclasses
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from bench.harness import Manifest, cluster, django, pod_log
from k8s_adapter import manifests, names
from k8s_adapter.config import KubernetesConfig
from runtimes.base import PodOptions, Quota, Resources, RunRef, RunSpec
from testbed.stack import Stack
from testbed.waiting import wait_for

SLEEP = ["sh", "-c", "trap exit TERM; sleep 3600 & wait"]
SPEC = """
import dataclasses
from django.conf import settings
from sessions.lifecycle import run_spec
from sessions.models import Run
built = run_spec.build(Run.objects.filter(session="{session}").latest("number"))
result = [settings.COURIER_IMAGE, dataclasses.asdict(built)]
"""


class BareJobs:
    """Starts Jobs with the manifest of a session's last run, its courier asleep and its agent another command."""

    def __init__(self, stack: Stack, session: str, command: list[str]) -> None:
        image, fields = django(stack, SPEC.format(session=session))
        fields |= {"ref": RunRef(**fields["ref"]), "resources": Resources(**fields["resources"])}
        fields |= {"pod": PodOptions(**fields["pod"]), "quota": Quota(**fields["quota"])}
        fields |= {"command": tuple(fields["command"]), "secrets": (), "mounts": (), "project": None, "egress": None}
        self.spec, self.command = RunSpec(**fields), command
        # An installation of its own: to the stack's watcher they would be orphans.
        self.config = KubernetesConfig(installation=f"bare-{uuid.uuid4().hex[:8]}", courier_image=image)
        self.api = cluster()

    @contextmanager
    def job(self) -> Iterator[tuple[float, Manifest]]:
        """A Job, removed at the end with all of it: (the time before the call that made it, the Job)."""
        ref = dataclasses.replace(self.spec.ref, run=str(uuid.uuid4()), session=str(uuid.uuid4()))
        spec = dataclasses.replace(self.spec, ref=ref)
        job = manifests.make_job(spec, self.config)
        pod = job["spec"]["template"]["spec"]
        pod["containers"][0]["command"], pod["initContainers"][0]["command"] = self.command, SLEEP
        namespace = job["metadata"]["namespace"]
        secrets, jobs = f"/api/v1/namespaces/{namespace}/secrets", f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.api.create(secrets, manifests.make_secret(spec, {}, self.config))
        try:
            called = time.time()
            yield called, self.api.create(jobs, job)
        finally:
            self.api.delete(f"{jobs}/{names.job(ref.run)}")
            self.api.delete(f"{secrets}/{names.secret(ref.run)}")
            wait_for(lambda: not self.pods(job), 60, f"the end of {names.job(ref.run)}")

    def pods(self, job: Manifest) -> list[Manifest]:
        """The Job's pods."""
        selector = names.selector(self.config.installation, job["metadata"]["labels"][names.RUN])
        path = f"/api/v1/namespaces/{job['metadata']['namespace']}/pods"
        items: list[Manifest] = self.api.get(path, labelSelector=selector)["items"]
        return items

    def output(self, job: Manifest) -> Iterator[str]:
        """The lines of the Job's agent, as they come, from its start to its end."""
        pod = wait_for(lambda: next(filter(_started, self.pods(job)), {}), 60, "the agent's start")
        yield from pod_log(job["metadata"]["namespace"], pod["metadata"]["name"], follow=True)


def _started(pod: Manifest) -> bool:
    """Whether the agent's container has started, and may have ended."""
    return any("waiting" not in status["state"] for status in pod["status"].get("containerStatuses", []))
