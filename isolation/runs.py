"""The runs of a proof: opened as anybody opens a session, read through their events, stopped at the end."""

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

START_SECONDS = 150.0  # for a run to start and to report something
POLL_SECONDS = 0.2
PORT = 8741  # where the neighbour listens
TITLE = "Proof of isolation"


class ProofError(Exception):
    """The proof could not be made; `str()` says why."""


class Transcript:
    """What the agent of a session reported, as tool events, and its result."""

    def __init__(self, session: AgentSession) -> None:
        self.session, self.cursor = session, 0
        # Name of a report → when it was read (seconds, monotonic) and its payload.
        self.reports: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        self.result: str | None = None
        self.failure = ""  # why nothing more will come of this run

    def poll(self) -> None:
        """Read the events that are new."""
        while page := event_log.read(self.session.pk, self.cursor):
            now = time.monotonic()
            self.cursor = page[-1]["seq"]
            for event in page:
                if event["kind"] == EventKind.TOOL:
                    self.reports.setdefault(event["text"], []).append((now, event["data"]))
                elif event["kind"] == EventKind.RESULT:
                    self.result = event["text"]
        self.session.refresh_from_db(fields=["state", "reason"])
        if self.session.state in (SessionState.FAILED, SessionState.RETRYING):
            self.failure = self.session.reason or self.session.state

    @property
    def status(self) -> str:
        """Why the run failed, or the session's state, in words."""
        return self.failure or self.session.reason or self.session.state

    def latest(self, name: str) -> dict[str, Any] | None:
        """The payload of the last report of a name."""
        return self.reports[name][-1][1] if name in self.reports else None

    def active_run(self) -> Run | None:
        """The session's run, while it is alive."""
        return Run.objects.active().filter(session=self.session).first()


@contextmanager
def open_session(group: AgentGroup, profile: AgentProfile, message: dict[str, Any]) -> Iterator[Transcript]:
    """A session with a first message, stopped at the end."""
    try:
        session = intake.open_session(group=group, profile=profile, text=json.dumps(message), sender=None, title=TITLE)
    except intake.InvalidRequest as error:
        raise ProofError(str(error)) from None
    try:
        yield Transcript(session)
    finally:
        intake.stop(session, by=BY)


def wait_for(transcripts: list[Transcript], condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until a condition holds, or the first transcript's run has failed; whether the condition holds in time."""
    end = time.monotonic() + seconds
    while True:
        for transcript in transcripts:
            transcript.poll()
        if condition():
            return True
        if transcripts[0].failure or time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)


class NeighbourRun:
    """The neighbour's run, from `with` on: it listens, and reports heartbeats."""

    def __init__(self, group: AgentGroup, profile: AgentProfile, cluster: Cluster) -> None:
        self.group, self.profile, self.cluster = group, profile, cluster
        self.marker = f"proof-{secrets.token_hex(8)}.txt"

    def __enter__(self) -> "NeighbourRun":
        message = {"role": "bystander", "marker": self.marker, "port": PORT}
        self._session = open_session(self.group, self.profile, message)
        self.transcript = self._session.__enter__()
        try:
            if not wait_for([self.transcript], lambda: "ready" in self.transcript.reports, START_SECONDS):
                raise ProofError(f"The neighbour's run did not start: {self.transcript.status}")
            self.neighbour = self._neighbour()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *details: Any) -> None:
        self._session.__exit__(*details)

    def _neighbour(self) -> Neighbour:
        run, ready = self.transcript.active_run(), self.transcript.latest("ready")
        if run is None or ready is None:
            raise ProofError("The neighbour's run ended before the proof began.")
        volume = self.cluster.volume_path(self.group)
        session = str(self.transcript.session.pk)
        return Neighbour(ready["address"], ready["port"], self.marker, session, str(run.pk), volume)
