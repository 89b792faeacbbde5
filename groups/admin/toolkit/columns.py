"""Columns of lists that show a choice as a coloured label."""

from collections.abc import Callable
from typing import Any

from unfold.decorators import display

from groups.choice_set import ChoiceSet


def colours(choices: type[ChoiceSet]) -> dict[str, str]:
    """Value → colour, as `display(label=…)` takes it."""
    return {str(choice.value): choice.colour for choice in choices}


def choice_column(field: str, choices: type[ChoiceSet], description: str = "") -> Callable[..., tuple[str, str]]:
    """A column with the label of a field, in its colour."""

    @display(description=description or field, ordering=field, label=colours(choices))
    def column(_: Any, row: Any) -> tuple[str, str]:
        return getattr(row, field), getattr(row, f"get_{field}_display")()

    return column
