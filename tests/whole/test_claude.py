"""The unmodified Claude Code CLI in a Job, against a stand-in for the model."""

import os
from collections.abc import Iterator

import pytest

from testbed.stack import Stack
from tests import images
from tests.whole.conftest import PRODUCTION

pytestmark = [*PRODUCTION, pytest.mark.model, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def profile(production: Stack, model: int) -> Iterator[str]:
    """A profile for Claude Code, with its key as a Secret in the group's namespace."""
    image = images.build("claude")
    first = production.open("hello")  # makes the group's namespace
    production.wait_result(first)
    production.post(f"sessions/{first}/stop")
    production.python(
        "from kubernetes import client, config\n"
        "config.load_kube_config()\n"
        "secret = {'metadata': {'name': 'model-key'}, 'stringData': {'api-key': 'made-up-key'}}\n"
        f"client.CoreV1Api().create_namespaced_secret('berth-{production.tenant}', secret)"
    )
    # The stand-in is no host that the egress proxy could lead to: a hole in the group's walls, for it alone.
    to = [{"ipBlock": {"cidr": f"{os.environ['TEST_NODE_IP']}/32"}}]
    policy = {
        "metadata": {"name": "model"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [{"to": to, "ports": [{"protocol": "TCP", "port": model}]}],
        },
    }
    production.python(
        "from kubernetes import client, config\n"
        "config.load_kube_config()\n"
        f"client.NetworkingV1Api().create_namespaced_network_policy('berth-{production.tenant}', {policy!r})"
    )
    made = production.profile(
        "claude",
        contract="claude",
        image=image,
        command=["berth-claude"],
        state_folder="/home/node/.claude",
        memory_mib=1024,
        environment={"ANTHROPIC_BASE_URL": f"http://{os.environ['TEST_NODE_IP']}:{model}"},
        secrets={"anthropic-api-key": "ref:model-key"},
    )
    production.secret("model-key", "kubernetes", "model-key/api-key", made)
    yield made


def test_claude_uses_tools_follows_up_and_resumes(production: Stack, profile: str) -> None:
    session = production.open("!bash echo hi > /workspace/group/x", profile=profile)
    first = production.wait_result(session, 120)
    assert first["text"].startswith("tool said:")
    production.wait_state(session, "waiting")
    tools = [e for e in production.events(session) if e["kind"] == "tool"]
    assert [e["data"]["phase"] for e in tools] == ["use", "result"]
    assert tools[0]["text"] == "Bash" and tools[0]["data"]["input"]["command"] == "echo hi > /workspace/group/x"

    production.send(session, "!bash cat /workspace/group/x")
    second = production.wait_result(session, after=first["seq"])
    assert second["text"] == "tool said: hi"
    assert len(production.session(session)["runs"]) == 1

    production.post(f"sessions/{session}/close")
    assert production.wait_verdict(session)["verdict"] == "closed"
    production.send(session, "!say still here")
    third = production.wait_result(session, 120, after=second["seq"])
    assert third["text"] == "still here"
    ids = {e["data"]["id"] for e in production.events(session) if e["kind"] == "session"}
    assert len(production.session(session)["runs"]) == 2 and len(ids) == 1
    assert any(e["kind"] == "usage" for e in production.events(session))
    production.post(f"sessions/{session}/stop")


def test_the_key_is_nowhere_but_in_its_file(production: Stack, profile: str) -> None:
    session = production.open("!bash env; cat /proc/self/environ | tr '\\\\0' '\\\\n'", profile=profile)
    production.wait_result(session, 120)
    assert "made-up-key" not in str(production.events(session))
    production.post(f"sessions/{session}/stop")
