"""Mounts, from the request to the agent that reads them."""

import json
import subprocess
from pathlib import Path

from testbed.stack import Stack
from tests.whole.conftest import PRODUCTION

MOUNT = """
from groups.models import *
root, _ = MountRoot.objects.get_or_create(name={root!r}, defaults=dict(kind={kind!r}, place={place!r}, read_write=True))
group = AgentGroup.objects.get(slug={group!r})
fields = dict(path={path!r}, read_write={write!r}, state="approved")
GroupMount.objects.update_or_create(group=group, name={name!r}, defaults=dict(root=root, **fields))
"""


def mount(stack: Stack, group: str, root: str, kind: str, place: str, path: str, write: bool = False) -> None:
    """Let a group have a mount `data`, approved."""
    stack.python(MOUNT.format(root=root, kind=kind, place=place, group=group, path=path, name="data", write=write))


def answer(stack: Stack, command: str, group: str) -> str:
    """What the agent's shell printed."""
    session = stack.open(f"$ {command}", group)
    result = stack.wait_result(session)
    stack.post(f"sessions/{session}/stop")
    stack.wait_verdict(session)
    return str(result["text"])


def test_an_agent_reads_what_was_approved_and_a_link_that_is_turned_stops_the_next_start(
    embedded: Stack, tmp_path: Path
) -> None:
    (tmp_path / "shared/data").mkdir(parents=True)
    (tmp_path / "shared/data/tide").write_text("high at noon")
    group = embedded.group()
    mount(embedded, group, f"r-{group}", "folder", str(tmp_path / "shared"), "data")
    assert "high at noon" in answer(embedded, "cat $BERTH_EXTRA/data/tide", group)
    assert json.loads(embedded.manage("check_mounts", "--json", "--group", group))[0]["ok"]

    (tmp_path / "shared/data").rename(tmp_path / "away")
    (tmp_path / "shared/data").symlink_to(tmp_path / "away")
    session = embedded.open("hello", group)
    run = embedded.wait_verdict(session)
    assert run["verdict"] == "mount" and "mount 'data': data leads out of the root" in run["verdict_words"]
    assert "data leads out of the root" in embedded.session(session)["reason"]


class TestCluster:
    """A claim on the test cluster: what the form can't know is looked at by a container before the agent starts."""

    pytestmark = list(PRODUCTION)

    def claim(self, production: Stack, group: str) -> None:
        """Make the claim `team-data` in a group's namespace, with folders and links in it."""
        namespace = f"berth-{group}"
        first = production.open("hello", group)  # makes the namespace
        production.wait_result(first)
        production.post(f"sessions/{first}/stop")
        production.wait_verdict(first)
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "team-data", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        subprocess.run(
            ["kubectl", "apply", "-f", "-"], input=json.dumps(claim), text=True, check=True, env=production.env
        )
        mount(production, group, "team", "claim", "team-data", ".", write=True)
        production.python(
            f"from groups.models import *; AgentGroup.objects.filter(slug={group!r}).update(writes_mounts=True)"
        )
        fill = "mkdir -p in .ssh && echo high at noon > in/tide && ln -s /etc out && ln -s .ssh keys && ls"
        assert "keys" in answer(production, f"cd $BERTH_EXTRA/data && {fill}", group)

    def test_a_claim_is_mounted_as_it_was_approved(self, production: Stack) -> None:
        group = production.group()
        self.claim(production, group)
        mount(production, group, "team", "claim", "team-data", "in")
        told = answer(
            production, "cat /workspace/extra/data/tide; touch /workspace/extra/data/x || echo read-only", group
        )
        assert "high at noon" in told and "read-only" in told

        for path, words in (("out", "leads out"), ("keys", ".ssh"), ("gone", "can't be found")):
            mount(production, group, "team", "claim", "team-data", path)
            session = production.open("hello", group)
            run = production.wait_verdict(session, 120)
            assert run["verdict"] == "mount" and "'data'" in run["verdict_words"] and words in run["verdict_words"]
            production.post(f"sessions/{session}/stop")
