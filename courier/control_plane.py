"""The threads that talk to the control plane: one ships the journal, one polls the inbox, one ships leftovers.

They touch nothing of the courier's loop. What they want of it they put into `tasks`, and wake it by a pipe.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from courier.contracts.base import Message
from courier.journal import Journal
from courier.log import log
from courier.settings import Settings

LOOK = 0.5  # seconds between two looks for a command while messages are held back
LOOKS = 20  # after so many that the control plane answered, messages come in spite of leftovers


class Loop(Protocol):
    """What the threads ask of the loop, which does it in its own thread."""

    def greeted(self, stored: int) -> None:
        """The control plane knows this run, and holds its events up to `stored`."""

    def message(self, message: Message) -> None:
        """Hand the agent a message."""

    def command(self, word: str) -> None:
        """Obey `close` or `stop`; "" takes it back."""

    def refused(self) -> None:
        """The run is over: end the agent."""


class Home:
    """The control plane as the loop sees it. `stored` is the highest number that it holds, -1 before the greeting.

    `slowed()` tells when it last said that the run says too much (monotonic seconds).
    """

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self.settings, self.loop = settings, loop
        self.stored = -1
        self.slowed = lambda: float("-inf")
        self.ended = threading.Event()
        self.news = threading.Event()  # the journal has grown
        self.wake_always = False  # the loop waits for `stored`
        self.cleared = threading.Event()  # no leftovers are waited for
        self.tasks: deque[Callable[[], None]] = deque()
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)

    def run_tasks(self) -> None:
        """Do what the threads have asked; called by the loop."""
        with suppress(BlockingIOError):
            os.read(self.wake_read, 4096)
        while self.tasks:
            task = self.tasks.popleft()
            try:
                task()
            except OSError:
                raise
            except Exception as error:
                log("failed", work="task", problem=repr(error))

    def start_shipping(self, journal: Journal) -> None:
        """Say hello, then ship the journal as it grows."""
        self._start(self._ship, journal)

    def start_inbox(self, after: int, limit: int | None) -> None:
        """Poll for messages after number `after`, at most `limit` of them, and for commands.

        Messages wait for `start_leftovers`, at most 10 s: what a lost run left may hold the answer to one of them.
        """
        self._start(self._poll, after, limit)

    def start_leftovers(self) -> None:
        """Ship the journals of other runs, if there are any."""
        if any(path.name != self.settings.run for path in self.settings.journals.iterdir()):
            self._start(self._ship_leftovers)
        else:
            self.cleared.set()

    def end(self) -> None:
        """Have the threads end; does not wait for the calls that they are making."""
        self.ended.set()
        self.news.set()

    def _ship(self, journal: Journal) -> None:
        from courier.client import Client
        from courier.uploader import Shipper

        client = Client(self.settings.url, self.settings.token_file)
        self.slowed = lambda: client.slowed_at
        shipper = Shipper(client, self.settings.folder, None, self.ended)
        shipper.hello()
        self.stored = shipper.stored
        self._ask(self.loop.greeted, shipper.stored)
        while not self.ended.is_set():
            self.news.clear()
            while shipper.step():
                self.stored = shipper.stored
                journal.forget(shipper.stored)
                if self.wake_always:
                    self._wake()
            self.news.wait()

    def _poll(self, after: int, limit: int | None) -> None:
        from courier.client import Client
        from courier.inbox import Inbox

        inbox = Inbox(Client(self.settings.url, self.settings.token_file), after, limit, self.ended)
        message, command = partial(self._ask, self.loop.message), partial(self._ask, self.loop.command)
        for _ in range(LOOKS):
            if self.cleared.wait(LOOK) or self.ended.is_set():
                break
            inbox.look(command)
        while not self.ended.is_set():
            inbox.step(message, command)

    def _ship_leftovers(self) -> None:
        from courier.orphan_journals import ship_leftovers

        ship_leftovers(self.settings, self.ended)
        self.cleared.set()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=self._guarded, args=(work, *arguments), name=work.__name__, daemon=True).start()

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do the work until it ends; what nobody foresaw (an answer of another shape) must not silence it for ever."""
        from courier.client import Ended, Over

        while not self.ended.is_set():
            try:
                return work(*arguments)
            except Over:
                return self._ask(self.loop.refused)
            except Ended:
                return None
            except Exception as error:
                log("failed", work=work.__name__, problem=repr(error))
                self.ended.wait(1.0)
        return None

    def _ask(self, task: Callable[..., None], *arguments: Any) -> None:
        self.tasks.append(partial(task, *arguments))
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: the loop will wake up anyway
            os.write(self.wake_write, b"\0")
