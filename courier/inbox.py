"""The inbox: a long poll for messages and commands."""

from collections.abc import Callable

from courier.client import Answer, Client, Signal, persist
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
        answer = self._ask(WAIT, TAKEN if self.limit is None else self.limit)
        for item in answer.body.get("messages") or []:
            number = int(item["number"])
            if number > self.after and self.limit != 0:
                self.after = number
                self.limit = self.limit if self.limit is None else self.limit - 1
                text, sender = str(item.get("text") or ""), str(item.get("sender") or "")
                message(Message(number, text, sender, item.get("at"), bool(item.get("scheduled"))))
        self._obey(answer, command)

    def look(self, command: Callable[[str], None]) -> None:
        """Make one call that takes no messages and does not wait, and hand on a command. Raises as `step`."""
        self._obey(self._ask(0, 0), command)

    def _ask(self, wait: int, count: int) -> Answer:
        path = f"/agent/v1/inbox?after={self.after}&wait={wait}&limit={count}&command={self.command}"
        return persist(lambda: self.client.call("GET", path, wait=wait), self.ended)

    def _obey(self, answer: Answer, command: Callable[[str], None]) -> None:
        word = answer.body.get("command") or ""
        if word != self.command:
            self.command = word
            command(word)
