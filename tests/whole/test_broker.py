"""The credential broker between a real client and a stand-in for a model: the agent never holds the key."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.stack import Stack
from tests import images
from tests.whole.conftest import LIMITS, PRODUCTION

KEY = "sk-the-real-key-4711-0815"
KEYED = """
from groups.models import *
reference = SecretReference.objects.create(name="model", kind="env", place="BERTH_SECRET_MODEL", every_group=True)
BrokeredKey.objects.create(provider="anthropic", reference=reference, base_url={url!r})
"""
# A client of the API: streams an answer, and prints the events as they come.
CLIENT = """
import json, os, time, urllib.request
key = open(os.environ["BERTH_SECRETS"] + "/anthropic-api-key").read()
said = {"role": "user", "content": "!slow 2 one two three four"}
asked = {"model": "m", "max_tokens": 10, "stream": True, "messages": [said]}
request = urllib.request.Request(
    os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(asked).encode(),
    {"x-api-key": key, "content-type": "application/json", "anthropic-version": "2023-06-01"})
times, text = [], ""
for line in urllib.request.urlopen(request):
    if line.startswith(b"data:"):
        times.append(time.monotonic())
        text += json.loads(line[5:]).get("delta", {}).get("text", "")
print("said", text, "in pieces" if times[-1] - times[0] > 1 else "at once")
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A stand-in for a model, its port and its log."""
    log = tmp_path_factory.mktemp("model") / "log"
    process = subprocess.Popen(
        [sys.executable, os.environ["MODEL_STUB"], "--host", "0.0.0.0", "--port", "0", "--log", str(log)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(":")[2]), log
    finally:
        process.kill()
        process.wait()


def requests_of(log: Path) -> list[dict[str, Any]]:
    """What the stand-in was asked."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def usage(stack: Stack) -> list[int]:
    """Requests, tokens in, tokens out of all groups."""
    code = (
        "from broker.models import BrokerUsage; from django.db.models import Sum\n"
        "fields = ('requests', 'input_tokens', 'output_tokens')\n"
        "print(*BrokerUsage.objects.aggregate(**{f + '_': Sum(f) for f in fields}).values())"
    )
    return [int(each) for each in stack.python(code).split()]


@pytest.mark.model
def test_a_stream_passes_through_with_the_real_key(tmp_path: Path, stub: tuple[int, Path]) -> None:
    port, log = stub
    stack = Stack.embedded(tmp_path, BERTH_SECRET_MODEL=KEY, **LIMITS)
    try:
        stack.up()
        stack.python(KEYED.format(url=f"http://127.0.0.1:{port}"))
        (tmp_path / "client.py").write_text(CLIENT)
        client = f"{shlex.quote(sys.executable)} {tmp_path / 'client.py'}"
        session = stack.open(f"$ {client}; env; cat $BERTH_SECRETS/*")
        told = stack.wait_result(session)["text"]
        assert "said one two three four in pieces" in told and KEY not in told
        (asked,) = requests_of(log)
        assert asked["status"] == 200 and asked["key_ends"] == KEY[-8:]
        count, tokens_in, tokens_out = usage(stack)
        assert count == 1 and tokens_in > 0 and tokens_out > 0

        stack.python(
            f"from groups.models import *; AgentGroup.objects.filter(slug={stack.tenant!r}).update(broker_requests=1)"
        )
        stack.send(session, f"$ {client}")
        again = stack.wait_result(session, after=stack.events(session)[-1]["seq"])["text"]
        assert "429" in again and len(requests_of(log)) == 1
        stack.post(f"sessions/{session}/stop")
        assert KEY not in stack.log.read_text(errors="replace") + str(stack.events(session))
    finally:
        stack.down()


class TestClaude:
    """The unmodified Claude Code CLI in a pod."""

    pytestmark = [*PRODUCTION, pytest.mark.model, pytest.mark.timeout(1500)]

    def test_it_works_with_a_key_that_its_pod_has_not(
        self, tmp_path: Path, stub: tuple[int, Path], request: pytest.FixtureRequest
    ) -> None:
        port, log = stub
        image = images.build("claude")
        images.build("courier")
        stack = Stack.production(tmp_path, BERTH_SECRET_MODEL=KEY, **LIMITS)
        try:
            stack.up()
            stack.python(KEYED.format(url=f"http://127.0.0.1:{port}"))
            profile = stack.profile(
                "claude",
                contract="claude",
                image=image,
                command=["berth-claude"],
                state_folder="/home/node/.claude",
                memory_mib=1024,
            )
            before = len(requests_of(log))
            session = stack.open("!bash env; cat /var/secrets/*; cat /proc/1/environ", profile=profile)
            told = stack.wait_result(session, 180)["text"]
            assert told.startswith("tool said:") and "ANTHROPIC_BASE_URL" in told
            asked = requests_of(log)[before:]
            assert asked and {each["key_ends"] for each in asked} == {KEY[-8:]}
            stack.post(f"sessions/{session}/stop")
            assert KEY not in str(stack.events(session)) + stack.log.read_text(errors="replace")
            assert usage(stack)[0] >= 2
        finally:
            stack.down()
