"""The way out of a pod: the proxies as `deploy/egress.yaml` makes them, and the network policies around them."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.stack import ROOT, Stack
from testbed.waiting import wait_for
from tests import images
from tests.whole.conftest import LIMITS, PRODUCTION
from tests.whole.test_egress import Admin, Site

pytestmark = list(PRODUCTION)
HOST = "site.test"


def kubectl(*words: str, text: str = "") -> str:
    """Run kubectl; return its standard output."""
    done = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def objects(stack: Stack, node: str) -> list[dict[str, Any]]:
    """The file's objects, with what this test needs: its control plane and site are outside the cluster."""
    found = list(yaml.safe_load_all((ROOT / "deploy" / "egress.yaml").read_text()))
    for each in found:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            changed = {"BERTH_URL": f"http://{node}:{stack.port}", "EGRESS_EXCEPTIONS": f"{HOST}={node}"}
            for variable in pod["containers"][0]["env"]:
                variable["value"] = changed.get(variable["name"], variable["value"])
            pod["hostAliases"] = [{"ip": node, "hostnames": [HOST]}]
        if each["kind"] == "NetworkPolicy":
            each["spec"]["egress"].append({"to": [{"ipBlock": {"cidr": f"{node}/32"}}]})
    return found


class Cluster:
    """A production stack, proxies in a namespace of their own, and a site on the node."""

    def __init__(self, folder: Path) -> None:
        self.node, self.namespace = os.environ["TEST_NODE_IP"], f"egress-{uuid.uuid4().hex[:8]}"
        token = uuid.uuid4().hex * 2
        self.site = Site(folder, host="0.0.0.0")
        self.place = f"{HOST}:{self.site.port}"
        self.stack = Stack.production(folder, **LIMITS, EGRESS_TOKEN=token)
        try:
            kubectl("create", "namespace", self.namespace)
            label = "pod-security.kubernetes.io/enforce=restricted"
            kubectl("label", "namespace", self.namespace, label)
            kubectl(
                "create", "secret", "generic", "berth-egress", "-n", self.namespace, f"--from-literal=token={token}"
            )
            given = yaml.safe_dump_all(objects(self.stack, self.node))
            kubectl("apply", "-n", self.namespace, "-f", "-", text=given)
            service = json.loads(kubectl("get", "service", "berth-egress", "-n", self.namespace, "-o", "json"))
            self.stack.env["EGRESS_PROXY_URL"] = f"http://{service['spec']['clusterIP']}:3128"
            selector = f"{self.namespace}/app.kubernetes.io/name=berth-egress:3128"
            self.stack.env["K8S_EGRESS_SELECTOR"] = selector
            self.stack.up()
            self.admin = Admin(self.stack)
            kubectl("rollout", "status", "deployment/berth-egress", "-n", self.namespace, "--timeout=120s")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove all of it."""
        self.stack.down()
        self.site.close()
        subprocess.run(["kubectl", "delete", "namespace", self.namespace, "--wait=false"], check=False)

    def tries(self, session: str, path: str = "/") -> str:
        """What the agent's next try tells. Its image has Python, which takes the proxy from the environment."""
        after = self.stack.session(session)["last_seq"]
        self.stack.send(session, script(f"https://{self.place}{path}"))
        return str(self.stack.wait_result(session, after=after)["text"])


def script(url: str) -> str:
    """What an agent is told to run."""
    code = "import ssl, sys, urllib.request as u; c = ssl._create_unverified_context(); "
    code += f"print(u.urlopen('{url}', context=c, timeout=30).read(1000000))"
    return f'$ python3 -c "{code}" 2>&1 | tail -3'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All of it, once."""
    for name in ("courier", "workbench", "egress"):
        images.build(name)
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    yield found
    found.close()


def test_a_pods_next_try_goes_through_once_it_is_approved_and_ends_when_it_is_withdrawn(world: Cluster) -> None:
    session = world.stack.open(script(f"https://{world.place}/"))
    assert "403" in world.stack.wait_result(session, 120)["text"]
    world.stack.wait_state(session, "waiting")
    row = world.admin.asked(session)
    assert (row["host"], row["port"]) == (HOST, world.site.port)
    world.admin.approve(session)
    wait_for(lambda: "the outside world" in world.tries(session), 60, "a try that goes through")

    after = world.stack.session(session)["last_seq"]
    world.stack.send(session, script(f"https://{world.place}/endless"))
    wait_for(lambda: world.site.open == 1, 30, "the tunnel")
    world.admin.withdraw()
    wait_for(lambda: world.site.open == 0, 5, "the end of the tunnel")
    world.stack.wait_result(session, after=after)
    assert "403" in world.tries(session)

    # The proxy is the one way: the site and the control plane's pages, straight at the node, are not there.
    after = world.stack.session(session)["last_seq"]
    direct = "import socket; socket.create_connection(('{}', {}), 3); print('reached')"
    places = [(world.node, world.site.port), (world.node, 22), ("1.1.1.1", 443)]
    tries = "; ".join(f'python3 -c "{direct.format(*place)}" || echo refused' for place in places)
    world.stack.send(session, f"$ ({tries}) 2>/dev/null")
    words = world.stack.wait_result(session, after=after)["text"]
    assert words.count("refused") == len(places) and "reached" not in words
    reached = world.stack.get(f"sessions/{session}/runs/1/egress")["reached"]
    assert reached[0]["host"] == HOST and reached[0]["received"] > 0
    world.stack.post(f"sessions/{session}/stop")
