"""The admin of the installation's limits: one row, so its menu entry leads straight to its page."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from groups.admin.toolkit.bases import GlobalAdmin, HistoryAdmin
from groups.admin.toolkit.pages import OneSaveButton
from groups.models import Limits

ONLY = "1"


@admin.register(Limits)
class LimitsAdmin(OneSaveButton, HistoryAdmin, GlobalAdmin):
    """What operators change while Berth runs; what they leave empty, the settings say."""

    fieldsets = [
        (
            "Everything",
            {
                "fields": ["hold", "hold_reason"],
                "description": "Open: sessions start. Paused: nothing new starts, what runs goes on. Draining: nothing "
                "new starts, and what runs is closed when its turn ends. What waits keeps its place in any case.",
            },
        ),
        ("Runs", {"fields": [("max_runs", "max_runs_per_group")]}),
    ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """There is no list of one row."""
        return HttpResponseRedirect(reverse("admin:groups_limits_change", args=[ONLY]))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Limits | None:
        """The row, or what stands for it before anybody has changed anything; looking makes none."""
        return Limits.current() if object_id == ONLY else None

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Fields that tell the settings which stand behind them."""
        form = super().get_form(request, obj, change=change, **kwargs)
        for field, setting in {"max_runs": "MAX_RUNS", "max_runs_per_group": "MAX_RUNS_PER_GROUP"}.items():
            if field in form.base_fields:
                default = getattr(settings, setting)
                form.base_fields[field].help_text = f"Empty: {default}, as the setting {setting} says."
                form.base_fields[field].widget.attrs["placeholder"] = str(default)
        return form

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Every change; before the first there is none to show."""
        if object_id == ONLY and not Limits.objects.exists():
            self.message_user(request, "Nobody has changed the limits yet.")
            return HttpResponseRedirect(reverse("admin:groups_limits_change", args=[ONLY]))
        return super().history_view(request, object_id, extra_context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """There is one already."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """There has to be one."""
        return False

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Stay on the page, with words that say so."""
        self.message_user(request, "The limits were changed. They hold from now on.")
        return HttpResponseRedirect(reverse("admin:groups_limits_change", args=[ONLY]))
