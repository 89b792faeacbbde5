"""What agents speak: one module for each contract, all with the interface of `courier.contracts.base.Contract`."""

from collections.abc import Sequence

NAMES = ("plain", "jsonl", "claude", "nanoclaw")


def argv(contract: str, command: Sequence[str], resume: str) -> list[str]:
    """Return the agent's argv: `command`, with what makes it go on with the conversation `resume` ("" for none).

    Only claude is told by argument; nanoclaw finds the id in its input. Raises ValueError for an unknown contract.
    """
    if contract not in NAMES:
        raise ValueError(f"unknown contract {contract!r}: one of {', '.join(NAMES)}")
    return [*command, "--resume", resume] if contract == "claude" and resume else list(command)
