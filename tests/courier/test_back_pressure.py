"""An agent that says more than the control plane takes is held up by its own pipe, and loses nothing."""

from pathlib import Path

from courier.courier import MAX_BACKLOG
from testbed.waiting import wait_for
from tests.courier.conftest import Make

TOTAL = 3 * MAX_BACKLOG
FLOOD = """
import os
line = b"x" * 1023 + b"\\n"
for number in range({count}):
    os.write(1, line)
    if number % 64 == 0:
        open({progress!r}, "w").write(str(number * 1024))
"""


def test_a_flood_waits_in_the_agents_pipe(bench: Make, tmp_path: Path) -> None:
    run, progress, slow = bench("plain"), tmp_path / "progress", True
    run.desk.manner = lambda _: "429" if slow else ""
    run.start_courier()
    run.python(FLOOD.format(count=TOTAL // 1024, progress=str(progress)))
    written: list[str] = []

    def stands() -> bool:
        """Fifty looks, a second in all, at the same place: nothing moves any more."""
        written.append(progress.read_text() if progress.exists() else "")
        return len(written) > 50 and written[-1] != "" and len(set(written[-50:])) == 1

    run.desk.say("go")
    wait_for(stands, 60, "a flood that stands")
    assert MAX_BACKLOG / 2 < int(written[-1]) < 2 * MAX_BACKLOG
    slow = False
    wait_for(lambda: run.desk.of("exit"), 120, "the end of the flood")
    assert not run.desk.of("gap")
    assert sum(len(event["text"]) for event in run.desk.of("text")) == TOTAL
