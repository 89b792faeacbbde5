"""Text as a database can hold it, wherever it comes from. Cut it after this, never before: no character is halved."""

from typing import Any

from courier.bounds import storable

__all__ = ["storable", "storable_data"]

DEEPEST = 50  # levels of lists and objects; what reads them all, here and on the pages, goes down by calling itself


def storable_data(value: Any, depth: int = 0) -> Any:
    """JSON as a database can hold it: the same, with every text in it storable, and no deeper than DEEPEST."""
    if isinstance(value, str):
        return storable(value)
    if depth >= DEEPEST and isinstance(value, list | dict):
        return "⟦nested too deeply⟧"
    if isinstance(value, list):
        return [storable_data(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable_data(item, depth + 1) for key, item in value.items()}
    return value
