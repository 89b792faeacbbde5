"""One run's courier: a loop over FIFOs, journal and contract, beside threads that talk to the control plane."""

import select
import signal
import time
from collections import deque
from contextlib import suppress

from courier import journal_lock
from courier.contracts.base import Handover, Message
from courier.control_plane import ControlPlane
from courier.events import Event
from courier.ipc import Ipc
from courier.journal import FULL, set_aside
from courier.log import log
from courier.pipes import Pipes
from courier.settings import Settings
from courier.transcript import STREAMS, Transcript

DRAIN_SECONDS = 10.0  # after the agent's end, should something else go on writing
MAX_BACKLOG = (
    16 * 1024 * 1024
)  # bytes to be uploaded; while the control plane takes less, an agent that says more waits
THROTTLED_SECONDS = 60.0  # after a 429 for which the control plane counts as slow
POLL_SECONDS = {"waiting": 0.1, "handing": 0.05, "ipc": 0.5, "running": 1.0}  # between checks of what can't notify


class Delivery:
    """What is to be written to the agent, and how far that is: a message, or what the contract writes without one."""

    __slots__ = ("handover", "message", "written")

    def __init__(self, message: Message | None, handover: Handover | None = None) -> None:
        self.message, self.handover = message, handover
        self.written = 0  # bytes of the handover's data


