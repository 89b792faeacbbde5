"""The agent's wrapper: a POSIX sh script that needs nothing of the agent's image but a shell and sleep."""

from collections.abc import Sequence
from pathlib import Path

SCRIPT: str = Path(__file__).with_name("wrapper.sh").read_text()


def wrap(command: Sequence[str]) -> list[str]:
    """Return the argv that runs `command` between the FIFOs of $BERTH_PIPES; $BERTH_STOP_GRACE is in seconds."""
    return ["sh", "-c", SCRIPT, "berth", *command]
