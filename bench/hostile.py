"""Hostile tenant: ten ordinary tenants get a follow-up every four seconds, while another one, and clients that are
nobody in particular, do at once whatever stalled others before.

| move | what it does |
|---|---|
| queue | opens sessions that all wait for their group's quota of two pods |
| events | an agent whose tool results are 7 MB each, with tool ids of 50 kB that are never used again |
| output | an agent that prints without end |
| odd lines | an agent whose JSON lines have any value in any place |
| markdown | an agent that answers with 60 kB of brackets or a table of 10,000 rows; its page, opened again and again |
| lists | the longest messages, asked for 1,000 at a time |
| streams | 150 streams of server-sent events of one viewer |
| logins | 12 connections that log in with random names |
| bodies | requests of 800 MiB without a token, to the couriers' endpoint and to pages |
| heads | 300 connections that never finish their request |

The figure is the time from the POST of an ordinary follow-up until its agent read it (its own clock). The floor is the
same before the hostile ones begin. Afterwards no process of Berth's, and no ordinary tenant's courier, may have been
restarted. It is run by hand, `python -m bench hostile`; HOSTILE_SECONDS makes it shorter, HOSTILE_MOVES (names of the
table, with commas) chooses moves, HOSTILE_NICE lowers the priority of the hostile clients, which stand for other
machines. All hostile clients come from one loopback address, each ordinary tenant is a person at an address of its own,
since limits count by person and address. The talking agent begins with `events` whatever is chosen.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import requests
from requests.adapters import HTTPAdapter
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from bench.cpu import Cpu
from bench.harness import Figure, Outcome, berth, cluster, django, percentile, rows, spread
from bench.page import Page
from k8s_adapter import names
from testbed.stack import Stack

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "120"))
MOVES = set(os.environ.get("HOSTILE_MOVES", "").replace(" ", "").split(",")) - {""}  # all of them, if empty
NICE = int(os.environ.get("HOSTILE_NICE", "0"))
ORDINARY, QUEUED, STREAMS, LOGINS, HEADS = 10, 40, 150, 12, 300
EVERY = 4.0  # seconds between two follow-ups of an ordinary tenant
P99 = 1.0  # seconds
ADDRESS = "127.0.0.66"  # where hostile clients come from
BODY = 800 * 1024 * 1024
TALK = ("odd", "markdown", "events")  # what the talking agent is asked for

AGENT = r"""
import json, sys, time
def say(**event): print(json.dumps(event), flush=True)
ODD = (None, [], {}, 1e400, -1, True, "\ud800", "\0", [[[]]], {"type": []})
def odd():
    for key in ("type", "text", "id", "name", "input", "output", "number", "message", "errors"):
        for value in ODD:
            say(**({"type": "tool", key: value}))
def events():
    for number in range(7):
        say(type="tool", phase="use", id=f"{number}-" + "i" * 50_000, name="read", input={"path": "x"})
        say(type="tool", phase="result", id="t", name="read", output="o" * 7_000_000)
def markdown():
    say(type="result", text="[" * 60_000)
    say(type="result", text="|a|b|\n|-|-|\n" + "|x|y|\n" * 10_000)
def output():
    while True: sys.stdout.write("x" * 8191 + "\n")
for line in sys.stdin:
    told = json.loads(line)
    if told["type"] == "message":
        globals()[told["text"].split()[0]]()
        say(type="result", text="done")
        say(type="idle", number=told["number"])
