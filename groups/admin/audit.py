"""The admin of the audit log: read, filtered, taken along as CSV, and never changed."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from unfold.contrib.filters.admin import DropdownFilter, FieldTextFilter, RangeDateFilter
from unfold.decorators import action, display
from unfold.views import ChangeList

from groups import permissions, times
from groups.admin.toolkit.bases import ReadOnlyAdmin, SingleCountChangeList
from groups.audit_export import lines
from groups.models import AuditEntry

RECENT = 10_000  # entries whose actions are offered in the filter


class ActionFilter(DropdownFilter):
    """By what was done."""

    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The actions of late, among the entries that one sees."""
        recent = model_admin.get_queryset(request).order_by("-pk").values("action")[:RECENT]
        actions = (
            AuditEntry.objects.filter(pk__in=recent.values("pk")).order_by("action").values_list("action", flat=True)
        )
        return [(name, name) for name in actions.distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The entries of one action."""
        return queryset.filter(action=self.value()) if self.value() else queryset


class DaysFilter(RangeDateFilter):
    """From one day to another, both of them whole, in UTC."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The entries of those days; what is no date narrows nothing."""
        first, last = (_day(self.used_parameters.get(name)) for name in self.expected_parameters())
        if first:
            queryset = queryset.filter(at__gte=first)
        return queryset.filter(at__lt=last + timedelta(days=1)) if last else queryset


def _day(text: Any) -> datetime | None:
    """The beginning of a day."""
    try:
        return times.bounded(datetime.combine(date.fromisoformat(str(text)), time.min, UTC))
    except ValueError:
        return None


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who did what. For superusers, and whoever was given the permission to see audit entries."""

    list_display = ["at", "by", "action", "target", "group", "details_shown"]
    list_filter = [ActionFilter, ("by", FieldTextFilter), ("at", DaysFilter)]
    list_filter_submit = True
    list_select_related = ["group"]
    search_fields = ["target", "by", "action"]
    search_help_text = "An id, a name or an action"
    ordering = ["-pk"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = ["export"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """A long list."""
        return SingleCountChangeList

    def visible_rows(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """All of them, as the permission has decided; for an operator of some groups those of these groups."""
        if not permissions.is_scoped_operator(request.user):
            return rows
        return rows.filter(permissions.permission_filter(request.user, permissions.Right.OPERATE))

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers have every permission."""
        return bool(request.user.has_perm("groups.view_auditentry"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """It stands in the menu of those who may look."""
        return self.has_view_permission(request)

    @action(description="Export as CSV", permissions=["view"])
    def export(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> StreamingHttpResponse:
        """The chosen entries as a file, however many they are."""
        answer = StreamingHttpResponse(lines(queryset.select_related("group")), content_type="text/csv; charset=utf-8")
        answer["Content-Disposition"] = 'attachment; filename="audit.csv"'
        return answer

    @display(description="details")
    def details_shown(self, entry: AuditEntry) -> str:
        """On one line."""
        return ", ".join(f"{name}: {value}" for name, value in entry.details.items())[:200]
