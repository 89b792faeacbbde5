"""What all of Berth's admin pages share: who sees what, and who did what."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import ForeignKey, JSONField, Model, QuerySet
from django.forms.fields import InvalidJSONInput
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.views import ChangeList

from groups import permissions
from groups.admin.toolkit import extensions
from groups.models import AgentGroup
from groups.texts import storable_data

# What a filter's field is asked for, in the addresses that Django's filters and unfold's make.
LOOKUP = re.compile(r"(?:__(?:id|pk|slug))?(?:__(?:exact|in|isnull|gte?|lte?|icontains))?|_(?:from|to)")


class FiltersOnly(ModelAdmin):
    """Lists that are asked by their own filters and by nothing else.

    Django lets an address ask anything of a row's own fields: what a page keeps from somebody could be found out letter
    by letter, and a pattern (`__regex`) could take the database minutes.
    """

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Whether an address may ask this."""
        filters = self.get_list_filter(request) if request else self.list_filter
        allowed = any(_makes_lookup(each, lookup) for each in filters)
        return allowed and bool(super().lookup_allowed(lookup, value, request))


def _makes_lookup(each: Any, lookup: str) -> bool:
    """Whether a filter of a list (a field, a field with its filter, or a filter of its own) makes such an address."""
    field = each if isinstance(each, str) else each[0] if isinstance(each, tuple | list) else ""
    if not field:
        return bool(lookup == each.parameter_name)
    return lookup.startswith(field) and LOOKUP.fullmatch(lookup, len(field)) is not None


class VisibleSelectFilter(AutocompleteSelectFilter):
    """A filter by another row, which names the chosen one only to whoever sees it."""

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        """The form, whose field knows no other rows."""
        rows = self.model_admin.admin_site.get_model_admin(self.field.remote_field.model).get_queryset(self.request)
        for choice in super().choices(changelist):
            choice["form"].fields[self.lookup_kwarg].queryset = rows
            yield choice


class VisibleAdmin(FiltersOnly):
    """Pages of rows that people see by their membership of a group; what one may not see is not there (404).

    Whoever may use the admin at all may look. Changing asks for Django's permissions as well.
    """

    list_per_page = 50

    def _get_base_actions(self) -> list[Any]:
        """The list's own actions, and those of other apps."""
        added = [self.get_action(action) for action in extensions.actions_of(self.model)]
        return [*super()._get_base_actions(), *filter(None, added)]

    def visible_rows(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Those of `rows` that the request's user may see."""
        return rows.visible_to(request.user)  # type: ignore[attr-defined]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """What every page, search and filter starts from."""
        return self.visible_rows(request, super().get_queryset(request))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """The app stands in everybody's menu."""
        return True

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """The queryset has decided already."""
        return True

    def is_operated(self, request: HttpRequest, obj: Model | None) -> bool:
        """Whether the person operates the group of a row, or everything."""
        if obj is None or request.user.is_superuser:
            return True
        operable = getattr(type(obj)._default_manager, "operable_by", None)
        return operable is not None and operable(request.user).filter(pk=obj.pk).exists()

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Django's permission, for the rows of groups that the person operates."""
        return super().has_change_permission(request, obj) and self.is_operated(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Django's permission, for the rows of groups that the person operates."""
        return super().has_delete_permission(request, obj) and self.is_operated(request, obj)

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        raise Http404

    def formfield_for_foreignkey(self, db_field: "ForeignKey[Any]", request: HttpRequest, **kwargs: Any) -> Any:
        """Offer only groups that the person may see."""
        if db_field.remote_field.model is AgentGroup:
            kwargs["queryset"] = AgentGroup.objects.visible_to(request.user)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


class SingleCountChangeList(ChangeList):
    """A list that is counted once, not a second time without its filters."""

    def get_results(self, request: HttpRequest) -> None:
        """The rows of this page."""
        super().get_results(request)
        if not self.has_active_filters and not self.query:
            self.full_result_count = self.result_count


class ReadOnlyAdmin(VisibleAdmin):
    """Rows that only Berth writes: nobody adds, changes or deletes one, and pages of rows take no POST (405)."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """No."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """No."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """No."""
        return False

    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Django's page of a row, whose fields can't be edited."""
        return super().change_view(request, object_id, form_url, extra_context)


class JsonField(forms.JSONField):
    """JSON as it was typed, wherever it can't be read or a page can't show it (lone surrogates, deep nesting)."""

    def to_python(self, value: Any) -> Any:
        """The value. Raises ValidationError."""
        try:
            return super().to_python(value)
        except RecursionError:
            raise ValidationError("It is nested too deeply.") from None

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What the form shows again."""
        try:
            shown = super().bound_data(data, initial)
        except RecursionError:
            return InvalidJSONInput(data)
        return shown if storable_data(shown) == shown else InvalidJSONInput(data)


class HistoryAdmin(SimpleHistoryAdmin):
    """Pages of who changed what of a row, for those who see the row; of rows that are gone, for superusers."""

    formfield_overrides = {JSONField: {"form_class": JsonField}}

    history_list_per_page = 50

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Every change of a row."""
        self._must_be_visible(request, object_id)
        return super().history_view(request, object_id, extra_context)

    def history_form_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Not here: the list tells what changed, and a step back would undo more than a person sees there."""
        raise Http404

    def _must_be_visible(self, request: HttpRequest, object_id: str) -> None:
        if self.get_object(request, object_id) is not None:
            return
        with contextlib.suppress(ValueError, ValidationError):  # no id at all
            if (
                request.user.is_superuser
                and self.model.history.filter(**{self.model._meta.pk.attname: object_id}).exists()
            ):
                return
        raise Http404


class SuperusersAdmin(ModelAdmin):
    """Pages of what decides on everybody's power: for superusers, whatever permissions others have."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        """It stands in the menu of superusers."""
        return bool(request.user.is_superuser)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)


class GlobalAdmin(FiltersOnly):
    """Pages of what belongs to no group. An operator of some groups may look, if permitted, and change nothing."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Django's permission, for those who operate everything."""
        return super().has_add_permission(request) and not permissions.is_scoped_operator(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Django's permission, for those who operate everything."""
        return super().has_change_permission(request, obj) and not permissions.is_scoped_operator(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Django's permission, for those who operate everything."""
        return super().has_delete_permission(request, obj) and not permissions.is_scoped_operator(request.user)
