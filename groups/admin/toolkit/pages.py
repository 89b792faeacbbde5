"""Pages of single rows: to read only, with one button, with fields that are chosen once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST, require_safe
from unfold.admin import ModelAdmin

from groups.admin.toolkit import extensions


def render(
    model_admin: "ModelAdmin[Any]", request: HttpRequest, template: str, title: str, context: dict[str, Any]
) -> TemplateResponse:
    """A page of the admin that Django has no view for."""
    shared = {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "opts": model_admin.opts,
        "media": model_admin.media,
    }
    return TemplateResponse(request, template, shared | context)


class DetailPage(ModelAdmin):
    """A change page that only shows its row: GET alone (405), for whoever may see the row (404)."""

    detail_template = ""

    def get_details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What the template shows, besides the row itself (`original`)."""
        raise NotImplementedError

    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        context = {"original": row, "object_id": object_id, "panels": extensions.panels_of(row)}
        context |= self.get_details(request, row) | (extra_context or {})
        return render(self, request, self.detail_template, str(row), context)


class ButtonViews(ModelAdmin):
    """Addresses for the buttons of a row's page: POST alone (405), a row that one sees (404) and may write to (403).

    Each of `buttons` is `PK/NAME/`, and does `NAME_view(request, row)`.
    """

    buttons: Sequence[str] = ()
    pk_converter = "int"

    def get_urls(self) -> list[URLPattern]:
        """The buttons' addresses, before Django's."""
        prefix = f"{self.opts.app_label}_{self.opts.model_name}"
        own = []
        for name in self.buttons:
            view = self.admin_site.admin_view(require_POST(partial(self.button_view, button=name)))
            own.append(path(f"<{self.pk_converter}:pk>/{name}/", view, name=f"{prefix}_{name}"))
        return [*own, *super().get_urls()]

    def has_button_permission(self, request: HttpRequest, row: Any) -> bool:
        """Whether the person may use the buttons of a row that they see."""
        raise NotImplementedError

    def button_view(self, request: HttpRequest, pk: Any, button: str) -> HttpResponse:
        """Do what the button says."""
        row = self.get_object(request, str(pk))
        if row is None:
            raise Http404
        if not self.has_button_permission(request, row):
            raise PermissionDenied
        response: HttpResponse = getattr(self, f"{button}_view")(request, row)
        return response


class OneSaveButton(ModelAdmin):
    """Add and change pages with one button, where to go on afterwards is decided."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page, without the other buttons."""
        one_button = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().changeform_view(request, object_id, form_url, one_button | (extra_context or {}))


class FixedFields(ModelAdmin):
    """Rows of which some fields are chosen when they are added and stay: `fixed_fields`.

    `add_form` is the form of a new row, if it has one of its own. Forms know who fills them in (`request`). Choosing
    another row in a field is no occasion to change it, so there are no buttons for that.
    """

    add_form: Any = None
    fixed_fields: Sequence[str] = ()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The fixed ones too, once the row is there."""
        return [*super().get_readonly_fields(request, obj), *(self.fixed_fields if obj else ())]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """The form of a new row, or of one that is there."""
        if obj is None and self.add_form is not None:
            kwargs["form"] = self.add_form
        form = super().get_form(request, obj, change=change, **kwargs)
        form.request = request
        for field in form.base_fields.values():
            if hasattr(field.widget, "can_add_related"):
                for verb in ("add", "change", "delete", "view"):
                    setattr(field.widget, f"can_{verb}_related", False)
        return form
