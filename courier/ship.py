"""Journal to control plane: batches in order, idempotent, each as large as the last one took time."""

import time
from pathlib import Path

from courier.client import Answer, Client, Signal, persist
from courier.events import dump
from courier.reader import Reader

LONGEST_PAUSE = 0.1  # seconds between two posts
AT_REST = 1.0  # seconds without a post after which the next few go at once: what a turn begins with is many small posts
BURST = 4
RELUCTANCE = 4  # times the last post's duration: an idle server gets events at once, a busy one larger batches


class Shipper:
    """Ships one run's journal. `stored` is the highest number that the control plane holds."""

    def __init__(self, client: Client, folder: Path, run: str | None, ended: Signal) -> None:
        """`run` names the run where it is not the token's own."""
        self.client, self.ended = client, ended
        self.reader = Reader(folder)
        self.prefix = b'{"run":' + dump(run) + b',"events":[' if run else b'{"events":['
        self.stored = 0
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
        batch = self.reader.batch(self.stored)
        if not batch:
            return None
        body = self.prefix + b",".join(event for _, event in batch) + b"]}"
        begin = time.monotonic()
        answer = persist(lambda: self.client.call("POST", "/agent/v1/events", body), self.ended, (409, *accept))
        if answer.status in accept:
            return answer
        before, self.stored = self.stored, int(answer.body.get("stored", self.stored))
        if self.stored < batch[-1][0]:
            self.reader.rewind()
        if self.stored > before:
            self._pause(begin, time.monotonic())
        else:
            self.ended.wait(1.0)
        return answer

    def _pause(self, begin: float, end: float) -> None:
        """Rest after a post, but for the first few after a silence."""
        self.burst = BURST if begin - self.posted > AT_REST else max(self.burst - 1, 0)
        self.posted = end
        if not self.burst:
            self.ended.wait(min(LONGEST_PAUSE, RELUCTANCE * (end - begin)))
