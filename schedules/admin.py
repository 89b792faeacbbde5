"""The admin of tasks: making and changing them, when they are due, what became of them."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display

from groups.admin.toolkit.bases import VisibleAdmin
from groups.admin.toolkit.bulk_actions import bulk_action
from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import FixedFields
from groups.models import AgentGroup, AgentProfile
from schedules import execute, service
from schedules.choices import Context, Kind, Outcome, TaskState
from schedules.models import ScheduledTask
from sessions.admin.bases import truncate
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession

MOMENT = "%Y-%m-%d %H:%M:%S"
WRITTEN = ["state", "reason", "coming", "last_shown", "outcome", "outcome_words", "failures", "skipped"]

# Unfold shows a field while its expression, in the page's own language, is true. Whoever may only read has no form.
SHOWN_IF = "typeof {0} == 'undefined' || {0} == '{1}'"
NEEDS = {
    "cron": ("kind", Kind.CRON),
    "time_zone": ("kind", Kind.CRON),
    "every_seconds": ("kind", Kind.INTERVAL),
    "once_at": ("kind", Kind.ONCE),
    "session": ("context", Context.SESSION),
    "profile": ("context", Context.FRESH),
}


class TaskForm(forms.ModelForm):
    """A task as people edit it. What its kind and context don't need may stay empty."""

    def _post_clean(self) -> None:
        """A group has room for so many tasks and no more."""
        super()._post_clean()  # type: ignore[misc]
        if not self.errors and self.instance._state.adding:
            try:
                service.check_limit(self.instance)
            except InvalidRequest as error:
                self.add_error("group", str(error))

    class Meta:
        model = ScheduledTask
        fields = ["group", *service.EDITABLE]


CHANGING: dict[str, Any] = {"allowed": ScheduledTask.objects.writable_by, "refusals": (InvalidRequest,)}


@admin.register(ScheduledTask)
class ScheduledTaskAdmin(FixedFields, VisibleAdmin):
    """Tasks. Members of a group make and change them."""

    form = TaskForm
    state_shown = choice_column("state", TaskState)
    outcome_shown = choice_column("outcome", Outcome)
    list_display = [
        "name_shown", "group", "schedule_shown", "state_shown", "next_at", "last_at", "outcome_shown", "failures",
        "skipped", "reason",
    ]  # fmt: skip
    list_filter = ["state", "outcome", "kind"]
    list_select_related = ["group", "last_message"]
    search_fields = ["name", "prompt", "group__slug", "group__name", "agents_id"]
    autocomplete_fields = ["session"]
    conditional_fields = {field: SHOWN_IF.format(*needs) for field, needs in NEEDS.items()}
    readonly_fields = WRITTEN
    fixed_fields = ["group"]
    actions = [
        bulk_action(name="pause_selected", description="Pause", work=service.pause, done="paused", **CHANGING),
        bulk_action(name="resume_selected", description="Resume", work=service.resume, done="resumed", **CHANGING),
        bulk_action(name="run_selected", description="Run now", work=execute.run_now, done="run", **CHANGING),
    ]
    fieldsets = [
        (None, {"fields": ["group", "name", "prompt"]}),
        ("When", {"fields": ["kind", "cron", "time_zone", "every_seconds", "once_at"]}),
        ("Where", {"fields": ["context", "session", "profile"]}),
        ("Failures", {"fields": ["max_failures"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the long texts of each."""
        rows = super().get_queryset(request).annotate(begin=Left("prompt", 200))
        return rows.defer("prompt", "last_message__text", "last_message__reason")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What Berth wrote stands first, once there is something."""
        return [("Now", {"fields": WRITTEN}), *self.fieldsets] if obj else self.fieldsets

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Groups and sessions in which the person may write, profiles that are switched on."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name == "group":
            field.queryset = AgentGroup.objects.writable_by(request.user).filter(deleted_at=None)
        elif field is not None and db_field.name == "session":
            field.queryset = AgentSession.objects.writable_by(request.user)
        elif field is not None and db_field.name == "profile":
            field.queryset = AgentProfile.objects.filter(active=True)
        return field

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """As any other change: its next time is counted anew, and the audit log knows."""
        if not change:
            obj.created_by = request.user
        service.store(obj, actor=request.user, by=request.user.get_username())

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """As any other removal."""
        service.remove(obj, actor=request.user, by=request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """As any other removal."""
        for task in queryset:
            self.delete_model(request, task)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whoever is member or owner of a group."""
        return bool(request.user.is_superuser or AgentGroup.objects.writable_by(request.user).exists())

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may write in its group."""
        return obj is not None and ScheduledTask.objects.writable_by(request.user).filter(pk=obj.pk).exists()

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """As for changing."""
        return self.has_change_permission(request, obj)

    @display(description="task", ordering="name")
    def name_shown(self, task: Any) -> str:
        """Its name, or how its prompt begins."""
        return task.name or truncate(task.begin, 80)

    @display(description="due")
    def schedule_shown(self, task: ScheduledTask) -> str:
        """Its schedule."""
        return task.schedule_text

    @display(description="last")
    def last_shown(self, task: ScheduledTask) -> str | SafeString:
        """When it last ran, and the session where."""
        if task.last_at is None:
            return "never"
        if task.last_message is None:
            return f"{task.last_at:{MOMENT}} UTC"
        page = reverse("admin:agent_sessions_agentsession_change", args=[task.last_message.session_id])
        return format_html('{} UTC in <a href="{}">its session</a>', f"{task.last_at:{MOMENT}}", page)

    @display(description="next times")
    def coming(self, task: ScheduledTask) -> str | SafeString:
        """The next five times, by its own clocks and in UTC."""
        if task.next_at is None:
            return "none"
        times = task.next_times
        if not times:
            return "They can't be told: its schedule can't be read. Give it another one."
        if task.time_zone == "UTC" or task.kind == Kind.INTERVAL:
            return format_html_join("", "{} UTC<br>", ((f"{at:{MOMENT}}",) for at, _ in times))
        return format_html_join(
            "", "{} ({} UTC)<br>", ((f"{here:{MOMENT} %Z}", f"{at:{MOMENT}}") for at, here in times)
        )
