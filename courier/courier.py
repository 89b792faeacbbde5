"""One run's courier: a loop over FIFOs, journal and contract, beside threads that talk to the control plane."""

import select
import signal
import time
from collections import deque
from contextlib import suppress

from courier import journal_lock
from courier.contracts.base import Handover, Message
from courier.control_plane import Home
from courier.events import Event
from courier.ipc import Ipc
from courier.journal import FULL, set_aside
from courier.log import log
from courier.pipes import Pipes
from courier.settings import Settings
from courier.transcript import STREAMS, Transcript

LAST_WORDS = 10.0  # seconds for draining after the agent's end, should something else go on writing
ENOUGH = 16 * 1024 * 1024  # bytes to be shipped; while the control plane takes less, an agent that says more waits
SLOWED = 60.0  # seconds for which a control plane that said so counts as slow
TICKS = {"waiting": 0.1, "handing": 0.05, "ipc": 0.5, "running": 1.0}  # seconds between looks at what can't call


class Letter:
    """What is to be handed to the agent, and how far that is: a message, or what the contract says without one."""

    __slots__ = ("handover", "message", "written")

    def __init__(self, message: Message | None, handover: Handover | None = None) -> None:
        self.message, self.handover = message, handover
        self.written = 0  # bytes of the handover's data


