"""An agent without a model, to see and test every path of a session: contract `jsonl`, standard library only.

Messages come as JSON lines on stdin, answers go as JSON lines to stdout; what commands print passes through as it is.
`$ COMMAND` runs a command in the workspace, `/help` lists the other commands, all else is answered with where the
agent runs. One thread: `Inbox.wait` is the only place that waits, so an interrupt or SIGTERM ends whatever goes on.

Only small modules are imported (no pathlib, subprocess, typing): the time to the first answer counts.
"""
# ruff: noqa: PTH103, PTH105, PTH109, PTH112, PTH118, PTH120, PTH123

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable

TAIL_BYTES = 4000  # of a command's output, in its result
READ_BYTES = 65536  # a Linux pipe's capacity
KILL_AFTER = 2.0  # seconds between SIGTERM and SIGKILL for a command that is to end
TICK = 0.005  # seconds between two writes of paced lines, at least
MIB = 1024 * 1024

MARKDOWN = """# A heading

Some *emphasis*, some **more**, `code`, ~~regret~~ and [a link](https://example.org/).

1. first
2. second
   - with a point of its own

| state | slots |
|---|---:|
| running | 5 |
| queued | 12 |

```python
print("hello from the workbench")
```

> A page must not obey what follows: <script>alert("script")</script> <b onclick="alert(1)">raw HTML</b>
> and [a bad link](javascript:alert(1)).
"""


class Message:
    """A message for the agent; `received` is when it was read, in seconds since the epoch."""

    def __init__(self, number: int, text: str, received: float) -> None:
        self.number, self.text, self.received = number, text, received


class TurnEnded(Exception):
    """The turn was interrupted, or the agent got SIGTERM."""


class Inbox:
    """Reads stdin and signals, without a thread. `interrupted` is of a turn, `closed` and `terminated` for good."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.busy = self.interrupted = self.closed = self.terminated = False
        self._partial = b""
        self._wake, wake_writer = os.pipe()
        for end in (self._wake, wake_writer):
            os.set_blocking(end, False)
        # Signals arrive as bytes in a pipe that `wait` polls; SIGCHLD, so that a command's end wakes it at once.
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    @property
    def ended(self) -> bool:
        """Whether the turn that goes on must end."""
        return self.interrupted or self.terminated

    def wait(self, seconds: float | None, *others: int) -> list[int]:
        """Wait at most `seconds` for input, a signal, or one of the descriptors `others`; returns which are ready."""
        poll = select.poll()
        for fd in (self._wake, *others) if self.closed else (self._wake, 0, *others):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if seconds is None else max(0.0, seconds * 1000))]
        if self._wake in ready and signal.SIGTERM in os.read(self._wake, READ_BYTES):
            self.terminated = True
        if 0 in ready:
            self._read()
        return [fd for fd in ready if fd in others]

    def pause(self, seconds: float) -> None:
        """Let `seconds` pass. Raises TurnEnded as soon as the turn must end."""
        until = time.monotonic() + seconds
        while not self.ended:
            left = until - time.monotonic()
            self.wait(max(0.0, left))
            if left <= 0:
                break
        if self.ended:
            raise TurnEnded

    def _read(self) -> None:
        data = os.read(0, READ_BYTES)
        received = time.time()
        self.closed = self.closed or not data
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in filter(None, map(bytes.strip, lines)):
            self._handle_line(line, received)

    def _handle_line(self, line: bytes, received: float) -> None:
        try:
            message = json.loads(line)
            kind = message["type"]
            if kind == "message":
                self.messages.append(Message(int(message["number"]), str(message["text"]), received))
            elif kind == "interrupt":
                self.interrupted = self.busy or bool(self.messages)  # else there is nothing to interrupt
            elif kind == "close":
                self.closed = True
        except (ValueError, KeyError, TypeError) as error:
            emit("error", text=f"the workbench can't read this line: {line[:200]!r} ({error!r})")


class Stdout:
    """Writes JSON lines and raw bytes to stdout, and starts a JSON line on a line of its own."""

    at_line_start = True

    def raw(self, data: bytes) -> None:
        """Write `data` as it is."""
        write(1, data)
        self.at_line_start = data.endswith(b"\n")

    def event(self, kind: str, fields: dict[str, object]) -> None:
        """Write one JSON line. An unfinished raw line before it is ended first: the one byte that nobody printed."""
        line = json.dumps({"type": kind, **fields}).encode() + b"\n"
        self.raw(line if self.at_line_start else b"\n" + line)


STDOUT = Stdout()


def emit(kind: str, **fields: object) -> None:
    """Write one event, such as `emit("text", text="hello")`."""
    STDOUT.event(kind, fields)


def write(fd: int, data: bytes) -> None:
    """Write all of `data`, however long the reader takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


