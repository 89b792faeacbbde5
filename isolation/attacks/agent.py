"""An agent that attacks what holds it, for `manage.py prove_isolation`: contract `jsonl`, standard library only.

A message is a JSON object. `{"role": "attacker", "checks": [{"check", "attack", "parameters"}]}` has each attack made
(this package) and reported in an event of its own; `{"role": "bystander", "marker", "port"}` makes it the neighbour,
which keeps a file, listens, and reports a heartbeat every quarter of a second, until its input ends.

It harms nothing: attempts take 5 s at most, 600 MiB, 2,000 tasks, and give it all back. Start it as
`python3 -m isolation.attacks.agent`.
"""

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from isolation.attacks import ALONE, ATTACKS
from isolation.attacks.base import SECONDS, Attempt, run_concurrently

CONTAINERS = "/workspace/group"  # where every container of an agent has its workspace
SIDE_BY_SIDE = 12
TICK = 0.25  # seconds between two heartbeats of the neighbour
Check = dict[str, Any]


def emit(kind: str, **fields: Any) -> None:
    """Write one JSON line, whole: a child may be printing beside us."""
    data = json.dumps({"type": kind, **fields}).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def report(name: str, payload: dict[str, Any]) -> None:
    """Report something as an event `tool` with a result, which pages show."""
    output = f"{payload['outcome']}: {payload['detail']}" if "outcome" in payload else json.dumps(payload)
    emit("tool", name=name, phase="result", id=str(payload.get("check", name)), output=output, **payload)


def run_checks(checks: list[Check]) -> str:
    """Make every attempt, side by side where that is harmless, and report each."""
    count = 0
    for batch in batches(checks):
        alone = len(batch) == 1 and batch[0]["attack"] in ALONE
        if alone:
            report("begins", {"check": batch[0]["check"]})
        started = [
            Attempt(each["check"], ATTACKS[each["attack"]], each["parameters"], SECONDS)
            for each in batch
            if each["attack"] in ATTACKS
        ]
        unknown = [each for each in batch if each["attack"] not in ATTACKS]
        for each in unknown:
            detail = f"this image's agent knows no attack {each['attack']}"
            report("attempt", {"check": each["check"], "outcome": "error", "detail": detail})
        results = run_concurrently(started)
        if alone:
            os.write(1, b"\n")  # what it printed may have been cut in the middle of a line
        for result in results:
            if result.get("silent") and not alone:
                result = retry_alone(next(each for each in batch if each["check"] == result["check"]))
            report("attempt", result)
            count += 1
    return f"{count} attempts"


def retry_alone(check: Check) -> dict[str, Any]:
    """Make an attempt that gave no answer once more, alone: what ran beside it may have ended it, or held it up."""
    again = Attempt(check["check"], ATTACKS[check["attack"]], check["parameters"], SECONDS)
    (result,) = run_concurrently([again])
    if result.get("silent"):
        result["detail"] += ", for the second time, when nothing ran beside it"
    return result


def batches(checks: list[Check]) -> list[list[Check]]:
    """Checks in their order, those together that may run side by side."""
    made: list[list[Check]] = []
    for each in checks:
        beside = each["attack"] not in ALONE
        if beside and made and len(made[-1]) < SIDE_BY_SIDE and made[-1][0]["attack"] not in ALONE:
            made[-1].append(each)
        else:
            made.append([each])
    return made


class Bystander:
    """The neighbour: a file, a listener for TCP and UDP, and heartbeats until the input ends."""

    def __init__(self, marker: str, port: int) -> None:
        folder = os.environ.get("BERTH_WORKSPACE") or "/workspace/group"
        self.path, self.peers = os.path.join(folder, marker), 0
        with open(self.path, "w") as file:
            file.write(os.urandom(32).hex())
        self.tcp = socket.create_server(("", port))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("", port))

    def serve(self) -> str:
        """Listen, and report heartbeats, until the input ends; returns the session's result."""
        address = socket.gethostbyname(socket.gethostname())
        with socket.create_connection((address, self.tcp.getsockname()[1]), 5):  # it can be reached, from here
            self.tcp.accept()[0].close()
        report("ready", {"address": address, "port": self.tcp.getsockname()[1], "digest": self.digest()})
        number = 0
        while True:
            number += 1
            report("tick", {"number": number, "heard": self.peers, "digest": self.digest()})
            ready, _, _ = select.select([0, self.tcp.fileno(), self.udp.fileno()], [], [], TICK)
            if 0 in ready and not os.read(0, 65536):
                break
            if self.tcp.fileno() in ready:
                self._reply(self.tcp.accept())
            if self.udp.fileno() in ready:
                self._reply((self.udp, self.udp.recvfrom(2048)[1]))
        os.unlink(self.path)
        return f"heard {self.peers} strangers"

    def digest(self) -> str:
        """SHA-256 of the file, so that a change shows."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
        return ""

    def _reply(self, accepted: tuple[socket.socket, Any]) -> None:
        """Answer a stranger, so that the stranger knows as well."""
        self.peers += 1
        sock, peer = accepted
        with contextlib.suppress(OSError):
            if sock is self.udp:
                sock.sendto(b"bystander", peer)
            else:
                sock.sendall(b"bystander\n")
                sock.close()
        report("heard", {"peer": str(peer[0])})


def handle(text: str) -> str:
    """Do what a message says; returns the result's text."""
    try:
        message = json.loads(text)
        role = message["role"]
    except (ValueError, KeyError, TypeError):
        return "Send a JSON object with a role. `manage.py prove_isolation` does."
    if role == "attacker" and not os.path.isdir(CONTAINERS):
        return f"There is no {CONTAINERS}, so this is no container: here attacks would meet nothing but other people."
    if role == "attacker":
        return run_checks(message["checks"])
    if role == "bystander":
        return Bystander(message["marker"], message["port"]).serve()
    return f"There is no role {role!r}."


def main() -> int:
    """Answer messages until the input ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    began = time.monotonic()
    with open(0, "rb", buffering=0, closefd=False) as lines:  # unbuffered: the bystander watches the same input
        while line := lines.readline():
            message = json.loads(line)
            if message.get("type") == "close":
                break
            if message.get("type") == "message":
                result = handle(str(message["text"]))
                emit("result", text=f"{result} after {time.monotonic() - began:.1f} s")
                emit("idle", number=message["number"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
