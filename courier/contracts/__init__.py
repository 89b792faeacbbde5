"""What agents speak: one module for each contract, all with the interface of `courier.contracts.base.Contract`."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from courier.contracts.base import Contract
    from courier.settings import Settings

CLASSES = {"plain": "Plain", "jsonl": "Jsonl", "claude": "Claude", "nanoclaw": "Nanoclaw"}  # module to class
NAMES = tuple(CLASSES)


def make_contract(name: str, settings: "Settings", state: dict[str, Any] | None = None) -> "Contract":
    """Return the contract of that name, with the state of an earlier courier. Raises ValueError for an unknown name.

    Imports the one that is used, since each run pays for what it loads.
    """
    _require_known(name)
    contract: Contract = getattr(import_module(f"courier.contracts.{name}"), CLASSES[name])(settings, state)
    return contract


def argv(contract: str, command: Sequence[str], resume: str) -> list[str]:
    """Return the agent's argv: `command`, with what makes it go on with the conversation `resume` ("" for none).

    Only claude is told by argument; nanoclaw finds the id in its input. Raises ValueError for an unknown contract.
    """
    _require_known(contract)
    return [*command, "--resume", resume] if contract == "claude" and resume else list(command)


def _require_known(name: str) -> None:
    if name not in CLASSES:
        raise ValueError(f"unknown contract {name!r}: one of {', '.join(NAMES)}")
