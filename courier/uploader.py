"""Journal to control plane: batches in order, idempotent, each as large as the last one took time."""

import time
from pathlib import Path

from courier.client import Client, Response, StopSignal, retry
from courier.events import Event, dump, encode
from courier.journal_reader import JournalReader
from courier.log import log

MAX_PAUSE = 0.1  # seconds between two posts
IDLE_SECONDS = 1.0  # without a post, after which the next few go at once: a turn begins with many small ones
BURST = 4
RETRIED = frozenset({401, 403, 404, 408, 409, 410, 425, 429})  # not because of what was posted
REJECTED = tuple(status for status in range(400, 500) if status not in RETRIED)  # would be rejected again, however late
PAUSE_FACTOR = 4  # times the last post's duration: an idle server gets events at once, a busy one larger batches


class Uploader:
    """Uploads one run's journal. `stored` is the highest number that the control plane holds."""

    def __init__(self, client: Client, folder: Path, run: str | None, stop: StopSignal) -> None:
        """`run` names the run where it is not the token's own."""
        self.client, self.stop = client, stop
        self.reader = JournalReader(folder)
        self.prefix = b'{"run":' + dump(run) + b',"events":[' if run else b'{"events":['
        self.stored = 0
        self.max_events = JournalReader.MAX_EVENTS  # of a batch; fewer while one that is rejected is searched for
        self.wanted = -1  # after which number the control plane has just asked to go on
        self.replacement: tuple[int, bytes] | None = None  # for an event that was rejected, with its number
        self.burst, self.posted_at = 0, 0.0

    def hello(self) -> Response:
        """Introduce the courier; returns what the control plane says, and takes over how far it is."""
        response = retry(lambda: self.client.call("POST", "/agent/v1/hello", b'{"version":1}'), self.stop)
        self.stored = int(response.body.get("stored", 0))
        return response

    def step(self, accept: tuple[int, ...] = ()) -> Response | None:
        """Post one batch, then pause; None when the journal has nothing new. Raises RunOver or Stopped as `retry`.

        A status in `accept` is returned as it is, without a pause.
        """
        batch = self.reader.batch(self.stored)[: self.max_events]
        if not batch:
            return None
        if self.wanted == self.stored < batch[0][0] - 1:
            batch = self._missing(batch[0][0])
        if self.replacement and self.replacement[0] == batch[0][0]:
            batch = [self.replacement]
        begin = time.monotonic()
        # A gap is not rejected for what is in it: then it is retried, as anything else.
        rejected = () if batch == [self.replacement] else REJECTED
        response = self._post([event for _, event in batch], (409, *rejected, *accept))
        if response.status in accept:
            return response
        if response.status in rejected:
            self._narrow(batch, response.status)
            return response
        before, self.stored = self.stored, int(response.body.get("stored", self.stored))
        self.wanted = self.stored if response.status == 409 else -1
        if self.stored < batch[-1][0]:
            self.reader.rewind()
        if self.stored > before:
            self.max_events = min(self.max_events + max(1, self.max_events // 4), JournalReader.MAX_EVENTS)
            self._pause(begin, time.monotonic())
        else:
            self.stop.wait(1.0)
        return response

    def post_event(self, event: Event, accept: tuple[int, ...]) -> None:
        """Post one event of a run after all that is stored of it. Raises as `step`; a status in `accept` ends it."""
        response = self._post([], accept)
        if response.ok:
            number = int(response.body.get("stored", 0)) + 1
            self._post([encode(number, event, time.time())], (409, *REJECTED, *accept))

    def _post(self, events: list[bytes], accept: tuple[int, ...]) -> Response:
        body = self.prefix + b",".join(events) + b"]}"
        return retry(lambda: self.client.call("POST", "/agent/v1/events", body), self.stop, accept)

    def _missing(self, first: int) -> list[tuple[int, bytes]]:
        """Return events for the numbers before `first`, which the journal has lost: a gap, and fillers without text."""
        numbers = range(self.stored + 1, min(first, self.stored + 1 + JournalReader.MAX_EVENTS))
        gap = Event("gap", "the journal has lost it", {"events": first - self.stored - 1, "bytes": 0})
        filler, now = Event("stderr"), time.time()
        return [(number, encode(number, filler if index else gap, now)) for index, number in enumerate(numbers)]

    def _narrow(self, batch: list[tuple[int, bytes]], status: int) -> None:
        """Halve a batch that is refused for what is in it; a single event becomes a gap that says so."""
        if len(batch) > 1:
            self.max_events = len(batch) // 2
            return
        ((number, event),) = batch
        log("event refused", number=number, status=status, bytes=len(event))
        gap = Event("gap", f"the control plane refused it with status {status}", {"events": 1, "bytes": len(event)})
        self.replacement = number, encode(number, gap, time.time())

    def _pause(self, begin: float, end: float) -> None:
        """Rest after a post, but for the first few after a silence."""
        self.burst = BURST if begin - self.posted_at > IDLE_SECONDS else max(self.burst - 1, 0)
        self.posted_at = end
        if not self.burst:
            self.stop.wait(min(MAX_PAUSE, PAUSE_FACTOR * (end - begin)))