class Agent:
    """The conversation, and what one turn does. `run` is the main loop."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.workspace = os.environ.get("BERTH_WORKSPACE") or "/workspace/group"
        if os.path.isdir(self.workspace):
            os.chdir(self.workspace)
        self.workspace = os.getcwd()
        self.conversation = Conversation()
        self.handled = 0  # messages of this run
        self.message = Message(0, "", 0.0)  # the one that is being answered
        self.memory_blocks: list[bytearray] = []

    def run(self) -> int:
        """Handle messages until `close`, the end of the input or SIGTERM. Returns the exit status."""
        while not self.inbox.terminated:
            if self.inbox.messages:
                self._turn(self.inbox.messages.popleft())
            elif self.inbox.closed:
                return 0
            else:
                self.inbox.wait(None)
        return 128 + signal.SIGTERM

    def _turn(self, message: Message) -> None:
        if not self.handled:
            emit("session", id=self.conversation.id)
        self.message, self.inbox.busy = message, True
        self.handled += 1
        self.conversation.messages += 1
        try:
            self.inbox.pause(0)
            answer = self._answer(message.text)
        except TurnEnded:
            how = "Stopped" if self.inbox.terminated else "Interrupted"
            answer = f"{how}: message {message.number} was not finished"
        emit("result", text=answer)
        emit("usage", characters_in=len(message.text), characters_out=len(answer))
        self.conversation.save()
        self.inbox.busy = self.inbox.interrupted = False
        if not self.inbox.terminated:
            emit("idle", number=message.number)

    def _answer(self, text: str) -> str:
        if text.startswith("$ "):
            return run_command(self, text[2:])
        if not text.startswith("/"):
            return describe(self)
        name, _, argument = text.partition(" ")
        if name not in COMMANDS:
            return f"There is no `{name}`. {help_text(self, '')}"
        run, usage, words = COMMANDS[name]
        try:
            return run(self, argument.strip())
        except ValueError:
            return f"`{name} {usage}` is how to tell it: {words}"


class Conversation:
    """What outlives a run: an id and the number of messages, in a file of the state folder, one for each session."""

    def __init__(self) -> None:
        folder = os.environ.get("BERTH_STATE") or os.environ.get("HOME") or "/tmp"
        self.path = os.path.join(folder, f"workbench-{os.environ.get('BERTH_SESSION') or 'session'}.json")
        try:
            with open(self.path, encoding="utf-8") as file:
                state = json.load(file)
            self.id, self.messages = str(state["id"]), int(state["messages"])
        except (OSError, ValueError, KeyError, TypeError):
            self.id, self.messages = f"workbench-{os.urandom(8).hex()}", 0

    def save(self) -> None:
        """Keep it for the next run. A folder that can't be written only costs the memory, never the answer."""
        part = f"{self.path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(part), exist_ok=True)
            with open(part, "w", encoding="utf-8") as file:
                json.dump({"id": self.id, "messages": self.messages}, file)
            os.replace(part, self.path)
        except OSError as error:
            write(2, f"workbench: can't keep its state: {error}\n".encode())


def describe(agent: Agent) -> str:
    """Repeat the message and say where it was answered, as markdown."""
    message, conversation = agent.message, agent.conversation
    names = ("BERTH_GROUP", "BERTH_SESSION", "BERTH_RUN")
    environment = {name: os.environ[name] for name in names if os.environ.get(name)}
    rows = {
        "host": os.uname().nodename,
        "process": f"{os.getpid()}, user {os.getuid()}:{os.getgid()}",
        "workspace": agent.workspace,
        "python": f"{sys.version.split()[0]} on {sys.platform}",
        "conversation": f"{conversation.id}, its message {conversation.messages}, {agent.handled} of this run",
        **environment,
    }
    quoted = "\n".join(f"> {line}" for line in message.text.splitlines()) or "> (nothing)"
    table = "\n".join(f"| {name} | `{value}` |" for name, value in rows.items())
    hint = "Send `$ COMMAND` to run a command, or `/help`."
    return f"Got message {message.number}:\n\n{quoted}\n\n| where | |\n|---|---|\n{table}\n\n{hint}"


def run_command(agent: Agent, command: str) -> str:
    """Run `command` with sh, pass on what it prints, and answer with its exit status and the tail of its output."""
    import re  # only a command's answer needs it, and a start should cost little

    identity, began = f"command-{agent.conversation.messages}", time.monotonic()
    try:
        pid, streams = spawn(command)
    except (OSError, ValueError) as error:  # too long, or with a NUL
        return f"can't run that: {error}"
    emit("tool", phase="use", id=identity, name="sh", input={"command": command})
    status, tail = wait_for_command(agent.inbox, pid, streams)
    seconds, output = time.monotonic() - began, tail.decode(errors="replace")
    emit("tool", phase="result", id=identity, name="sh", output=output, is_error=status != 0)
    how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    if agent.inbox.ended:
        how = f"{'stopped' if agent.inbox.terminated else 'interrupted'}, {how}"
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)  # colours are for the raw output beside it
    fence = "```"
    while fence in output:
        fence += "`"
    shown = f"\n\n{fence}\n{output.rstrip()}\n{fence}" if output.strip() else ""
    return f"{how} after {seconds:.1f} s{shown}"


