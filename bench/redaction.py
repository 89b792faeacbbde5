"""Redaction: ordinary output through the courier's redactor, with 20 secrets of 40 to 200 bytes, as the events of one
step (256 KiB in chunks of 32 KiB), in MB of output per second of one core's time.

The output is made of words of this repository's own pages and code, in lines. The floor is `bytes.count` of one string
over the same bytes. Each figure is the median of rounds that take turns. The same output as JSON events of 60 bytes,
which cost more to make than to redact, is told without a target.
"""

import random
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.harness import Figure, Outcome, median
from courier.events import Event, raw
from courier.redact import RunSecrets, SpoolRedactor
from redaction.secret_search import SecretSearch

ROOT = Path(__file__).resolve().parent.parent
SECRETS, SIZES = 20, (40, 200)
BYTES, STEP, CHUNK, LINE, ROUNDS = 16 * 1024 * 1024, 256 * 1024, 32 * 1024, 60, 7
TARGET = 50  # MB/s


def run() -> Outcome:
    """Measure; one row."""
    chance = random.Random(1)
    output = _output(chance)
    steps = [output[start : start + STEP] for start in range(0, len(output), STEP)]
    chunks = [[raw("stdout", step[at : at + CHUNK]) for at in range(0, STEP, CHUNK)] for step in steps]
    batches = [[Event("text", step[at : at + LINE].decode()) for at in range(0, STEP, LINE)] for step in steps]
    with tempfile.TemporaryDirectory() as folder:
        values = _secrets(Path(folder), chance)
        redactor = SpoolRedactor(RunSecrets(Path(folder), Path(folder) / "s0"))
        ways: list[Callable[[], None]] = [
            lambda: _each(steps, lambda step: step.count(b"a string that is nowhere")),
            lambda: _each(chunks, lambda events: redactor.redact(events, None, 0.0, final=True)),
            lambda: _each(batches, lambda events: redactor.redact(events, None, 0.0, final=True)),
        ]
        rates = [median(each) for each in zip(*[[_rate(way) for way in ways] for _ in range(ROUNDS)], strict=True)]
        begin = time.process_time()
        search = SecretSearch(enumerated(values))
        built = time.process_time() - begin
    floor, rate, small = rates
    shown = f"{rate:.0f} MB/s"
    row = Figure("redaction", shown, f"{floor:,.0f} MB/s", shown, f"≥ {TARGET} MB/s", rate >= TARGET)
    events = f"Events of {LINE} bytes: {small * 1e6 / LINE:,.0f} a second."
    return Outcome(
        [row],
        [f"{SECRETS} secrets have {len(search.known_values.strings)} forms, ready in {built * 1e3:.0f} ms.", events],
    )


def enumerated(values: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Give the values names."""
    return [(f"s{number}", value) for number, value in enumerate(values)]


def _output(chance: random.Random) -> bytes:
    """Make output: lines of words that the repository has."""
    pages = [path.read_text() for pattern in ("docs/*.md", "sessions/*.py") for path in sorted(ROOT.glob(pattern))]
    words = [word for word in " ".join(pages).split() if word.isascii()]
    lines: list[str] = []
    size = 0
    while size < BYTES:
        lines.append(" ".join(chance.choices(words, k=chance.randint(3, 15))) + "\n")
        size += len(lines[-1])
    return "".join(lines).encode()[:BYTES]


def _secrets(folder: Path, chance: random.Random) -> list[bytes]:
    letters = string.ascii_letters + string.digits + "+/=_-$&%!"
    values = ["".join(chance.choices(letters, k=chance.randint(*SIZES))).encode() for _ in range(SECRETS)]
    for name, value in enumerated(values):
        (folder / name).write_bytes(value)
    return values


def _each(steps: Sequence[Any], work: Callable[[Any], object]) -> None:
    for step in steps:
        work(step)


def _rate(work: Callable[[], None]) -> float:
    """MB of output per second of processor time."""
    begin = time.process_time()
    work()
    return BYTES / (time.process_time() - begin) / 1e6
