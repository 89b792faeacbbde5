"""The states of sessions, runs and messages, their words and colours, and the moves between them.

Rows move by compare-and-set (`move` on a queryset), so that of two processes that see the same row one wins.
"""

from django.db import models

from groups.choice_set import ChoiceSet


class SessionState(ChoiceSet):
    """What a person sees of a session."""

    IDLE = "idle", "", "Idle"  # nothing runs, nothing waits
    QUEUED = "queued", "warning", "Queued"  # a message waits for a slot
    RETRYING = "retrying", "warning", "Retrying"  # a run failed; the next try has its time
    STARTING = "starting", "info", "Starting"  # a run is being made
    WORKING = "working", "primary", "Working"  # the agent is at a turn
    WAITING = "waiting", "success", "Waiting"  # the agent waits for a follow-up
    ENDING = "ending", "warning", "Ending"  # the run was asked to end
    FAILED = "failed", "danger", "Failed"  # the tries are used up, or trying again is not safe; a person decides


class RunState(ChoiceSet):
    """One execution. All but ENDED hold a slot."""

    CLAIMED = "claimed", "info", "Claimed"  # has its slot; nothing was made yet
    STARTING = "starting", "info", "Starting"  # the runtime has it; the courier has not called yet
    WORKING = "working", "primary", "Working"
    WAITING = "waiting", "success", "Waiting"  # idle until a follow-up, a close or the idle timeout
    ENDING = "ending", "warning", "Ending"  # asked to close or stop
    ENDED = "ended", "", "Ended"


class MessageState(ChoiceSet):
    """How far a message came."""

    QUEUED = "queued", "warning", "Queued"
    DELIVERED = "delivered", "info", "Delivered"  # the agent has it
    ANSWERED = "answered", "success", "Answered"  # the turn that handled it ended
    FAILED = "failed", "danger", "Failed"  # given up; a person may retry or discard it
    CANCELLED = "cancelled", "", "Cancelled"  # taken back before it was delivered, or discarded after it failed


class Intent(models.TextChoices):
    """Why Berth itself asked a run to end."""

    NONE = "", "None"
    CLOSE = "close", "Close"  # a person, gracefully
    IDLE = "idle", "Idle"  # waited too long for a follow-up
    PREEMPT = "preempt", "Preempt"  # idle, while others wait for a slot
    STOP = "stop", "Stop"  # a person, now
    SHUTDOWN = "shutdown", "Shutdown"  # Berth itself goes down, and its local runs with it
    DEADLINE = "deadline", "Deadline"
    TURN_TIMEOUT = "turn_timeout", "Turn timeout"  # at work without a word for too long
    HUNG = "hung", "Hung"  # its courier fell silent while the process lives


GRACEFUL = frozenset({Intent.CLOSE, Intent.IDLE, Intent.PREEMPT})


class EndReason(models.TextChoices):
    """Why a run ended; on pages, its verdict. Every `Cause` of a runtime is one, and what Berth itself brings about."""

    COMPLETED = "completed", "Completed"
    CLOSED = "closed", "Closed"  # gracefully, as somebody asked
    IDLE = "idle", "Idle"  # waited long enough for a follow-up
    PREEMPTED = "preempted", "Preempted"  # gave way to others
    STOPPED = "stopped", "Stopped"
    DEADLINE = "deadline", "Deadline"
    TURN_TIMEOUT = "turn_timeout", "Turn timeout"  # at work without a word for too long
    HUNG = "hung", "Hung"  # its courier fell silent while the process lives
    AGENT_ERROR = "agent_error", "Agent error"
    OOM = "oom", "Oom"
    IMAGE_PULL = "image_pull", "Image pull"
    UNSCHEDULABLE = "unschedulable", "Unschedulable"
    REJECTED = "rejected", "Rejected"
    QUOTA = "quota", "Quota"
    MOUNT = "mount", "Mount"
    EVICTED = "evicted", "Evicted"
    NODE_LOST = "node_lost", "Node lost"
    START_TIMEOUT = "start_timeout", "Start timeout"  # not up after its time, and nobody knows why
    VANISHED = "vanished", "Vanished"
    UNREACHABLE = "unreachable", "Unreachable"


class EventKind(ChoiceSet):
    """What an event is. The courier may send all but OURS (docs/courier-protocol.md)."""

    MESSAGE = "message", "primary", "Message"
    STATE = "state", "", "State"
    DELIVERED = "delivered", "", "Delivered"
    TURN = "turn", "", "Turn"
    TEXT = "text", "", "Text"
    RESULT = "result", "success", "Result"
    TOOL = "tool", "info", "Tool"
    USAGE = "usage", "", "Usage"
    SESSION = "session", "", "Session"
    ERROR = "error", "danger", "Error"
    STDOUT = "stdout", "", "Output"
    STDERR = "stderr", "", "Error output"
    TASK = "task", "warning", "Task"
    GAP = "gap", "danger", "Gap"
    EXIT = "exit", "", "Exit"
    DENIED = "denied", "warning", "Denied"


OURS = frozenset({EventKind.MESSAGE, EventKind.STATE, EventKind.DENIED})
COURIERS = frozenset(EventKind) - OURS
# The first of these is a run's first output.
OUTPUT = frozenset({"text", "result", "tool", "error", "stdout", "stderr"})

RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.CLAIMED: frozenset(
        {RunState.STARTING, RunState.WORKING, RunState.WAITING, RunState.ENDING, RunState.ENDED}
    ),
    RunState.STARTING: frozenset({RunState.WORKING, RunState.WAITING, RunState.ENDING, RunState.ENDED}),
    RunState.WORKING: frozenset({RunState.WAITING, RunState.ENDING, RunState.ENDED}),
    RunState.WAITING: frozenset({RunState.WORKING, RunState.ENDING, RunState.ENDED}),
    RunState.ENDING: frozenset({RunState.ENDED}),
    RunState.ENDED: frozenset(),
}
MESSAGE_MOVES: dict[MessageState, frozenset[MessageState]] = {
    MessageState.QUEUED: frozenset(
        {MessageState.DELIVERED, MessageState.ANSWERED, MessageState.CANCELLED, MessageState.FAILED}
    ),
    MessageState.DELIVERED: frozenset({MessageState.ANSWERED, MessageState.FAILED, MessageState.QUEUED}),
    MessageState.ANSWERED: frozenset(),
    MessageState.FAILED: frozenset({MessageState.QUEUED, MessageState.ANSWERED, MessageState.CANCELLED}),
    # It was on its way to an agent when it was taken back: it may turn out to be answered, and never waits again.
    MessageState.CANCELLED: frozenset({MessageState.ANSWERED}),
}
ACTIVE = frozenset(RunState) - {RunState.ENDED}
BEFORE_START = frozenset({RunState.CLAIMED, RunState.STARTING})  # no courier has delivered anything yet


def sources(moves: dict[RunState, frozenset[RunState]], target: RunState) -> list[RunState]:
    """The run states from which `target` may be reached."""
    return [state for state, targets in moves.items() if target in targets]


def message_sources(target: MessageState) -> list[MessageState]:
    """The message states from which `target` may be reached."""
    return [state for state, targets in MESSAGE_MOVES.items() if target in targets]


# A session's own state follows from its run's, so it has no table of its own: this is the whole rule for an active run.
SESSION_OF_RUN = {
    RunState.CLAIMED: SessionState.STARTING,
    RunState.STARTING: SessionState.STARTING,
    RunState.WORKING: SessionState.WORKING,
    RunState.WAITING: SessionState.WAITING,
    RunState.ENDING: SessionState.ENDING,
}
