"""Journal to control plane: batches in order, idempotent, each as large as the last one took time."""

import time
from pathlib import Path

from courier.client import Answer, Client, Signal, persist
from courier.events import Event, dump, encode
from courier.journal_reader import Reader
from courier.log import log

LONGEST_PAUSE = 0.1  # seconds between two posts
AT_REST = 1.0  # seconds without a post after which the next few go at once: what a turn begins with is many small posts
BURST = 4
PASSING = frozenset({401, 403, 404, 408, 409, 410, 425, 429})  # not the fault of what was posted
UNFIT = tuple(status for status in range(400, 500) if status not in PASSING)  # will be refused again, however late
RELUCTANCE = 4  # times the last post's duration: an idle server gets events at once, a busy one larger batches


class Shipper:
    """Ships one run's journal. `stored` is the highest number that the control plane holds."""

    def __init__(self, client: Client, folder: Path, run: str | None, ended: Signal) -> None:
        """`run` names the run where it is not the token's own."""
        self.client, self.ended = client, ended
        self.reader = Reader(folder)
        self.prefix = b'{"run":' + dump(run) + b',"events":[' if run else b'{"events":['
        self.stored = 0
        self.most = Reader.EVENTS  # events of a batch; fewer while the one is looked for that is refused
        self.wanted = -1  # after which number the control plane has just asked to go on
        self.instead: tuple[int, bytes] | None = None  # the number of one that was refused, and what goes in its place
        self.burst, self.posted = 0, 0.0

    def hello(self) -> Answer:
        """Introduce the courier; returns what the control plane says, and takes over how far it is."""
        answer = persist(lambda: self.client.call("POST", "/agent/v1/hello", b'{"version":1}'), self.ended)
        self.stored = int(answer.body.get("stored", 0))
        return answer

    def step(self, accept: tuple[int, ...] = ()) -> Answer | None:
        """Post one batch, then pause; None when the journal has nothing new. Raises Over or Ended as `persist`.

        A status in `accept` is returned as it is, without a pause.
        """
        batch = self.reader.batch(self.stored)[: self.most]
        if not batch:
            return None
        if self.wanted == self.stored < batch[0][0] - 1:
            batch = self._missing(batch[0][0])
        if self.instead and self.instead[0] == batch[0][0]:
            batch = [self.instead]
        begin = time.monotonic()
        # That a gap is refused is not its fault: then it is waited, as for anything else.
        unfit = () if batch == [self.instead] else UNFIT
        answer = self._post([event for _, event in batch], (409, *unfit, *accept))
        if answer.status in accept:
            return answer
        if answer.status in unfit:
            self._narrow(batch, answer.status)
            return answer
        before, self.stored = self.stored, int(answer.body.get("stored", self.stored))
        self.wanted = self.stored if answer.status == 409 else -1
        if self.stored < batch[-1][0]:
            self.reader.rewind()
        if self.stored > before:
            self.most = min(self.most + max(1, self.most // 4), Reader.EVENTS)
            self._pause(begin, time.monotonic())
        else:
            self.ended.wait(1.0)
        return answer

    def tell(self, event: Event, accept: tuple[int, ...]) -> None:
        """Post one event of a run after all that is stored of it. Raises as `step`; a status in `accept` ends it."""
        answer = self._post([], accept)
        if answer.ok:
            number = int(answer.body.get("stored", 0)) + 1
            self._post([encode(number, event, time.time())], (409, *UNFIT, *accept))

    def _post(self, events: list[bytes], accept: tuple[int, ...]) -> Answer:
        body = self.prefix + b",".join(events) + b"]}"
        return persist(lambda: self.client.call("POST", "/agent/v1/events", body), self.ended, accept)

    def _missing(self, first: int) -> list[tuple[int, bytes]]:
        """Return events for the numbers before `first`, which the journal has lost: a gap, and fillers without text."""
        numbers = range(self.stored + 1, min(first, self.stored + 1 + Reader.EVENTS))
        gap = Event("gap", "the journal has lost it", {"events": first - self.stored - 1, "bytes": 0})
        filler, now = Event("stderr"), time.time()
        return [(number, encode(number, filler if place else gap, now)) for place, number in enumerate(numbers)]

    def _narrow(self, batch: list[tuple[int, bytes]], status: int) -> None:
        """Halve a batch that is refused for what is in it; a single event becomes a gap that says so."""
        if len(batch) > 1:
            self.most = len(batch) // 2
            return
        ((number, event),) = batch
        log("event refused", number=number, status=status, bytes=len(event))
        gap = Event("gap", f"the control plane refused it with status {status}", {"events": 1, "bytes": len(event)})
        self.instead = number, encode(number, gap, time.time())

    def _pause(self, begin: float, end: float) -> None:
        """Rest after a post, but for the first few after a silence."""
        self.burst = BURST if begin - self.posted > AT_REST else max(self.burst - 1, 0)
        self.posted = end
        if not self.burst:
            self.ended.wait(min(LONGEST_PAUSE, RELUCTANCE * (end - begin)))
