"""`manage.py prove_isolation` on the cluster, where it must find nothing, and with a hole, which it must name."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from testbed.stack import ROOT, Stack, free_port
from tests import images
from tests.whole import outside
from tests.whole.conftest import LIMITS, PRODUCTION

pytestmark = list(PRODUCTION)
# What this cluster can't enforce, or whether it does can't be seen: tests/README of the cluster says why.
NOT_ENFORCED = {"volume", "tasks"}


class World:
    """A stack with all that an agent may and may not reach."""

    def __init__(self, folder: Any) -> None:
        token, port, health = uuid.uuid4().hex * 2, free_port(), free_port()
        egress = {"EGRESS_TOKEN": token, "EGRESS_PROXY_URL": f"http://{outside.NODE}:{port}"}
        self.stack = Stack.production(folder, **LIMITS, **egress)
        database = urlsplit(self.stack.env["DATABASE_URL"])
        self.way = outside.Way(database.port or 5432)
        user = database.netloc.rpartition("@")[0]
        self.stack.env["DATABASE_URL"] = database._replace(netloc=f"{user}@{outside.NODE}:{self.way.port}").geturl()
        redis = urlsplit(self.stack.env["REDIS_URL"])
        self.to_redis = outside.Way(redis.port or 6379)
        self.stack.env["REDIS_URL"] = redis._replace(netloc=f"{outside.NODE}:{self.to_redis.port}").geturl()
        self.site = outside.Site(folder)
        self.proxy: outside.Proxy | None = None
        try:
            self.stack.up()
            self.proxy = outside.Proxy(folder, self.stack.base, token, port, health)
            self.groups = [self.stack.group(), self.stack.group()]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all of it."""
        if self.proxy:
            self.proxy.close()
        self.stack.down()
        self.site.close()
        self.way.close()
        self.to_redis.close()

    def prove(self) -> tuple[int, dict[str, Any]]:
        """Make a proof; its exit status and its report."""
        s3 = urlsplit(os.environ.get("TEST_S3_ENDPOINT_URL", f"http://{outside.NODE}:7070"))
        words = [word for group in self.groups for word in ("--group", group)]
        words += ["--json", "--allowed-host", f"{outside.ALLOWED}:{self.site.port}", "--store", f"S3={s3.netloc}"]
        for kind in ("private", "cname", "rebinding"):
            words += ["--trick", f"{kind}={getattr(outside, kind.upper())}"]
        command = [sys.executable, "manage.py", "prove_isolation", *words]
        done = subprocess.run(command, cwd=ROOT, env=self.stack.env, capture_output=True, text=True, timeout=280)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for both tests."""
    for name in ("courier", "workbench"):
        images.build(name)
    made = World(tmp_path_factory.mktemp("isolation"))
    try:
        yield made
    finally:
        made.close()


def told(report: dict[str, Any], verdict: str) -> dict[str, str]:
    """The checks of a verdict, with what happened."""
    return {row["check"]: row["detail"] for row in report["rows"] if row["verdict"] == verdict}


def test_a_hostile_agent_gets_nothing_but_its_own(world: World) -> None:
    status, report = world.prove()
    assert told(report, "failed") == {}
    assert set(told(report, "untested")) <= NOT_ENFORCED, told(report, "untested")
    assert (status, report["verdict"], report["unknown"]) == (0, "passed", [])
    passed = told(report, "passed")
    assert "none missing" in passed["neighbour-undisturbed"]
    assert len(passed) + len(NOT_ENFORCED) >= len(report["rows"])
    page = f"{world.stack.base}/admin/isolation/proof/{report['id']}/change/"
    cookie = {"Cookie": world.stack.cookies()}
    shown = requests.get(page, headers=cookie, timeout=10)
    assert shown.status_code == 200 and 'data-check="neighbour-volume"' in shown.text
    left = world.stack.python(
        "from groups.models import AgentProfile, GroupMount\n"
        "from egress_policy.models import EgressRequest, EgressRule\n"
        "print(AgentProfile.objects.filter(slug__startswith='hostile', active=True).count(),"
        " GroupMount.objects.count(), EgressRule.objects.count(), EgressRequest.objects.count())"
    )
    assert left.split() == ["0"] * 4


def test_a_hole_in_the_network_is_named(world: World) -> None:
    """A policy that somebody adds opens what the group's own ones close, and is none of Berth's to take away."""
    inside = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "hole"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": inside}]},
    }
    world.stack.python(
        "from kubernetes import client, config\n"
        "config.load_kube_config()\n"
        f"client.NetworkingV1Api().create_namespaced_network_policy('berth-{world.groups[0]}', {policy!r})"
    )
    status, report = world.prove()
    failed = told(report, "failed")
    assert (status, report["verdict"]) == (1, "failed")
    for check in ("api-node", "kubelet", "other-port", "canary", "store-postgresql", "store-redis", "store-s3"):
        assert check in failed, (check, report["rows"])
    assert "connected" in failed["kubelet"]
    # The neighbour lets nobody in, whoever may go out.
    assert not {check for check in failed if check.startswith(("neighbour", "own"))}
