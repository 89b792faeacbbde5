"""Secrets, from the reference to the file that an agent reads, and their change while it lives."""

import base64
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.stack import Stack
from testbed.waiting import wait_for
from tests import images
from tests.whole.conftest import PRODUCTION

VALUES = {"BERTH_SECRET_WHOLE": f"value-{uuid.uuid4().hex}"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An embedded stack whose control plane has secrets for agents, and its own."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "agents").mkdir()
    stack = Stack.embedded(folder, SECRETS_FOLDER=str(folder / "agents"), **VALUES)
    try:
        yield stack.up()
    finally:
        stack.down()


def test_an_agent_reads_its_secret_and_its_change(stack: Stack) -> None:
    file = Path(stack.env["SECRETS_FOLDER"]) / "key"
    file.write_text("first")
    profile = stack.profile("renewed", secrets={"key": "ref:renewed", "other": "ref:fixed"})
    stack.secret("renewed", "file", str(file), profile)
    stack.secret("fixed", "env", "BERTH_SECRET_WHOLE", profile)
    length = "wc -c < $BERTH_SECRETS/key"  # of the value: that itself may be redacted on its way
    session = stack.open(f"$ {length}; ls $BERTH_SECRETS", profile=profile)
    first = stack.wait_result(session)
    assert "5" in first["text"].split() and "other" in first["text"]
    file.write_text("the second value")

    def seen() -> bool:
        after = stack.events(session)[-1]["seq"]
        stack.send(session, f"$ {length}")
        return "16" in str(stack.wait_result(session, after=after)["text"]).split()

    wait_for(seen, 60, "the new value; a run is looked at every 15 s")
    assert len(stack.session(session)["runs"]) == 1
    stack.post(f"sessions/{session}/stop")
    told = stack.log.read_text(errors="replace") + str(stack.events(session))
    assert VALUES["BERTH_SECRET_WHOLE"] not in told and "the second value" not in told


def test_what_an_agent_prints_of_its_secrets_is_taken_out(stack: Stack) -> None:
    profile = stack.profile("talker", secrets={"key": "ref:talked-of"})
    stack.secret("talked-of", "env", "BERTH_SECRET_WHOLE", profile)
    must_be_hidden(stack, profile, VALUES["BERTH_SECRET_WHOLE"])


def must_be_hidden(stack: Stack, profile: str, value: str) -> None:
    """An agent that prints its secret, whole, in pieces and encoded: nothing of it is stored, shown or logged."""
    ways = (
        "cat $BERTH_SECRETS/key",
        "head -c 20 $BERTH_SECRETS/key; sleep 0.3; tail -c +21 $BERTH_SECRETS/key",
        "printf 'user:%s' $(cat $BERTH_SECRETS/key) | base64 -w 20",
        "od -An -v -tx1 $BERTH_SECRETS/key | tr -d ' \\n'",
    )
    session = stack.open(f"$ {'; echo; '.join(ways)}; echo; echo done", profile=profile)
    assert "done" in str(stack.wait_result(session, 120)["text"])
    told = stack.log.read_text(errors="replace") + str(stack.events(session))
    rows = "from sessions.models import Event\nfor e in Event.objects.all(): print(e.text, e.data)"
    told += stack.python(rows)
    encoded = base64.b64encode(f"user:{value}".encode()).decode()
    for form in (value, value[:20], value[-20:], value.encode().hex(), encoded[16:48]):
        assert form not in told.replace("\n", "").replace("\\n", ""), form
    assert told.count("[redacted:key]") >= len(ways)
    stack.post(f"sessions/{session}/stop")


@pytest.mark.parametrize(
    ("kind", "place", "words"),
    [
        ("env", "SECRET_KEY", "only BERTH_SECRET_"),
        ("file", "/etc/passwd", "is not in"),
        ("env", "BERTH_SECRET_NONE", "no environment variable BERTH_SECRET_NONE"),
        ("kubernetes", "keys/api", "this runtime has none"),
    ],
)
def test_what_may_not_be_read_stops_the_start(stack: Stack, kind: str, place: str, words: str) -> None:
    name = f"bad-{uuid.uuid4().hex[:6]}"
    profile = stack.profile(name, secrets={"key": f"ref:{name}"})
    stack.secret(name, kind, place, profile)
    session = stack.open("hello", profile=profile)
    run = stack.wait_verdict(session)
    assert run["verdict"] == "mount" and words in run["verdict_words"]
    stack.post(f"sessions/{session}/stop")


# --- on a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vault() -> Iterator[tuple[str, str]]:
    """A namespace of operators, with a secret; its name and the secret's value."""
    name, value = f"vault-{uuid.uuid4().hex[:8]}", f"value-{uuid.uuid4().hex}"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "model"}, "stringData": {"key": value}}
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    create = ["kubectl", "create", "-n", name, "-f", "-"]
    subprocess.run(create, input=json.dumps(secret), text=True, check=True, capture_output=True)
    yield name, value
    subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, vault: tuple[str, str]) -> Iterator[Stack]:
    """PostgreSQL, Redis and Kubernetes, where secrets may be copied from the operators' namespace."""
    for name in ("courier", "workbench"):
        images.build(name)
    stack = Stack.production(tmp_path_factory.mktemp("vault"), K8S_SECRETS_NAMESPACES=vault[0])
    try:
        yield stack.up()
    finally:
        stack.down()


class TestCluster:
    pytestmark = list(PRODUCTION)

    def test_a_secret_is_copied_from_the_operators_and_taken_out_of_what_is_said(
        self, production: Stack, vault: tuple[str, str]
    ) -> None:
        profile = production.profile("copied", secrets={"key": "ref:copied"})
        production.secret("copied", "operators", f"{vault[0]}/model/key", profile)
        must_be_hidden(production, profile, vault[1])