def wait_for_command(inbox: Inbox, pid: int, streams: dict[int, int]) -> tuple[int, bytes]:
    """Pass on what a spawned command prints until it ends; returns its exit status (-n: signal n) and the tail.

    An interrupt or SIGTERM ends all of its process group. What it leaves in the background lives on, its output unread.
    """
    tail, kill_at = b"", 0.0
    while True:
        ready = inbox.wait(KILL_AFTER if inbox.ended else None, *streams)
        if inbox.ended and not kill_at:
            kill_at = time.monotonic() + KILL_AFTER
            end_group(pid, signal.SIGTERM)
        elif kill_at and time.monotonic() >= kill_at:
            end_group(pid, signal.SIGKILL)
        done, status = os.waitpid(pid, os.WNOHANG)
        # After its end at most what the pipes held: something in the background may go on writing.
        for fd in list(streams) if done else ready:
            tail = (tail + forward_output(fd, streams, MIB if done else READ_BYTES))[-TAIL_BYTES:]
        if done:
            break
    for fd in streams:
        os.close(fd)
    return os.waitstatus_to_exitcode(status), tail


def spawn(command: str) -> tuple[int, dict[int, int]]:
    """Start `sh -c command`; returns its pid and, by the descriptor to read from, which of 1 and 2 it is.

    It has a process group of its own, so that all of it can be ended, but the agent's session, so that who ends that
    ends it too. posix_spawn, because importing subprocess takes longer than all else here.
    """
    (out, out_writer), (err, err_writer) = os.pipe(), os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out_writer, 1),
        (os.POSIX_SPAWN_DUP2, err_writer, 2),
    ]
    ignored_by_python = [signal.SIGPIPE, signal.SIGXFSZ]
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", command],
        os.environ,
        file_actions=actions,
        setpgroup=0,
        setsigdef=ignored_by_python,
    )
    os.close(out_writer)
    os.close(err_writer)
    os.set_blocking(out, False)
    os.set_blocking(err, False)
    return pid, {out: 1, err: 2}


def forward_output(fd: int, streams: dict[int, int], limit: int) -> bytes:
    """Pass on up to `limit` bytes of what `fd` holds, and close it at its end; returns the tail of these bytes."""
    tail, passed = b"", 0
    while passed < limit:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            break
        if not data:
            del streams[fd]
            os.close(fd)
            break
        if streams[fd] == 1:
            STDOUT.raw(data)
        else:
            write(2, data)
        passed += len(data)
        tail = (tail + data)[-TAIL_BYTES:]
    return tail


def end_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the process group `pid`, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def answer_slowly(agent: Agent, argument: str) -> str:
    """Answer with the text, word by word, over a number of seconds."""
    seconds, _, text = argument.partition(" ")
    words = (text or "Slowly, but it gets there: one word after the other.").split()
    for index, word in enumerate(words):
        emit("text", text=word if index == 0 else f" {word}")
        agent.inbox.pause(float(seconds) / len(words))
    return " ".join(words)


def print_lines(agent: Agent, argument: str) -> str:
    """Print numbered lines."""
    return print_paced(agent, argument, lambda first, end: "".join([f"line {i}\n" for i in range(first, end)]))


def print_timestamps(agent: Agent, argument: str) -> str:
    """Print numbered lines with the time when they were written, in seconds since the epoch."""

    def text(first: int, end: int) -> str:
        return "".join([f"clock {i} {time.time():.6f}\n" for i in range(first, end)])

    return print_paced(agent, argument, text)


def print_paced(agent: Agent, argument: str, text: Callable[[int, int], str]) -> str:
    """Print the lines 1 to N of `N [RATE]`: line i is due (i - 1) / RATE seconds after the start."""
    count, _, rest = argument.partition(" ")
    total, rate, sent = int(count), float(rest or "inf"), 0
    if total < 0 or rate <= 0:
        raise ValueError(argument)
    began = time.monotonic()
    while sent < total:
        elapsed = time.monotonic() - began
        due = total if rate == float("inf") else min(total, int(elapsed * rate) + 1)
        due = min(due, sent + 5000)  # a chunk, so that an interrupt of a fast one is noticed
        if due > sent:
            STDOUT.raw(text(sent + 1, due + 1).encode())
            sent = due
        agent.inbox.pause(max(TICK, sent / rate - elapsed) if sent < total and rate != float("inf") else 0)
    return f"{total} lines in {time.monotonic() - began:.1f} s"


