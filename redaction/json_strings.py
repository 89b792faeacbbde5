"""The strings of a JSON value, keys among them."""

from collections.abc import Callable, Iterator
from typing import Any


def json_strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, also keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from json_strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from json_strings(item)


def map_strings(function: Callable[[str], str], value: Any) -> Any:
    """Return a JSON value with the function applied to every string in it, also to keys."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, list):
        return [map_strings(function, item) for item in value]
    if isinstance(value, dict):
        return {function(key): map_strings(function, item) for key, item in value.items()}
    return value
