"""Asking once more before a list's action is done, and for what it needs to know."""

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminTextInputWidget

MOST = 500  # rows that one action takes at a time
SHOWN = 20  # of them, by name


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `action` is the action's name, `danger` colours its button."""

    action: str
    title: str
    words: str
    button: str
    danger: bool = False


class ReasonForm(forms.Form):
    """Why something is done, for those who will ask."""

    reason = forms.CharField(
        label="Why", max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Shown to everybody who waits."
    )


def confirmed(request: HttpRequest) -> bool:
    """Whether this is the answer to a question of `ask`."""
    return "confirmed" in request.POST


def too_many(request: HttpRequest, rows: QuerySet[Any]) -> bool:
    """Whether more rows were chosen than an action takes; says so."""
    if len(rows[: MOST + 1]) <= MOST:
        return False
    messages.error(request, f"These are more than {MOST} rows. Choose fewer, by a filter for instance.")
    return True


def ask(
    model_admin: "ModelAdmin[Any]",
    request: HttpRequest,
    rows: QuerySet[Any],
    question: Question,
    form: forms.Form | None = None,
) -> HttpResponse:
    """The page that asks. Its form posts the same action again, with `confirmed` and the fields of `form`."""
    chosen: list[Model] = list(rows)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": question.title,
        "opts": model_admin.opts,
        "media": model_admin.media,
        "question": question,
        "rows": chosen,
        "shown": chosen[:SHOWN],
        "more": max(len(chosen) - SHOWN, 0),
        "form": form,
        "checkbox": ACTION_CHECKBOX_NAME,
    }
    return TemplateResponse(request, "admin/berth/confirm.html", context)


def tell(request: HttpRequest, counts: dict[str, int]) -> None:
    """Say what happened: `{"stopped": 3, "had nothing to stop": 1}` is "3 stopped, 1 had nothing to stop"."""
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    first = next(iter(counts.values()), 0)
    (messages.success if first else messages.warning)(request, f"{words or 'Nothing was chosen'}.")
