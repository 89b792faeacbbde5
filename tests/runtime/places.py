"""The places that the contract suite runs in: a runtime, and what a test must reach around it."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from k8s_adapter import names
from k8s_adapter.client import Api
from k8s_adapter.config import KubernetesConfig, pod_selector
from k8s_adapter.runtime import KubernetesRuntime
from runtimes.base import Resources, RunRef, RunSpec, Runtime
from runtimes.local import processes
from runtimes.local.runtime import LocalRuntime
from runtimes.secret_sources import AllowedSources
from tests.runtime.home import Home, Line

IMAGE = "registry.local/python:3.13"
STATE_FOLDER = "/home/node/.state"


class Crash(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


class Place:
    """What the two have in common: a group of its own, and specs for its runs."""

    name: str
    runtime: Runtime
    host: str

    def __init__(self, home: Home) -> None:
        self.home = home
        self.slug = f"test-{uuid.uuid4().hex[:8]}"
        self.group = str(uuid.uuid4())
        self.session = str(uuid.uuid4())

    def spec(self, script: str, *messages: str, **changes: Any) -> tuple[RunSpec, Line]:
        """A run of the shell script `script`, and its line home."""
        ref = RunRef(str(uuid.uuid4()), self.session, self.group, self.slug)
        spec = RunSpec(
            ref=ref,
            number=1,
            image=IMAGE,
            command=("sh", "-c", script),
            contract="jsonl",
            courier_url=f"http://{self.host}:{self.home.port}",
            token=f"token-of-{ref.run}",
            state_folder=STATE_FOLDER,
            resources=Resources(cpu_millis=50, memory_mib=64, scratch_mib=16),
            deadline_seconds=300,
            stop_grace_seconds=2,
            storage_gib=1,
        )
        return replace(spec, **changes), self.home.expect(ref.run, spec.token, *messages)

    def courier(self, ref: RunRef) -> psutil.Process | None:
        """The run's courier. A test cluster's node is this machine, so its processes are seen from here."""
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get("BERTH_RUN") == ref.run and "BERTH_TOKEN_FILE" in environment:
                    return process
            except psutil.Error:
                continue
        return None

    def other_process(self) -> Runtime:
        """The same runtime, as another process would have it: with nothing in memory."""
        raise NotImplementedError

    def crash_after(self, step: int) -> Any:
        """A context in which `ensure` is killed after its `step`th step."""
        raise NotImplementedError

    def put_secret(self, name: str, key: str, value: str) -> str:
        """Keep a secret where this runtime can read it, and return its source."""
        raise NotImplementedError

    def leftovers(self, ref: RunRef) -> list[str]:
        """All that exists of a run but its group's."""
        raise NotImplementedError

    def clean(self) -> None:
        """Remove the group and all of it."""


class LocalPlace(Place):
    name = "local"
    host = "127.0.0.1"

    def __init__(self, home: Home, data: Path) -> None:
        super().__init__(home)
        self.data = data
        self.runtime = self.other_process()

    def other_process(self) -> Runtime:
        return LocalRuntime(self.data, "test", secrets=AllowedSources(folder=str(self.data)))

    def crash_after(self, step: int) -> Any:
        real = processes.start
        return mock.patch.object(processes, "start", _crashing(real, step - 1))  # the first step is the folder

    def put_secret(self, name: str, key: str, value: str) -> str:
        path = self.data / f"{name}-{key}"
        path.write_text(value)
        return f"file:{path}"

    def leftovers(self, ref: RunRef) -> list[str]:
        run = self.data / "runs" / ref.run
        files = [str(each) for each in run.parent.glob(f"{ref.run}*")]
        return files + [str(process) for process, _ in processes.iter_marked(str(run))]

    def clean(self) -> None:
        for ref in self.runtime.runs():
            self.runtime.destroy(ref)


class KubernetesPlace(Place):
    name = "kubernetes"

    def __init__(self, home: Home, courier_image: str) -> None:
        super().__init__(home)
        self.host = os.environ["TEST_NODE_IP"]
        self.config = KubernetesConfig(
            installation=f"i-{self.slug}",
            courier_image=courier_image,
            courier_url=f"http://{self.host}:{home.port}",
            dns=pod_selector("kube-system/k8s-app=kube-dns:53"),
        )
        self.runtime = KubernetesRuntime(self.config)
        self.namespace = names.namespace(self.slug)

    def other_process(self) -> Runtime:
        return KubernetesRuntime(self.config)

    def crash_after(self, step: int) -> Any:
        self.make_ground()
        return mock.patch.object(Api, "_call", _crashing(Api._call, step, lambda method: method != "GET"))

    def make_ground(self) -> None:
        """Make the group's berth, as an earlier run would have."""
        spec, _ = self.spec("true")
        self.runtime.sync_namespace(spec.group)

    def put_secret(self, name: str, key: str, value: str) -> str:
        self.make_ground()
        kubectl("create", "secret", "generic", name, f"--from-literal={key}={value}", "-n", self.namespace)
        return f"kubernetes:{name}/{key}"

    def leftovers(self, ref: RunRef) -> list[str]:
        label = f"{names.RUN}={ref.run}"
        return kubectl("get", "jobs,pods,secrets", "-n", self.namespace, "-l", label, "-o", "name").split()

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind in the group's namespace."""
        items: list[dict[str, Any]] = json.loads(kubectl("get", kind, "-n", self.namespace, "-o", "json"))["items"]
        return items

    def clean(self) -> None:
        kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")
        kubectl("delete", "pods", "--all", "-n", self.namespace, "--grace-period=1", "--wait=false")


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed."""
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _crashing(
    real: Callable[..., Any], calls: int, counts: Callable[[str], bool] = lambda method: True
) -> Callable[..., Any]:
    """Wrap a function, or a method whose first argument decides what `counts`: after `calls` calls, everything ends."""
    left = [calls]

    def call(*arguments: Any, **options: Any) -> Any:
        if counts(arguments[1] if len(arguments) > 1 else ""):
            if left[0] == 0:
                raise Crash
            left[0] -= 1
        return real(*arguments, **options)

    return call
