"""The inbox: a long poll for messages and commands."""

from collections.abc import Callable

from courier.client import Client, Response, StopSignal, retry
from courier.contracts.base import Message

WAIT = 25  # seconds within which the control plane responds
BATCH = 20  # messages at once


class Inbox:
    """Polls for one run. `after` is the highest message taken, `limit` how many more are wanted (None: all)."""

    def __init__(self, client: Client, after: int, limit: int | None, stop: StopSignal) -> None:
        self.client, self.after, self.limit, self.stop = client, after, limit, stop
        self.command = ""

    def poll(self, message: Callable[[Message], None], command: Callable[[str], None]) -> None:
        """Make one call, and hand on what it brought. Raises RunOver or Stopped as `retry`."""
        response = self._call(WAIT, BATCH if self.limit is None else self.limit)
        for item in response.body.get("messages") or []:
            number = int(item["number"])
            if number > self.after and self.limit != 0:
                self.after = number
                self.limit = self.limit if self.limit is None else self.limit - 1
                text, sender = str(item.get("text") or ""), str(item.get("sender") or "")
                message(Message(number, text, sender, item.get("at"), bool(item.get("scheduled"))))
        self._report_command(response, command)

    def poll_command(self, command: Callable[[str], None]) -> None:
        """Make one call that takes no messages and does not wait, and hand on a command. Raises as `poll`."""
        self._report_command(self._call(0, 0), command)

    def _call(self, wait: int, count: int) -> Response:
        path = f"/agent/v1/inbox?after={self.after}&wait={wait}&limit={count}&command={self.command}"
        return retry(lambda: self.client.call("GET", path, wait=wait), self.stop)

    def _report_command(self, response: Response, command: Callable[[str], None]) -> None:
        new = response.body.get("command") or ""
        if new != self.command:
            self.command = new
            command(new)