def stay_silent(agent: Agent, argument: str) -> str:
    """Say nothing for a number of seconds."""
    agent.inbox.pause(float(argument))
    return f"{argument} s of silence"


def exit_now(agent: Agent, argument: str) -> str:
    """Exit at once, with the message unanswered."""
    status = int(argument)
    write(2, f"workbench: leaves with status {status}, as it was told\n".encode())
    sys.exit(status)


def crash(agent: Agent, argument: str) -> str:
    """Die of an exception, with a traceback on stderr."""
    raise RuntimeError(argument or "the workbench crashes, as it was told")


def allocate_memory(agent: Agent, argument: str) -> str:
    """Allocate and touch memory in blocks, print how far it got, and keep it until `/eat 0`."""
    agent.memory_blocks.clear()
    total = int(argument)
    for done in range(0, total, 16):
        size = min(16, total - done)
        block = bytearray(size * MIB)
        block[::4096] = b"\1" * (size * MIB // 4096)  # a page counts once it was written to
        agent.memory_blocks.append(block)
        STDOUT.raw(f"ate {done + size} MiB\n".encode())
        agent.inbox.pause(0)
    return f"holds {total} MiB"


def print_colors(agent: Agent, argument: str) -> str:
    """Print a sample of ANSI colours and styles."""
    names = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
    for offset in (30, 90, 40, 100):
        STDOUT.raw(" ".join(f"\x1b[{offset + i}m{name}\x1b[0m" for i, name in enumerate(names)).encode() + b"\n")
    STDOUT.raw(
        b"\x1b[1mbold\x1b[0m \x1b[2mfaint\x1b[0m \x1b[3mitalic\x1b[0m \x1b[4munderlined\x1b[0m \x1b[7mreversed\x1b[0m\n"
    )
    STDOUT.raw(
        b"\x1b[38;5;208mone of 256\x1b[0m \x1b[38;2;80;160;240mtrue colour\x1b[0m \x1b[31;1mred and bold\x1b[0m\n"
    )
    return "colours, as raw output"


def print_not_utf8(agent: Agent, argument: str) -> str:
    """Print bytes that are not UTF-8 text."""
    STDOUT.raw(b"all bytes: " + bytes(range(256)) + b"\ncut short: \xe2\x82\nlatin-1: caf\xe9\nno line's end: \xff\xfe")
    return "bytes that are not UTF-8, the last of them without a line's end"


def answer_markdown(agent: Agent, argument: str) -> str:
    """Answer with a sample of markdown."""
    return MARKDOWN


def report_error(agent: Agent, argument: str) -> str:
    """Report an error, as an agent does whose model is out of reach, and go on."""
    emit("error", text=argument or "something went wrong, as it was told")
    return "reported an error"


def receive_time(agent: Agent, argument: str) -> str:
    """Answer with the time at which the message was read, in seconds since the epoch."""
    return repr(agent.message.received)


def help_text(agent: Agent, argument: str) -> str:
    """List the commands."""
    head = "What the workbench can be told:\n\n| message | what comes |\n|---|---|\n| `$ COMMAND` | runs it, with sh |"
    rows = [f"| `{f'{name} {usage}'.strip()}` | {words} |" for name, (_, usage, words) in COMMANDS.items()]
    return "\n".join([head, *rows])


# By name: the function, which takes the agent and the argument, returns the answer, and raises ValueError for an
# argument that it can't use; what the argument is; what comes.
COMMANDS: dict[str, tuple[Callable[[Agent, str], str], str, str]] = {
    "/slow": (answer_slowly, "SECONDS [TEXT]", "the text as an answer, spread over the seconds"),
    "/lines": (print_lines, "N [RATE]", "N numbered lines of raw output, RATE a second or as fast as they go"),
    "/clock": (print_timestamps, "N [RATE]", "the same, each line with the time when it was written"),
    "/silent": (stay_silent, "SECONDS", "nothing for that long, then an answer"),
    "/exit": (exit_now, "STATUS", "exits with that status, the message unanswered"),
    "/crash": (crash, "[TEXT]", "dies of an exception"),
    "/error": (report_error, "[TEXT]", "reports an error and goes on"),
    "/eat": (allocate_memory, "MIB", "takes and keeps that much memory; 0 lets go of it"),
    "/colors": (print_colors, "", "a sample of ANSI colours"),
    "/bytes": (print_not_utf8, "", "raw output that is not UTF-8"),
    "/markdown": (answer_markdown, "", "a sample of markdown"),
    "/time": (receive_time, "", "when it received the message, in seconds since the epoch"),
    "/help": (help_text, "", "this list"),
}


def main() -> int:
    """Run the agent; a reader that went away is no crash."""
    try:
        return Agent().run()
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