class Courier:
    """A run's courier, from its folders to its end.

    1. Make FIFOs, claim the journal folder, and find out what an earlier courier had done.
    2. Start shipping; the control plane's greeting starts the inbox and the shipping of leftovers.
    3. Step: move bytes to spools, units to the journal, messages to the agent, until its exit is noted.
    4. Drain, record the exit, tell the wrapper, and ship until all is stored or the time is over.
    """

    def __init__(self, settings: Settings, pipes: Pipes) -> None:
        self.settings, self.pipes = settings, pipes
        self.lock = journal_lock.insist(settings.folder)
        self.lost = 0  # bytes of a journal that can't be read: then the control plane alone knows where numbers go on
        self.transcript = self._open()
        self.contract = self.transcript.contract
        self.seen = self.transcript.journal.last > 0  # the agent's wrapper, by this courier or an earlier one
        self.ipc = Ipc(settings.ipc) if self.contract.uses_ipc and settings.ipc else None
        self.letters: deque[Letter] = deque()
        self.words: list[str] = []  # for the wrapper
        self.known = self.closing = self.closed = self.told = self.over = self.backlog = self.held = False
        self.deadline = float("inf")
        self.home = Home(settings, self)
        self.poll = select.poll()
        for fd in (self.home.wake_read, self.pipes.bell):
            self.poll.register(fd, select.POLLIN)
        self.listening: dict[int, str] = {}

    def run(self) -> None:
        """Work until the end. Signals SIGTERM and SIGINT ask for it."""
        signal.set_wakeup_fd(self.home.wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.tell_to_end())
        if self.contract.input_ends and self.contract.state["delivered"]:
            self.letters.append(Letter(None, Handover(eof=True)))
        if self.transcript.code is not None:
            self._after_exit()
        self.home.start_shipping(self.transcript.journal)
        self.step([])
        while not self.finished():
            self.step(self.poll.poll(self._timeout()))
        self._leave()

    def step(self, ready: list[tuple[int, int]]) -> None:
        """Do all that can be done now; `ready` is what poll told."""
        before = self.transcript.journal.last
        self.home.run_tasks()
        self.pipes.quiet_bell()
        if self.transcript.code is None and not self.lost:
            self._attach()
            self._hold()
            hung = self._take(ready)
            if self.pipes.attached:
                self._collect_files()
            self._hand_over()
            self._close_when_idle()
            if hung or not self.listening or not any(fd in self.listening for fd, _ in ready):
                self._watch_end()
        if self.transcript.journal.last > before:
            self.home.news.set()

    def _open(self) -> Transcript:
        """Open the run's own journal. One that can't be read is set aside: else every courier would end by it."""
        try:
            return Transcript(self.settings.folder, self.settings)
        except OSError:
            raise
        except Exception as error:
            log("journal set aside", problem=type(error).__name__)
            self.lost = set_aside(self.settings.folder)
            return Transcript(self.settings.folder, self.settings)

    def finished(self) -> bool:
        """Tell whether there is nothing left to do, or no time to do it."""
        if time.monotonic() >= self.deadline:
            return True
        told = self.told or (self.settings.exit_when_done and self.transcript.code is not None)
        return told and (self.transcript.code is not None or not self.seen) and (self.over or self._all_stored())

    def tell_to_end(self) -> None:
        """Ask for the end, once what there is has been stored or the time for it is over."""
        self.told = self.home.wake_always = True
        self.deadline = min(self.deadline, time.monotonic() + self.settings.drain_seconds)

    def _all_stored(self) -> bool:
        return max(self.home.stored, 0) >= self.transcript.journal.last

    def _timeout(self) -> int:
        """Return milliseconds until a step is due."""
        now = time.monotonic()
        due = [self.deadline - now, self.transcript.due() - now]
        if self.backlog:
            due.append(0.0)
        if self.transcript.code is None:
            waiting = "handing" if self.letters or self.words else "ipc" if self.ipc else "running"
            due.append(TICKS[waiting if self.pipes.attached else "waiting"])
        return int(min(max(0.0, min(due)) * 1000 + 1, 3_600_000)) if not self.backlog else 0

    def _attach(self) -> None:
        if not self.pipes.attached and self.pipes.attach():
            self.seen = True
            for stream, fd in self.pipes.streams.items():
                self.listening[fd] = stream
                self.poll.register(fd, select.POLLIN)
        if self.pipes.attached:
            self.words = [word for word in self.words if not self.pipes.control(word)]

    def _hold(self) -> None:
        """Leave the agent's output in its pipes while there is enough to ship already: a full pipe holds it up.

        Only while the control plane says that it is too much. One that is away leads to a longer journal instead.
        """
        enough = min(ENOUGH, self.settings.journal_max // 2) // (2 if self.held else 1)
        slow = time.monotonic() - self.home.slowed() < SLOWED
        held = slow and self.transcript.unshipped() > enough
        if held != self.held:
            self.held = held
            for fd in self.listening:
                if held:
                    self.poll.unregister(fd)
                else:
                    self.poll.register(fd, select.POLLIN)

    def _take(self, ready: list[tuple[int, int]]) -> bool:
        """Move and parse what has come; return whether a stream has lost its last writer."""
        hung = False
        for fd, events in ready:
            if fd in self.listening and not self.held and not self._fill(fd) and events & select.POLLHUP:
                self.poll.unregister(fd)
                del self.listening[fd]
                hung = True
        self.backlog = self.transcript.step()
        return hung

    def _fill(self, fd: int) -> int:
        """Move what a FIFO holds to its spool. A full volume holds the agent up until there is room."""
        try:
            return self.transcript.fill(STREAMS[0] if fd == self.pipes.streams["out"] else STREAMS[1], fd)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in FULL:
                raise
            time.sleep(0.5)
            return 1

    def _hand_over(self) -> None:
        """Give the agent what waits for it, as far as it takes it; a message is recorded when it has all of it."""
        while self.letters and self.pipes.attached:
            letter = self.letters[0]
            if letter.handover is None and letter.message:
                letter.handover = self.contract.hand(letter.message)
            handover = letter.handover or Handover()
            if letter.written < len(handover.data):
                letter.written += self.pipes.write(handover.data[letter.written :], letter.written > 0)
                if letter.written < len(handover.data):
                    return
            if handover.files and self.ipc:
                try:
                    self.ipc.write(handover.files)
                except OSError as error:  # the agent may do with its folder what it likes
                    log("ipc", problem=str(error))
                    time.sleep(0.5)
                    return
            if letter.message:
                self.transcript.record(self.contract.delivered(letter.message.number))
                letter.message = None
            if handover.eof and not self.pipes.end_input():
                return
            self.letters.popleft()

    def _close_when_idle(self) -> None:
        if self.closing and not self.letters and self.contract.state["turn"] != "working":
            self.closing = False
            handover = self.contract.close()
            self.closed = handover != Handover()
            self.letters.append(Letter(None, handover))
            self._hand_over()

    def _collect_files(self) -> bool:
        """Record some of what the agent left in its outboxes, then delete it; tell whether there was any."""
        if not self.ipc:
            return False
        with suppress(OSError):
            self._forget_files()
            found = list(self.ipc.found())
            if found:
                self.contract.state["files"] = [[outbox, name] for outbox, name, _ in found]
                self.transcript.record(
                    [event for outbox, _, content in found for event in self.contract.file(outbox, content)]
                )
                self._forget_files()
                return True
        return False

    def _forget_files(self) -> None:
        for outbox, name in self.contract.state.pop("files", []):
            if self.ipc:
                self.ipc.remove(outbox, name)

    def _watch_end(self) -> None:
        """Look whether the agent has ended; then drain, record and tell the wrapper."""
        code = self.pipes.exit_code(self.seen)
        if code is None:
            return
        until = time.monotonic() + LAST_WORDS
        while sum(self._fill(fd) for fd in self.pipes.streams.values()) and time.monotonic() < until:
            self.transcript.step()
        while self._collect_files() and time.monotonic() < until:
            pass
        self.transcript.end(code, self.pipes.peak())
        self._after_exit()
        for fd in self.listening if not self.held else ():
            self.poll.unregister(fd)
        self.listening.clear()
        self.letters.clear()
        log("agent ended", code=code)

    def _after_exit(self) -> None:
        """Let the wrapper end, and this courier if it was told to; also when an earlier one had recorded the exit."""
        self.home.wake_always = True
        self.pipes.drained()
        if self.settings.exit_when_done:
            self.deadline = min(self.deadline, time.monotonic() + self.settings.drain_seconds)

    def _leave(self) -> None:
        """End the threads, and delete the journal if nobody needs it any more."""
        self.home.end()
        if self._all_stored() and (self.transcript.code is not None or not self.seen):
            journal_lock.remove(self.settings.folder)
        log("courier ends", last=self.transcript.journal.last, stored=self.home.stored)

    # What the threads of `home` ask of the loop.

    def greeted(self, stored: int) -> None:
        """Start what needs a control plane. A volume that was lost must not lead to numbers that are taken."""
        if stored > self.transcript.journal.last:
            log("journal lost", last=self.transcript.journal.last, stored=stored)
            self.transcript.journal.skip_to(stored)
        if self.lost:
            words = "the journal that an earlier courier of this run left can't be read"
            self.transcript.record([Event("gap", words, {"events": 0, "bytes": self.lost})])
            self.lost = 0
        if not self.known:
            self.known = True
            after = self.contract.state["delivered"]
            self.home.start_leftovers()
            self.home.start_inbox(after, None if not self.contract.once else 0 if after else 1)

    def message(self, message: Message) -> None:
        """Queue a message for the agent. One that comes after its end waits in the inbox for the next run."""
        if self.transcript.code is None and not self.closed:
            self.letters.append(Letter(message))

    def command(self, word: str) -> None:
        """End the agent, gracefully (`close`) or now (`stop`)."""
        log("command", word=word)
        if word == "close":
            self.closing = True
        elif word == "stop":
            self.words.append("term")

    def refused(self) -> None:
        """End the agent, and ship nothing more."""
        if not self.over:
            log("run is over")
            self.over = True
            self.words.append("term")
            self.home.end()
