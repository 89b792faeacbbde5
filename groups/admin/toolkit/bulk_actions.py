"""What is done to many rows of a list at once: asked once more where it needs it, done to each, and counted."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from groups.admin.toolkit.pages import render

MOST = 500  # rows that one action takes at a time
SHOWN = 20  # of them, by name
NOT_ALLOWED = "not allowed"
UNCHANGED = "left as they are"
Outcome = Any  # of one row: False if nothing changed, a text to be counted as such, anything else if it was done


class ActionForm(forms.Form):
    """What is asked besides yes or no. Its cleaned data are keyword arguments of the action's `work`."""

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        """Fit the form to the person who is asked, and to the rows that were chosen."""


class ReasonForm(ActionForm):
    """Why something is done, for those who will ask."""

    reason = forms.CharField(
        label="Why", max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Shown to everybody who waits."
    )


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The page that asks once more. `danger` colours its button."""

    title: str
    text: str
    button: str
    danger: bool = False
    form: type[ActionForm] = ActionForm


def bulk_action(
    *,
    name: str,
    description: str,
    work: Callable[..., Outcome],
    allowed: Callable[[Any], QuerySet[Any]],
    done: str,
    unchanged: str = UNCHANGED,
    confirmation: Confirmation | None = None,
    permissions: Iterable[str] | None = None,
    select: Callable[[QuerySet[Any]], Iterable[Model]] = QuerySet.all,
    refusals: tuple[type[Exception], ...] = (),
) -> Callable[..., HttpResponse | None]:
    """An action for `ModelAdmin.actions`.

    It does `work(row, by=username, actor=user, **fields of the form)` to each row that is among `allowed(user)`, one by
    one, so that one that fails leaves the others done. Then it says "3 stopped, 1 not allowed". Of `refusals` it says
    the text as well. `select` makes the rows to act on of those that were chosen.
    """

    def run(model_admin: "ModelAdmin[Any]", request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        rows = list(select(queryset))
        if len(rows) > MOST:
            messages.error(request, f"These are more than {MOST} rows. Choose fewer, by a filter for instance.")
            return None
        fields: dict[str, Any] = {}
        if confirmation is not None:
            form = confirmation.form(request.POST if "confirmed" in request.POST else None)
            form.prepare(request, rows)
            if not form.is_valid():
                context = {"question": confirmation, "action": name, "rows": rows, "shown": rows[:SHOWN], "form": form}
                context |= {"more": max(len(rows) - SHOWN, 0), "checkbox": ACTION_CHECKBOX_NAME}
                return render(model_admin, request, "admin/berth/confirm.html", confirmation.title, context)
            fields = form.cleaned_data
        user: Any = request.user
        permitted = set(allowed(user).filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
        counts = Counter({done: 0, unchanged: 0})
        for row in rows:
            outcome: Outcome = NOT_ALLOWED
            if row.pk in permitted:
                try:
                    outcome = work(row, by=user.get_username(), actor=user, **fields)
                except refusals as refusal:
                    messages.error(request, f"{row}: {refusal}")
                    outcome = False
            counts[outcome if isinstance(outcome, str) else unchanged if outcome is False else done] += 1
        text = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        (messages.success if counts[done] else messages.warning)(request, f"{text or 'Nothing was chosen'}.")
        return None

    run.__name__ = name
    decorated: Callable[..., HttpResponse | None] = action(description=description, permissions=permissions)(run)
    return decorated
