"""The admin of API tokens: people create their own, see when they were used, and revoke them."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from groups import audit
from groups.admin.toolkit.bases import ReadOnlyAdmin
from groups.admin.toolkit.columns import choice_column, colours
from groups.admin.toolkit.pages import FixedFields, render
from groups.choices import Scope, TokenState
from groups.models import AgentGroup, ApiToken
from groups.models.tokens import DEFAULT_DAYS, MAX_DAYS


class TokenForm(forms.ModelForm):
    """A new token."""

    days = forms.IntegerField(
        label="Days",
        initial=DEFAULT_DAYS,
        min_value=1,
        max_value=MAX_DAYS,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="How long it is good.",
    )

    class Meta:
        model = ApiToken
        fields = ["name", "scope", "group"]


@admin.register(ApiToken)
class ApiTokenAdmin(FixedFields, ReadOnlyAdmin):
    """Keys of programs. A token is shown once, when it is made; afterwards it can only be revoked."""

    add_form = TokenForm
    scope_shown = choice_column("scope", Scope, "may")
    list_display = ["name_shown", "user", "scope_shown", "group", "state", "expires_at", "last_used_at", "created_at"]
    list_filter = [("scope", ChoicesRadioFilter)]
    list_filter_submit = True
    list_select_related = ["user", "group"]
    search_fields = ["name", "user__username"]
    readonly_fields = ["user", "created_at", "expires_at", "last_used_at"]

    def visible_rows(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """One's own; all of them for a superuser."""
        return rows if request.user.is_superuser else rows.filter(user_id=request.user.pk)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """What one decides when making one; all but the token itself later."""
        made = ["name", "scope", "group"]
        return [*made, *self.readonly_fields] if obj else [*made, "days"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """One's own groups."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name == "group":
            field.queryset = AgentGroup.objects.visible_to(request.user).filter(deleted_at=None)
            field.empty_label = "All of yours"
        return field

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Everybody, for themselves: a token may no more than its person."""
        return True

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever sees a token may revoke it."""
        return obj is None or request.user.is_superuser or obj.user_id == request.user.pk

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """The token itself is kept for the answer to this request alone."""
        obj.user = request.user
        request.new_token = obj.mint(form.cleaned_data["days"])  # type: ignore[attr-defined]
        obj.save()
        audit.record_token(obj, actor=request.user)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """The page that shows the token. It is kept by nobody: no cache, no message, no address."""
        context = {"token": request.new_token, "row": obj}  # type: ignore[attr-defined]
        answer = render(self, request, "admin/groups/apitoken/made.html", "API token", context)
        answer["Cache-Control"] = "no-store"
        return answer

    @display(description="name", ordering="name")
    def name_shown(self, token: ApiToken) -> str:
        """Its name, or whose it is."""
        return str(token)

    @display(description="state", label=colours(TokenState))
    def state(self, token: ApiToken) -> tuple[str, str]:
        """Whether it opens anything."""
        over = token.expires_at is not None and token.expires_at <= timezone.now()
        found = TokenState.OVER if over else TokenState.GOOD
        return found, found.label
