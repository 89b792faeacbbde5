"""The live page of a session: the page itself, and what a person does on it.

The page is served without the transcript, which it reads from the websocket (sessions/stream/consumers.py).
"""

import uuid
from collections.abc import Callable
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from unfold.admin import ModelAdmin

from sessions.lifecycle import idempotency, intake
from sessions.models import AgentSession
from sessions.stream import serializers

MAY_ONLY_READ = "You may read this session. Only members and owners of its group may do this."
Action = Callable[[AgentSession], dict[str, Any]]


class LivePage(ModelAdmin):
    """The change page of sessions is the live page; Django's form stands at `edit/`."""

    def get_urls(self) -> list[URLPattern]:
        """The live page's own addresses, before Django's."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        actions = {
            "message": self.message_view,
            "stop": self.stop_view,
            "close": self.close_view,
            "retry": self.retry_view,
            "cancel": self.cancel_view,
        }
        own = [
            path(f"<uuid:pk>/{action}/", self.admin_site.admin_view(view), name=f"{name}_{action}")
            for action, view in actions.items()
        ]
        edit = path("<path:object_id>/edit/", self.admin_site.admin_view(self.changeform_view), name=f"{name}_edit")
        return [*own, edit, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The live page."""
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        session = self.get_object(request, object_id)
        if session is None:
            raise Http404
        can_write = AgentSession.objects.writable_by(request.user).filter(pk=session.pk).exists()
        shown = serializers.for_page(session)
        if not can_write:
            shown |= dict.fromkeys(("can_stop", "can_close", "can_retry"), False)
        context = {
            **self.admin_site.each_context(request),
            "title": str(session),
            "opts": self.opts,
            "original": session,
            "object_id": object_id,
            "media": self.media,
            "shown": shown,
            "can_write": can_write,
            "can_edit": can_write,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/agent_sessions/agentsession/change_form.html", context)

    def message_view(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """POST `text` and optionally `key`: 202 with the message's number."""

        def post(session: AgentSession) -> dict[str, Any]:
            text, key = request.POST.get("text", ""), request.POST.get("key") or None

            def make() -> str:
                return str(intake.post_message(session, text, sender=request.user).number)

            return {"number": int(idempotency.once(request.user.pk, request.path, key, {"text": text}, make))}

        return self._act(request, pk, post)

    def stop_view(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """POST: end the run now."""
        return self._act(request, pk, lambda session: {"done": intake.stop(session, **_who(request))})

    def close_view(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """POST: end the run gracefully."""
        return self._act(request, pk, lambda session: {"done": intake.close(session, **_who(request))})

    def retry_view(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """POST: try again at once what failed."""
        return self._act(request, pk, lambda session: {"queued": intake.retry(session, **_who(request))})

    def cancel_view(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """POST `number`: take back a message that no agent has yet, or discard one that failed."""

        def cancel(session: AgentSession) -> dict[str, Any]:
            number = request.POST.get("number", "")
            if not number.isdecimal() or len(number) > 9:
                raise intake.Refused("number", "Say which message: its number.")
            return {"number": intake.cancel(session, int(number), **_who(request)).number}

        return self._act(request, pk, cancel)

    def _act(self, request: HttpRequest, pk: uuid.UUID, action: Action) -> HttpResponse:
        """Do `action` to a session that the person may write to; errors are JSON with words for the person."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        session = AgentSession.objects.visible_to(request.user).filter(pk=pk).first()
        if session is None:
            return JsonResponse({"error": "This session is not visible to you."}, status=404)
        if not AgentSession.objects.writable_by(request.user).filter(pk=pk).exists():
            return JsonResponse({"error": MAY_ONLY_READ}, status=403)
        try:
            return JsonResponse(action(session), status=202)
        except intake.Refused as refused:
            return JsonResponse({"error": str(refused), "field": refused.field}, status=422)
        except idempotency.Reused as reused:
            return JsonResponse({"error": str(reused)}, status=409)


def _who(request: HttpRequest) -> dict[str, Any]:
    """Who acts, as intake wants it."""
    return {"by": request.user.get_username(), "actor": request.user}
