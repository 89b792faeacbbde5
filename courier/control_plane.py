"""The threads that talk to the control plane: for the journal, for the inbox, for orphan journals.

They touch nothing of the courier's loop. What it has to do for them they put into `tasks`, and wake it by a pipe.
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

COMMAND_POLL_INTERVAL = 0.5  # seconds between two polls for a command while messages are held back
COMMAND_POLLS = 20  # after so many that were answered, messages come in spite of orphan journals


class CourierLoop(Protocol):
    """The loop's methods that the threads have called, in the loop's own thread."""

    def connected(self, stored: int) -> None:
        """The control plane knows this run, and holds its events up to `stored`."""

    def message(self, message: Message) -> None:
        """Hand the agent a message."""

    def command(self, command: str) -> None:
        """Obey `close` or `stop`; "" takes it back."""

    def run_over(self) -> None:
        """The run is over: end the agent."""


class ControlPlane:
    """The control plane as the loop sees it. `stored` is the highest number that it holds, -1 before the hello.

    `throttled_at()` returns when it last answered 429 (monotonic seconds).
    """

    def __init__(self, settings: Settings, loop: CourierLoop) -> None:
        self.settings, self.loop = settings, loop
        self.stored = -1
        self.throttled_at = lambda: float("-inf")
        self.stopped = threading.Event()
        self.journal_grown = threading.Event()
        self.wake_always = False  # the loop waits for `stored`
        self.orphans_done = threading.Event()  # no orphan journals are waited for
        self.tasks: deque[Callable[[], None]] = deque()
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)

    def run_tasks(self) -> None:
        """Run the threads' tasks; called by the loop."""
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

    def start_upload(self, journal: Journal) -> None:
        """Say hello, then upload the journal as it grows."""
        self._start(self._upload, journal)

    def start_inbox(self, after: int, limit: int | None) -> None:
        """Poll for messages after number `after`, at most `limit` of them, and for commands.

        Messages wait for `start_orphan_journals`, at most 10 s: an orphan journal may hold the answer to one of them.
        """
        self._start(self._poll, after, limit)

    def start_orphan_journals(self) -> None:
        """Upload the journals of other runs, if there are any."""
        if any(path.name != self.settings.run for path in self.settings.journals.iterdir()):
            self._start(self._upload_orphan_journals)
        else:
            self.orphans_done.set()

    def stop(self) -> None:
        """Have the threads end; does not wait for the calls that they are making."""
        self.stopped.set()
        self.journal_grown.set()

    def _upload(self, journal: Journal) -> None:
        from courier.client import Client
        from courier.uploader import Uploader

        client = Client(self.settings.url, self.settings.token_file)
        self.throttled_at = lambda: client.throttled_at
        uploader = Uploader(client, self.settings.folder, None, self.stopped)
        uploader.hello()
        self.stored = uploader.stored
        self._call_in_loop(self.loop.connected, uploader.stored)
        while not self.stopped.is_set():
            self.journal_grown.clear()
            while uploader.step():
                self.stored = uploader.stored
                journal.forget(uploader.stored)
                if self.wake_always:
                    self._wake()
            self.journal_grown.wait()

    def _poll(self, after: int, limit: int | None) -> None:
        from courier.client import Client
        from courier.inbox import Inbox

        inbox = Inbox(Client(self.settings.url, self.settings.token_file), after, limit, self.stopped)
        message = partial(self._call_in_loop, self.loop.message)
        command = partial(self._call_in_loop, self.loop.command)
        for _ in range(COMMAND_POLLS):
            if self.orphans_done.wait(COMMAND_POLL_INTERVAL) or self.stopped.is_set():
                break
            inbox.poll_command(command)
        while not self.stopped.is_set():
            inbox.poll(message, command)

    def _upload_orphan_journals(self) -> None:
        from courier.orphan_journals import upload_orphan_journals

        upload_orphan_journals(self.settings, self.stopped)
        self.orphans_done.set()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        arguments = (work, *arguments)
        threading.Thread(target=self._run_until_stopped, args=arguments, name=work.__name__, daemon=True).start()

    def _run_until_stopped(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do the work until it ends; what nobody foresaw (an answer of another shape) must not silence it for ever."""
        from courier.client import RunOver, Stopped

        while not self.stopped.is_set():
            try:
                return work(*arguments)
            except RunOver:
                return self._call_in_loop(self.loop.run_over)
            except Stopped:
                return None
            except Exception as error:
                log("failed", work=work.__name__, problem=repr(error))
                self.stopped.wait(1.0)
        return None

    def _call_in_loop(self, task: Callable[..., None], *arguments: Any) -> None:
        self.tasks.append(partial(task, *arguments))
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: the loop will wake up anyway
            os.write(self.wake_write, b"\0")
