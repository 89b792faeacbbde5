"""What an app adds to the admin pages of an app below it, which does not know the other."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.db.models import Model
from django.http import HttpResponse
from django.utils.safestring import SafeString

Action = Callable[..., HttpResponse | None]
Panel = Callable[[Any], SafeString]

_actions: defaultdict[type[Model], list[Action]] = defaultdict(list)
_panels: defaultdict[type[Model], list[Panel]] = defaultdict(list)


def add_action(model: type[Model], action: Action) -> None:
    """Offer an action in the list of a model whose admin is a `VisibleAdmin`."""
    _actions[model].append(action)


def add_panel(model: type[Model], panel: Panel) -> None:
    """Show `panel(row)` on each page of a model whose admin is a `DetailPage`; its template shows `panels`."""
    _panels[model].append(panel)


def actions_of(model: type[Model]) -> list[Action]:
    """The actions that were added to a model's list."""
    return list(_actions[model])


def panels_of(row: Model) -> list[SafeString]:
    """What was added to the page of a row."""
    return [panel(row) for panel in _panels[type(row)]]
