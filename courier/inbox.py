"""The inbox: a long poll for messages and commands."""

from collections.abc import Callable

from courier.client import Client, Signal, persist
from courier.contracts.base import Message

WAIT = 25  # seconds that the control plane may hold an answer back
TAKEN = 20  # messages at once


class Inbox:
    """Polls for one run. `after` is the highest message taken, `limit` how many more are wanted (None: all)."""

    def __init__(self, client: Client, after: int, limit: int | None, ended: Signal) -> None:
        self.client, self.after, self.limit, self.ended = client, after, limit, ended
        self.command = ""

    def step(self, message: Callable[[Message], None], command: Callable[[str], None]) -> None:
        """Make one call, and hand on what it brought. Raises Over or Ended as `persist`."""
        count = TAKEN if self.limit is None else self.limit
        path = f"/agent/v1/inbox?after={self.after}&wait={WAIT}&limit={count}&command={self.command}"
        answer = persist(lambda: self.client.call("GET", path, wait=WAIT), self.ended)
        for item in answer.body.get("messages") or []:
            number = int(item["number"])
            if number > self.after and self.limit != 0:
                self.after = number
                self.limit = self.limit if self.limit is None else self.limit - 1
                message(Message(number, str(item.get("text") or ""), str(item.get("sender") or ""), item.get("at")))
        word = answer.body.get("command") or ""
        if word != self.command:
            self.command = word
            command(word)
