"""An agent's output on its way from the spools to the journal: for its own courier, or whoever finds the folder."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from courier.contracts import make_contract
from courier.contracts.base import Contract
from courier.events import Event, dump
from courier.journal import Journal
from courier.log import log
from courier.parser import LINE_LIMIT, Parser
from courier.redact import COURIER_KINDS, SpoolRedactor, TranscriptRedactor
from courier.settings import Settings
from courier.spool import Spool

STREAMS = ("out", "err")
TRIES = 5  # couriers that may begin at the same place and record nothing; the next one takes the line there as raw


class Transcript:
    """The journal, spools, parsers and contract of one run's folder, as the last record left them."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Open the folder, which must exist. Its journal tells the contract; a new one takes that of the settings."""
        self.journal = Journal(folder, settings.journal_max, {"name": settings.contract})
        state = self.journal.state
        self.name = state["name"]
        self.contract: Contract = make_contract(self.name, settings, state.get("contract"))
        self.code: int | None = state.get("exit")
        self.redactor = TranscriptRedactor(settings.secrets, settings.token_file, state.get("redaction"), settings.run)
        self.spools = {name: Spool(folder, name, state.get(name, (0,))[0]) for name in STREAMS}
        self.begun: Path | None = folder / "begun"
        stuck = self._count_tries() > TRIES
        self.parsers = {name: self._parser(name, bool(state.get(name, (0, False))[1] or stuck)) for name in STREAMS}
        if folder != settings.folder and self.redactor.lacks_secrets():
            self._skip_unread()

    def fill(self, stream: str, fifo: int) -> int:
        """Move bytes from a FIFO to the spool of the stream; as `Spool.fill`."""
        return self.spools[stream].fill(fifo)

    def step(self, final: bool = False) -> bool:
        """Turn up to 256 KiB of each spool, and what is due of earlier ones, into records; tell if there is more."""
        more = False
        for stream, parser in self.parsers.items():
            spool = self.spools[stream]
            data = spool.read()
            rest = spool.position < spool.end
            before = [parser.offset, parser.inside], dict(self.contract.state)
            try:
                parser.feed(data)
                events = parser.events(time.monotonic(), final and not rest)
                events = self.redactor.redact(stream, events, before, final and not rest)
            except OSError:
                raise
            except Exception as error:
                events = [self._skip_unreadable(stream, error)]
            self._append(events)
            more = more or rest
        self.journal.close_gap(self.state())
        return more

    def unstored_bytes(self) -> int:
        """Return about how many bytes wait to be uploaded, in the spools and in the journal."""
        return self.journal.total + sum(spool.end - spool.position for spool in self.spools.values())

    def record(self, events: list[Event]) -> None:
        """Append the events, after those that wait, and the present state to the journal."""
        try:
            events = self.redactor.flush_and_redact(events)
        except OSError:
            raise
        except Exception as error:  # what may hold a secret is left out
            kept = [event for event in events if event.kind in COURIER_KINDS]
            events = [self._gap(error, len(events) - len(kept), 0), *kept]
        self._append(events)

    def _append(self, events: list[Event]) -> None:
        """Append redacted events and the state after them, and drop what is no longer needed of the spools."""
        self.journal.append(events, self.state(), sum(parser.offset for parser in self.parsers.values()))
        if events and self.begun:
            self.begun.unlink(missing_ok=True)
            self.begun = None
        for stream in STREAMS:
            # An answer that is repeated as a result is read from the beginning, which is still in the first file.
            self.spools[stream].forget(self.journal.state.get(stream, (0,))[0])

    def end(self, code: int, peak: int | None = None) -> None:
        """Record the agent's exit, after all that it said, with the most memory that it used, in bytes, if known.

        Does nothing when that has been done.
        """
        if self.code is None:
            while self.step(final=True):
                pass
            events = self.contract.finish(code, self._output)
            self.code = code
            used = {"peak_bytes": peak} if peak else {}
            self.record([*events, Event("exit", data={"code": code, **used})])

    def due(self) -> float:
        """Return when `step` has to be called without new bytes (monotonic seconds)."""
        return min(self.redactor.due(), *(parser.due() for parser in self.parsers.values()))

    def state(self) -> dict[str, Any]:
        """Return what a restart needs, as of the last event that does not wait."""
        state: dict[str, Any] = {"name": self.name, "redaction": self.redactor.state()}
        contract = dict(self.contract.state)
        for name, parser in self.parsers.items():
            before = self.redactor.state_before(name)
            state[name] = before[0] if before else [parser.offset, parser.inside]
            contract = before[1] if before and name == "out" else contract
        state["contract"] = contract
        if self.code is not None:
            state["exit"] = self.code
        return state

    def close(self) -> None:
        """Close the files."""
        self.journal.close()
        for spool in self.spools.values():
            spool.close()

    def _skip_unread(self) -> None:
        """Pass over what another run left unread, with a gap: it may hold secrets that are not known here."""
        left = sum(spool.end - spool.position for spool in self.spools.values())
        for stream, spool in self.spools.items():
            spool.position = self.parsers[stream].offset = spool.end
        if left:
            reason = "it may hold secrets that the run which found it does not have"
            self.record([Event("gap", reason, {"events": 0, "bytes": left})])

    def _output(self) -> tuple[int, bytes | None]:
        spool = self.spools["out"]
        return spool.end, spool.slice(0, spool.end) if spool.end <= LINE_LIMIT else None

    def _parser(self, stream: str, inside: bool) -> Parser:
        """Return a parser that goes on where the stream's spool is read next."""
        if stream == "err":
            return Parser("stderr", self.spools[stream].position, inside)
        read = self.contract.read if self.contract.structured else None
        return Parser(self.contract.kind, self.spools[stream].position, inside, read, self.contract.marks)

    def _count_tries(self) -> int:
        """Return how many couriers have begun where this one does, and note it, if there is something to read.

        One that runs out of memory there can't tell: without this, the next one would do the same.
        """
        if not self.begun or all(spool.position == spool.end for spool in self.spools.values()):
            return 0
        here = [self.spools[name].position for name in STREAMS]
        tries = 1
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.begun.read_bytes())
            tries += int(known["tries"]) if known["at"] == here else 0
        with suppress(OSError):
            self.begun.write_bytes(dump({"at": here, "tries": tries}))
        return tries

    def _skip_unreadable(self, stream: str, error: Exception) -> Event:
        """Pass over what can't be read, and what waits before it, and go on; return the event that says so."""
        offset = self.journal.state.get(stream, (0,))[0]
        self.parsers[stream] = self._parser(stream, True)
        self.redactor.spools[stream] = SpoolRedactor(self.redactor.secrets)
        return self._gap(error, 0, self.spools[stream].position - offset)

    def _gap(self, error: Exception, events: int, size: int) -> Event:
        log("not read", problem=type(error).__name__, bytes=size)
        return Event("gap", "the courier could not read it", {"events": events, "bytes": size})
