"""The live page of a session: the page itself, and what a person does on it.

The page is served without the transcript, which it reads from the websocket (sessions/stream/consumers.py).
"""

import uuid
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path

from groups.admin.toolkit.pages import ButtonViews, DetailPage
from sessions.lifecycle import idempotency, intake
from sessions.models import AgentSession
from sessions.stream import serializers

MAY_ONLY_READ = "You may read this session. Only members and owners of its group may do this."


class LivePage(ButtonViews, DetailPage):
    """The change page of sessions is the live page; Django's form stands at `edit/`. Its buttons answer with JSON."""

    detail_template = "admin/agent_sessions/agentsession/change_form.html"
    buttons = ["message", "stop", "close", "retry", "cancel"]
    pk_converter = "uuid"

    def get_urls(self) -> list[URLPattern]:
        """The form's own address, before Django's."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_edit"
        edit = path("<path:object_id>/edit/", self.admin_site.admin_view(self.changeform_view), name=name)
        return [edit, *super().get_urls()]

    def has_button_permission(self, request: HttpRequest, row: AgentSession) -> bool:
        """Whoever may write to the session."""
        return AgentSession.objects.writable_by(request.user).filter(pk=row.pk).exists()

    def get_details(self, request: HttpRequest, row: AgentSession) -> dict[str, Any]:
        """What the page shows before the websocket is there."""
        can_write = self.has_button_permission(request, row)
        shown = serializers.for_page(row)
        if not can_write:
            shown |= dict.fromkeys(("can_stop", "can_close", "can_retry"), False)
        return {"shown": shown, "can_write": can_write, "can_edit": can_write}

    def button_view(self, request: HttpRequest, pk: uuid.UUID, button: str) -> HttpResponse:
        """202 and what was done; errors have a text for the person."""
        try:
            return super().button_view(request, pk, button)
        except Http404:
            return JsonResponse({"error": "This session is not visible to you."}, status=404)
        except PermissionDenied:
            return JsonResponse({"error": MAY_ONLY_READ}, status=403)
        except intake.InvalidRequest as error:
            return JsonResponse({"error": str(error), "field": error.field}, status=422)
        except idempotency.Reused as reused:
            return JsonResponse({"error": str(reused)}, status=409)

    def message_view(self, request: HttpRequest, session: AgentSession) -> HttpResponse:
        """POST `text` and optionally `key`: the message's number."""
        text, key = request.POST.get("text", ""), request.POST.get("key") or None

        def make() -> str:
            return str(intake.post_message(session, text, sender=request.user).number)

        return accepted(number=int(idempotency.once(request.user.pk, request.path, key, {"text": text}, make)))

    def stop_view(self, request: HttpRequest, session: AgentSession) -> HttpResponse:
        """End the run now."""
        return accepted(done=intake.stop(session, **actor_of(request)))

    def close_view(self, request: HttpRequest, session: AgentSession) -> HttpResponse:
        """End the run gracefully."""
        return accepted(done=intake.close(session, **actor_of(request)))

    def retry_view(self, request: HttpRequest, session: AgentSession) -> HttpResponse:
        """Try again at once what failed."""
        return accepted(queued=intake.retry(session, **actor_of(request)))

    def cancel_view(self, request: HttpRequest, session: AgentSession) -> HttpResponse:
        """POST `number`: take back a message that no agent has yet, or discard one that failed."""
        number = request.POST.get("number", "")
        if not number.isdecimal() or len(number) > 9:
            raise intake.InvalidRequest("number", "Say which message: its number.")
        return accepted(number=intake.cancel(session, int(number), **actor_of(request)).number)


def accepted(**content: Any) -> JsonResponse:
    """What a button answers."""
    return JsonResponse(content, status=202)


def actor_of(request: HttpRequest) -> dict[str, Any]:
    """Who acts, as the keyword arguments of intake's functions."""
    return {"by": request.user.get_username(), "actor": request.user}