"""


def chosen(move: str) -> bool:
    """Whether HOSTILE_MOVES has a move; `odd` and `pages` are the names of "odd lines" and of the opened pages."""
    return not MOVES or move in MOVES


class Hostile:
    """Everything that the hostile ones do, each move in threads of its own until `end`; what came of it is counted."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.counts: Counter[str] = Counter()
        self.slug = stack.group(f"{stack.tenant}-hostile", max_runs=QUEUED, quota_pods=2)
        stack.python(
            "from django.contrib.auth import get_user_model\n"
            "from groups.models import AgentGroup, Membership\n"
            "user = get_user_model().objects.create_user('hostile')\n"
            f"Membership.objects.create(user=user, group=AgentGroup.objects.get(slug={self.slug!r}), role='member')"
        )
        token = stack.manage("create_token", "hostile").strip()
        self.cookies = stack.cookies("hostile")
        self.api = session(token)
        stack.profile("hostile", cpu_millis=200, memory_mib=128, command=["python3", "-u", "-c", AGENT])
        self.talker = self.open("events")
        self.printer = self.open("output") if chosen("output") else self.talker
        self.end = time.monotonic() + SECONDS

    def open(self, text: str) -> str:
        """Open a session of the hostile group."""
        body = {"profile": "hostile", "message": text}
        answer = self.api.post(f"{self.stack.base}/api/v1/groups/{self.slug}/sessions", json=body, timeout=60)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def moves(self) -> Iterator[Callable[[], None]]:
        """One callable a thread."""
        several = {"streams": 10, "logins": LOGINS, "bodies": 2}
        for name in ("queue", "pages", "lists", "heads", "streams", "logins", "bodies"):
            if chosen(name):
                yield from [getattr(self, f"_{name}")] * several.get(name, 1)
        if any(map(chosen, TALK)):
            yield self._talk

    def run(self, told: "multiprocessing.Queue[tuple[Counter[str], float]]") -> None:
        """Do all of it until the end, then tell the counts and the seconds of processor time that it took.

        In a process of its own: it delays no measurement.
        """
        os.nice(NICE)
        began = time.process_time()
        moves = list(self.moves())
        with ThreadPoolExecutor(max(1, len(moves))) as pool:
            list(pool.map(self._again, moves))
        told.put((self.counts, time.process_time() - began))

    def _again(self, move: Callable[[], None]) -> None:
        """Repeat one move until the end; a refusal is what it expects."""
        while time.monotonic() < self.end:
            try:
                move()
            except (OSError, requests.RequestException, WebSocketException) as error:
                self.counts[f"{move.__name__[1:]}: {type(error).__name__}"] += 1
                time.sleep(0.05)

    def _left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def _note(self, move: str, answer: requests.Response) -> None:
        self.counts[f"{move}: {answer.status_code}"] += 1

    def _queue(self) -> None:
        for _ in range(QUEUED):
            self.open("odd")
            self.counts["queue: opened"] += 1
        time.sleep(self._left())

    def _talk(self) -> None:
        for text in filter(chosen, TALK):
            url = f"{self.stack.base}/api/v1/sessions/{self.talker}/messages"
            self._note("messages", self.api.post(url, json={"text": f"{text} " + "m" * 60_000}, timeout=60))
        time.sleep(min(5.0, self._left()))

    def _pages(self) -> None:
        headers = {"Cookie": self.cookies, "Origin": self.stack.base}
        address = f"ws://127.0.0.1:{self.stack.port}/ws/sessions/{self.talker}/?after=0"
        with connect(address, additional_headers=headers, max_size=None, source_address=(ADDRESS, 0)) as socket:
            frame = socket.recv(timeout=30)
            self.counts["pages: frames"] += 1
            with contextlib.suppress(ValueError, KeyError):
                socket.send(json.dumps({"type": "ack", "seq": json.loads(frame)["last_seq"]}))
            socket.recv(timeout=5)

    def _lists(self) -> None:
        url = f"{self.stack.base}/api/v1/sessions/{self.talker}"
        for path in ("messages?limit=1000", "events?limit=1000"):
            self._note("lists", self.api.get(f"{url}/{path}", timeout=60))

    def _streams(self) -> None:
        url = f"{self.stack.base}/api/v1/sessions/{self.talker}/events"
        opened = []
        for _ in range(STREAMS // 10):
            answer = self.api.get(url, headers={"Accept": "text/event-stream"}, stream=True, timeout=30)
            self._note("streams", answer)
            opened.append(answer)
        time.sleep(min(10.0, self._left()))
        for answer in opened:
            answer.close()

    def _logins(self) -> None:
        client = session()
        login = f"{self.stack.base}/admin/login/"
        client.get(login, timeout=60)
        form = {
            "username": f"user-{random.random()}",
            "password": "wrong",
            "csrfmiddlewaretoken": client.cookies.get("csrftoken", ""),
        }
        self._note("logins", client.post(login, data=form, headers={"Referer": login}, timeout=60))

    def _bodies(self) -> None:
        for path in ("/agent/v1/events", "/admin/login/", "/api/v1/groups/x/sessions"):
            with self._socket() as client:
                client.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {BODY}\r\n\r\n".encode())
                sent, piece = 0, b"x" * 65536
                with contextlib.suppress(OSError):
                    while sent < BODY and time.monotonic() < self.end:
                        sent += client.send(piece)
                    client.recv(1)
                self.counts[f"bodies: MiB taken of {path}"] += sent >> 20

    def _heads(self) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(HEADS):
                with contextlib.suppress(OSError):
                    stack.enter_context(client := self._socket())
                    client.sendall(b"POST /agent/v1/events HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                    self.counts["heads: opened"] += 1
            time.sleep(min(15.0, self._left()))

    def _socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.stack.port), 10, source_address=(ADDRESS, 0))


