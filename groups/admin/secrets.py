"""The admin of secrets: references and who may use them, keys that stay out of pods, and what models cost.

No page has a value. Owners see which secrets their agents may get, when they last did, and whether they can be read.
"""

from typing import Any

from django.contrib import admin
from django.db.models import Max, Model, OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import display

from groups import audit, permissions
from groups.admin.toolkit.bases import GlobalAdmin, HistoryAdmin, VisibleAdmin
from groups.models import AgentGroup, BrokeredKey, SecretReference, SecretUse

GRANTS = ("profiles", "groups")


class SecretUseInline(TabularInline):
    """When the agents of which group last got a secret."""

    model = SecretUse
    fields = readonly_fields = ["group", "last_at"]
    extra = 0
    can_delete = False
    verbose_name_plural = "last use"

    def get_queryset(self, request: HttpRequest) -> QuerySet[SecretUse]:
        """Those of groups that the person may see."""
        return super().get_queryset(request).filter(group__in=AgentGroup.objects.visible_to(request.user))

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever sees the secret."""
        return True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Berth alone writes it."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Berth alone writes it."""
        return False


@admin.register(SecretReference)
class SecretReferenceAdmin(HistoryAdmin, VisibleAdmin):
    """Names of secrets, where they are, and who may use them. `sessions` adds the action that reads them."""

    list_display = ["name", "description", "kind_shown", "last_used"]
    list_filter = [("kind", ChoicesRadioFilter)]
    search_fields = ["name", "description"]
    autocomplete_fields = ["profiles", "groups"]
    inlines = [SecretUseInline]
    fieldsets = [
        (None, {"fields": ["name", "description"]}),
        (
            "Where its value is",
            {
                "fields": ["kind", "place"],
                "description": "It is read when a run starts, and delivered as a file under /var/secrets. What may be "
                "read of the control plane's own, settings say.",
            },
        ),
        (
            "Who may use it",
            {
                "fields": ["profiles", "groups", "every_group"],
                "description": "Agents get it if both their profile and their group may. The profile names it as "
                "ref:NAME.",
            },
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[SecretReference]:
        """With the last use, in groups that the person may see."""
        seen = SecretUse.objects.filter(
            reference=OuterRef("pk"), group__in=AgentGroup.objects.visible_to(request.user).order_by().values("pk")
        )
        last = seen.order_by().values("reference").annotate(last=Max("last_at")).values("last")
        return super().get_queryset(request).annotate(last=Subquery(last))

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Where a value is, and for whom else, is for operators."""
        return self.fieldsets if SecretReference.editable_by(request.user) else self.fieldsets[:1]

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Nor may others find out where it is, by filtering letter by letter."""
        return self.list_filter if SecretReference.editable_by(request.user) else []

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Operators of the whole installation."""
        return super().has_add_permission(request) and SecretReference.editable_by(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Operators of the whole installation."""
        return SecretReference.editable_by(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Operators of the whole installation, with Django's permission."""
        return super().has_delete_permission(request, obj) and SecretReference.editable_by(request.user)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """It tells of places, so it is for operators."""
        if not SecretReference.editable_by(request.user):
            raise Http404
        return super().history_view(request, object_id, extra_context)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Note what was granted and taken back."""
        reference = form.instance
        before = _grants(reference)
        super().save_related(request, form, formsets, change)
        after = _grants(reference)
        given, taken = sorted(after - before), sorted(before - after)
        if given:
            audit.record("secret.grant", actor=request.user, target=reference.pk, name=reference.name, to=given)
        if taken:
            audit.record("secret.revoke", actor=request.user, target=reference.pk, name=reference.name, of=taken)

    def save_model(self, request: HttpRequest, obj: SecretReference, form: Any, change: bool) -> None:
        """Note that the source changed, or that every group may use it."""
        super().save_model(request, obj, form, change)
        if changed := sorted({"name", "kind", "place", "every_group"} & set(form.changed_data)):
            verb = "change" if change else "make"
            details = {"changed": changed, "every_group": obj.every_group}
            audit.record(f"secret.{verb}", actor=request.user, target=obj.pk, name=obj.name, told=details)

    def delete_model(self, request: HttpRequest, obj: SecretReference) -> None:
        """Note who did it."""
        audit.record("secret.remove", actor=request.user, target=obj.pk, name=obj.name)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[SecretReference]) -> None:
        """Note each."""
        for each in queryset:
            self.delete_model(request, each)

    @display(description="source", ordering="kind")
    def kind_shown(self, reference: SecretReference) -> str:
        """The kind alone."""
        return reference.get_kind_display().partition(" (")[0]

    @display(description="last use", ordering="last", empty_value="never")
    def last_used(self, reference: Any) -> Any:
        """When a run last got it."""
        return reference.last


@admin.register(BrokeredKey)
class BrokeredKeyAdmin(HistoryAdmin, GlobalAdmin):
    """Keys that the credential broker uses for agents."""

    list_display = ["provider", "group", "profile", "reference", "base_url", "active"]
    list_filter = [("provider", ChoicesRadioFilter), "active"]
    list_filter_submit = True
    list_select_related = ["group", "profile", "reference"]
    search_fields = ["provider", "group__slug", "profile__slug", "reference__name"]
    autocomplete_fields = ["group", "profile", "reference"]
    fieldsets = [
        (
            None,
            {
                "fields": ["provider", "reference", "active"],
                "description": "Agents get a stand-in, good for their run alone, and talk to Berth, which puts the key "
                "into their requests.",
            },
        ),
        ("For whom", {"fields": ["group", "profile"]}),
        ("Where to", {"fields": ["base_url", "header", "file"], "classes": ["collapse"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[BrokeredKey]:
        """For operators of some groups: theirs, and those that are for every group."""
        rows = super().get_queryset(request)
        if not permissions.is_scoped_operator(request.user):
            return rows
        return rows.filter(Q(group=None) | permissions.permission_filter(request.user, permissions.Right.OPERATE))

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        raise Http404


def _grants(reference: SecretReference) -> set[str]:
    """Whom a secret is granted to: "profile NAME" and "group NAME"."""
    return {f"{field[:-1]} {each.slug}" for field in GRANTS for each in getattr(reference, field).all()}