class Courier:
    """A run's courier, from its folders to its end.

    1. Make FIFOs, lock the journal folder, and recover what an earlier courier had done.
    2. Start the upload; once the control plane has answered, start the inbox and the upload of orphan journals.
    3. Step: move bytes to spools, units to the journal, messages to the agent, until its exit is noted.
    4. Drain, record the exit, let the wrapper end, and upload until all is stored or the time is over.
    """

    def __init__(self, settings: Settings, pipes: Pipes) -> None:
        self.settings, self.pipes = settings, pipes
        self.lock = journal_lock.lock(settings.folder)
        # Bytes of a journal that can't be read: then the control plane alone knows where numbers go on.
        self.unreadable = 0
        self.transcript = self._open()
        self.contract = self.transcript.contract
        self.wrapper_seen = self.transcript.journal.last > 0  # the agent's wrapper, by this courier or an earlier one
        self.ipc = Ipc(settings.ipc) if self.contract.uses_ipc and settings.ipc else None
        self.deliveries: deque[Delivery] = deque()
        self.wrapper_commands: list[str] = []
        self.is_connected = self.ending = self.is_over = False
        self.closing = self.closed = False  # the agent is to be asked to end; has been asked
        self.backlog = self.output_paused = False
        self.deadline = float("inf")
        self.control_plane = ControlPlane(settings, self)
        self.poll = select.poll()
        for fd in (self.control_plane.wake_read, self.pipes.bell):
            self.poll.register(fd, select.POLLIN)
        self.open_fds: dict[int, str] = {}

    def run(self) -> None:
        """Work until the end. Signals SIGTERM and SIGINT ask for it."""
        signal.set_wakeup_fd(self.control_plane.wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.request_end())
        if self.contract.input_ends and self.contract.state["delivered"]:
            self.deliveries.append(Delivery(None, Handover(eof=True)))
        if self.transcript.code is not None:
            self._after_exit()
        self.control_plane.start_upload(self.transcript.journal)
        self.step([])
        while not self.finished():
            self.step(self.poll.poll(self._timeout()))
        self._leave()

    def step(self, ready: list[tuple[int, int]]) -> None:
        """Do all that can be done now; `ready` is what poll returned."""
        before = self.transcript.journal.last
        self.control_plane.run_tasks()
        self.pipes.drain_bell()
        if self.transcript.code is None and not self.unreadable:
            self._attach()
            self._throttle_output()
            hung = self._read_output(ready)
            if self.pipes.attached:
                self._collect_files()
            self._hand_over()
            self._close_when_idle()
            if hung or not self.open_fds or not any(fd in self.open_fds for fd, _ in ready):
                self._check_exit()
        if self.transcript.journal.last > before:
            self.control_plane.journal_grown.set()

    def _open(self) -> Transcript:
        """Open the run's own journal. One that can't be read is set aside: else every courier would end by it."""
        try:
            return Transcript(self.settings.folder, self.settings)
        except OSError:
            raise
        except Exception as error:
            log("journal set aside", problem=type(error).__name__)
            self.unreadable = set_aside(self.settings.folder)
            return Transcript(self.settings.folder, self.settings)

    def finished(self) -> bool:
        """Tell whether there is nothing left to do, or no time to do it."""
        if time.monotonic() >= self.deadline:
            return True
        ending = self.ending or (self.settings.exit_when_done and self.transcript.code is not None)
        ended = self.transcript.code is not None or not self.wrapper_seen
        return ending and ended and (self.is_over or self._all_stored())

    def request_end(self) -> None:
        """Ask for the end, once what there is has been stored or the time for it is over."""
        self.ending = self.control_plane.wake_always = True
        self.deadline = min(self.deadline, time.monotonic() + self.settings.drain_seconds)

    def _all_stored(self) -> bool:
        return max(self.control_plane.stored, 0) >= self.transcript.journal.last

    def _timeout(self) -> int:
        """Return milliseconds until a step is due."""
        now = time.monotonic()
        due = [self.deadline - now, self.transcript.due() - now]
        if self.backlog:
            due.append(0.0)
        if self.transcript.code is None:
            waiting = "handing" if self.deliveries or self.wrapper_commands else "ipc" if self.ipc else "running"
            due.append(POLL_SECONDS[waiting if self.pipes.attached else "waiting"])
        return int(min(max(0.0, min(due)) * 1000 + 1, 3_600_000)) if not self.backlog else 0

    def _attach(self) -> None:
        if not self.pipes.attached and self.pipes.attach():
            self.wrapper_seen = True
            for stream, fd in self.pipes.streams.items():
                self.open_fds[fd] = stream
                self.poll.register(fd, select.POLLIN)
        if self.pipes.attached:
            self.wrapper_commands = [command for command in self.wrapper_commands if not self.pipes.control(command)]

    def _throttle_output(self) -> None:
        """Leave the agent's output in its pipes while there is enough to upload already: a full pipe holds it up.

        Only while the control plane says that it is too much. One that is away leads to a longer journal instead.
        """
        limit = min(MAX_BACKLOG, self.settings.journal_max // 2) // (2 if self.output_paused else 1)
        slow = time.monotonic() - self.control_plane.throttled_at() < THROTTLED_SECONDS
        pause = slow and self.transcript.unstored_bytes() > limit
        if pause != self.output_paused:
            self.output_paused = pause
            for fd in self.open_fds:
                if pause:
                    self.poll.unregister(fd)
                else:
                    self.poll.register(fd, select.POLLIN)

    def _read_output(self, ready: list[tuple[int, int]]) -> bool:
        """Move and parse what has come; return whether a stream has lost its last writer."""
        hung = False
        for fd, events in ready:
            if fd in self.open_fds and not self.output_paused and not self._fill(fd) and events & select.POLLHUP:
                self.poll.unregister(fd)
                del self.open_fds[fd]
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
        while self.deliveries and self.pipes.attached:
            delivery = self.deliveries[0]
            if delivery.handover is None and delivery.message:
                delivery.handover = self.contract.handover(delivery.message)
            handover = delivery.handover or Handover()
            if delivery.written < len(handover.data):
                delivery.written += self.pipes.write(handover.data[delivery.written :], delivery.written > 0)
                if delivery.written < len(handover.data):
                    return
            if handover.files and self.ipc:
                try:
                    self.ipc.write(handover.files)
                except OSError as error:  # the agent may do with its folder what it likes
                    log("ipc", problem=str(error))
                    time.sleep(0.5)
                    return
            if delivery.message:
                self.transcript.record(self.contract.delivered(delivery.message.number))
                delivery.message = None
            if handover.eof and not self.pipes.end_input():
                return
            self.deliveries.popleft()

    def _close_when_idle(self) -> None:
        if self.closing and not self.deliveries and self.contract.state["turn"] != "working":
            self.closing = False
            handover = self.contract.close()
            self.closed = handover != Handover()
            self.deliveries.append(Delivery(None, handover))
            self._hand_over()

    def _collect_files(self) -> bool:
        """Record some of what the agent left in its outboxes, then delete it; return whether there was any."""
        if not self.ipc:
            return False
        with suppress(OSError):
            self._forget_files()
            files = list(self.ipc.files())
            if files:
                self.contract.state["files"] = [[outbox, name] for outbox, name, _ in files]
                self.transcript.record(
                    [event for outbox, _, content in files for event in self.contract.file(outbox, content)]
                )
                self._forget_files()
                return True
        return False

    def _forget_files(self) -> None:
        for outbox, name in self.contract.state.pop("files", []):
            if self.ipc:
                self.ipc.remove(outbox, name)

    def _check_exit(self) -> None:
        """If the agent has ended: drain, record the exit, and let the wrapper end."""
        code = self.pipes.exit_code(self.wrapper_seen)
        if code is None:
            return
        until = time.monotonic() + DRAIN_SECONDS
        while sum(self._fill(fd) for fd in self.pipes.streams.values()) and time.monotonic() < until:
            self.transcript.step()
        while self._collect_files() and time.monotonic() < until:
            pass
        self.transcript.end(code, self.pipes.peak())
        self._after_exit()
        for fd in self.open_fds if not self.output_paused else ():
            self.poll.unregister(fd)
        self.open_fds.clear()
        self.deliveries.clear()
        log("agent ended", code=code)

    def _after_exit(self) -> None:
        """Let the wrapper end, and this courier if that was asked for; also after a restart."""
        self.control_plane.wake_always = True
        self.pipes.mark_drained()
        if self.settings.exit_when_done:
            self.deadline = min(self.deadline, time.monotonic() + self.settings.drain_seconds)

    def _leave(self) -> None:
        """End the threads, and delete the journal if nobody needs it any more."""
        self.control_plane.stop()
        if self._all_stored() and (self.transcript.code is not None or not self.wrapper_seen):
            journal_lock.remove_folder(self.settings.folder)
        log("courier ends", last=self.transcript.journal.last, stored=self.control_plane.stored)

    # courier.control_plane.CourierLoop: called for the threads.

    def connected(self, stored: int) -> None:
        """Start what needs a control plane. A volume that was lost must not lead to numbers that are taken."""
        if stored > self.transcript.journal.last:
            log("journal lost", last=self.transcript.journal.last, stored=stored)
            self.transcript.journal.skip_to(stored)
        if self.unreadable:
            reason = "the journal that an earlier courier of this run left can't be read"
            self.transcript.record([Event("gap", reason, {"events": 0, "bytes": self.unreadable})])
            self.unreadable = 0
        if not self.is_connected:
            self.is_connected = True
            after = self.contract.state["delivered"]
            self.control_plane.start_orphan_journals()
            self.control_plane.start_inbox(after, None if not self.contract.once else 0 if after else 1)

    def message(self, message: Message) -> None:
        """Queue a message for the agent. One that comes after its end waits in the inbox for the next run."""
        if self.transcript.code is None and not self.closed:
            self.deliveries.append(Delivery(message))

    def command(self, command: str) -> None:
        """End the agent, gracefully (`close`) or now (`stop`)."""
        log("command", word=command)
        if command == "close":
            self.closing = True
        elif command == "stop":
            self.wrapper_commands.append("term")

    def run_over(self) -> None:
        """End the agent, and upload nothing more."""
        if not self.is_over:
            log("run is over")
            self.is_over = True
            self.wrapper_commands.append("term")
            self.control_plane.stop()