class FromAddress(HTTPAdapter):
    """Connects from one address, with as many connections at once as are asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, **more: Any) -> None:
        """As `requests` does, with a source address."""
        super().init_poolmanager(connections, STREAMS, source_address=(self.address, 0), **more)  # type: ignore[no-untyped-call]


def session(token: str = "", address: str = ADDRESS) -> requests.Session:
    """A client at an address, the hostile one if no other is named."""
    client = requests.Session()
    client.mount("http://", FromAddress(address))
    if token:
        client.headers["Authorization"] = f"Bearer {token}"
    return client


def run() -> Outcome:
    """Measure; one row."""
    with berth(MAX_RUNS=str(ORDINARY + QUEUED + 2)) as stack:
        stack.profile("ordinary", cpu_millis=200, memory_mib=96)
        groups = [stack.group(f"{stack.tenant}-{number}") for number in range(ORDINARY)]
        sessions = [stack.open("/time", slug, "ordinary") for slug in groups]
        people = [session(token, f"127.0.1.{place}") for place, token in enumerate(_members(stack, groups), 1)]
        for each in sessions:
            stack.wait_state(each, "waiting", seconds=180)
        before = _processes(stack)
        floor = asyncio.run(_follow_ups(stack, sessions, people, time.monotonic() + 20))
        hostile = Hostile(stack)
        told: multiprocessing.Queue[tuple[Counter[str], float]] = multiprocessing.Queue()
        process = multiprocessing.Process(target=hostile.run, args=(told,), daemon=True)
        process.start()
        with Cpu() as cpu:
            took = asyncio.run(_follow_ups(stack, sessions, people, hostile.end))
        hostile.counts, clients = told.get(timeout=90)
        process.join(10)
        restarted = _restarted(stack, before, groups)
        stored = rows(
            stack,
            "SELECT coalesce(sum(length(text) + length(data::text)), 0), max(length(data::text))"
            " FROM agent_sessions_event WHERE session_id IN (%s, %s)",
            hostile.talker,
            hostile.printer,
        )[0]
    met = percentile(took, 0.99) <= P99 and not restarted
    result = f"p99 {percentile(took, 0.99):.2f} s, {len(restarted)} restarts"
    row = Figure("hostile tenant", spread(took), spread(floor), result, "p99 ≤ 1 s, no restart", met)
    met_with = ", ".join(f"{name} {count}" for name, count in sorted(hostile.counts.items()))
    notes = [
        f"What the hostile ones met: {met_with}.",
        f"Cores used meanwhile: {cpu.words()}; of the bench's, {clients / cpu.seconds:.2f} by hostile clients.",
        f"Two of their agents stored {stored[0] / 2**20:.0f} MiB, the largest `data` {stored[1] / 1024:.0f} KiB.",
    ]
    return Outcome([row], notes + [f"Restarted: {each}." for each in restarted])


MEMBERS = """
from django.contrib.auth import get_user_model
from groups.models import AgentGroup, ApiToken, Membership
result = []
for slug in {groups!r}:
    user = get_user_model().objects.create_user(slug)
    Membership.objects.create(user=user, group=AgentGroup.objects.get(slug=slug), role="member")
    result.append(ApiToken.issue(user))
"""


def _members(stack: Stack, groups: list[str]) -> list[str]:
    """A token of somebody of each group: ordinary tenants are people of their own."""
    return [str(token) for token in django(stack, MEMBERS.format(groups=groups))]


def _send(stack: Stack, client: requests.Session, session: str) -> None:
    url = f"{stack.base}/api/v1/sessions/{session}/messages"
    client.post(url, json={"text": "/time"}, timeout=60).raise_for_status()


async def _follow_ups(stack: Stack, sessions: list[str], people: list[requests.Session], end: float) -> list[float]:
    """Follow-ups of all sessions, one in EVERY each, until the end; seconds from the POST to the agent."""
    cookie = stack.cookies()

    async def one(place: int, session: str) -> list[float]:
        await asyncio.sleep(EVERY * place / len(sessions))  # people don't send in step
        page, took = Page(stack, session, cookie, stack.session(session)["last_seq"]), []
        await page.open()
        while time.monotonic() < end:
            start, posted = len(page.arrivals), time.time()
            await asyncio.to_thread(_send, stack, people[place], session)
            _, result = await page.until(lambda event: event["kind"] == "result", 60, start)
            took.append(float(result["text"]) - posted)
            await page.until(lambda event: event["data"].get("state") == "idle", 60, start)
            await asyncio.sleep(max(0.0, posted + EVERY - time.time()))
        await page.close()
        return took

    return [took for each in await asyncio.gather(*(one(*each) for each in enumerate(sessions))) for took in each]


def _processes(stack: Stack) -> dict[str, set[int]]:
    """The processes of each of Berth's services; of the worker the first alone, since it renews its children."""
    found = {}
    for name, process in stack.processes.items():
        family = [] if name == "worker" else psutil.Process(process.pid).children(recursive=True)
        found[name] = {process.pid, *(child.pid for child in family)}
    return found


def _restarted(stack: Stack, before: dict[str, set[int]], groups: list[str]) -> list[str]:
    """What was restarted: services of Berth's, containers of ordinary tenants."""
    now = _processes(stack)
    found = [name for name, pids in before.items() if not pids <= now[name]]
    found += ["a worker, by its cluster"] * stack.log.read_text(errors="replace").count("reincarnated ")
    for slug in groups:
        pods = cluster().get(f"/api/v1/namespaces/{names.namespace(slug)}/pods")["items"]
        for pod in pods:
            status = pod["status"]
            each = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
            found += [f"{pod['metadata']['name']}/{one['name']}" for one in each if one["restartCount"]]
        if not pods:
            found.append(f"the pod of {slug}")
    return found
