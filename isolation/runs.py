"""The runs of a proof: opened through the front door, listened to through their events, stopped at the end."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from groups.models import AgentGroup, AgentProfile
from isolation.discovery import Cluster
from isolation.environment import Neighbour
from isolation.fixtures import BY
from sessions.choices import EventKind, SessionState
from sessions.events import event_log
from sessions.lifecycle import intake
from sessions.models import AgentSession, Run

START_SECONDS = 150.0  # for a run to start and to say something
LOOK_SECONDS = 0.2  # between two looks for news
PORT = 8741  # where the neighbour listens
TITLE = "Proof of isolation"


class Impossible(Exception):
    """The proof could not be made; `str()` says why."""


class Heard:
    """What the agent of a session told, and when that was seen."""

    def __init__(self, session: AgentSession) -> None:
        self.session, self.cursor = session, 0
        self.told: dict[str, list[tuple[float, dict[str, Any]]]] = {}  # name → (when (monotonic), what)
        self.result: str | None = None
        self.over = ""  # why nothing more will come of this run

    def look(self) -> None:
        """Take what is new."""
        while page := event_log.read(self.session.pk, self.cursor):
            now = time.monotonic()
            self.cursor = page[-1]["seq"]
            for event in page:
                if event["kind"] == EventKind.TOOL:
                    self.told.setdefault(event["text"], []).append((now, event["data"]))
                elif event["kind"] == EventKind.RESULT:
                    self.result = event["text"]
        self.session.refresh_from_db(fields=["state", "reason"])
        if self.session.state in (SessionState.FAILED, SessionState.RETRYING):
            self.over = self.session.reason or self.session.state

    @property
    def why(self) -> str:
        """Why it is as it is, in words."""
        return self.over or self.session.reason or self.session.state

    def last(self, name: str) -> dict[str, Any] | None:
        """What was told last under a name."""
        return self.told[name][-1][1] if name in self.told else None

    def run(self) -> Run | None:
        """The session's run that is alive."""
        return Run.objects.active().filter(session=self.session).first()


@contextmanager
def opened(group: AgentGroup, profile: AgentProfile, orders: dict[str, Any]) -> Iterator[Heard]:
    """A session with a first message, stopped at the end."""
    try:
        session = intake.open_session(group=group, profile=profile, text=json.dumps(orders), sender=None, title=TITLE)
    except intake.Refused as refused:
        raise Impossible(str(refused)) from None
    try:
        yield Heard(session)
    finally:
        intake.stop(session, by=BY)


def wait_for(heard: list[Heard], condition: Callable[[], bool], seconds: float) -> bool:
    """Look for news of several sessions until a condition holds; whether it came to hold in time.

    It is not waited for any more once the first of the sessions is over.
    """
    end = time.monotonic() + seconds
    while True:
        for each in heard:
            each.look()
        if condition():
            return True
        if heard[0].over or time.monotonic() > end:
            return False
        time.sleep(LOOK_SECONDS)


class Beside:
    """The neighbour's run, from `with` on: it listens, and gives signs of life."""

    def __init__(self, group: AgentGroup, profile: AgentProfile, cluster: Cluster) -> None:
        self.group, self.profile, self.cluster = group, profile, cluster
        self.marker = f"proof-{secrets.token_hex(8)}.txt"

    def __enter__(self) -> "Beside":
        orders = {"role": "bystander", "marker": self.marker, "port": PORT}
        self._opened = opened(self.group, self.profile, orders)
        self.heard = self._opened.__enter__()
        try:
            if not wait_for([self.heard], lambda: "ready" in self.heard.told, START_SECONDS):
                raise Impossible(f"The neighbour's run did not start: {self.heard.why}")
            self.neighbour = self._neighbour()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *details: Any) -> None:
        self._opened.__exit__(*details)

    def _neighbour(self) -> Neighbour:
        run, ready = self.heard.run(), self.heard.last("ready")
        if run is None or ready is None:
            raise Impossible("The neighbour's run ended before the proof began.")
        volume = self.cluster.volume_path(self.group)
        session = str(self.heard.session.pk)
        return Neighbour(ready["address"], ready["port"], self.marker, session, str(run.pk), volume)
