"""Who calls the API, what they may see and change, and what they may repeat.

What somebody may not see is not there: 404. What they see and may not change: 403.
"""

import uuid
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from ninja import Schema
from ninja.errors import HttpError

from groups.models import AgentGroup
from sessions.lifecycle import idempotency
from sessions.models import AgentSession


def user_of(request: HttpRequest) -> Any:
    """The person that the request's token acts as."""
    return request.auth  # type: ignore[attr-defined]


def actor(request: HttpRequest) -> dict[str, Any]:
    """Who acts, as keyword arguments of what is noted in the audit log."""
    user = user_of(request)
    return {"by": user.get_username(), "actor": user}


def find_group(request: HttpRequest, slug: str, change: str = "") -> AgentGroup:
    """A group; `change` names what of it the caller wants to change, if anything. Raises HttpError."""
    group = AgentGroup.objects.visible_to(user_of(request)).filter(slug=slug).first()
    if group is None:
        raise HttpError(404, "There is no such group, or you are not in it.")
    if change and not AgentGroup.objects.writable_by(user_of(request)).filter(pk=group.pk).exists():
        raise HttpError(403, f"You may read this group's {change}. Ask an owner for the role of a member.")
    return group


def find_session(request: HttpRequest, session_id: uuid.UUID, write: bool = False) -> AgentSession:
    """A session. Raises HttpError."""
    sessions = AgentSession.objects.visible_to(user_of(request)).select_related("group", "profile")
    session = sessions.filter(pk=session_id).first()
    if session is None:
        raise HttpError(404, "There is no such session, or it is not yours.")
    if write and not AgentSession.objects.writable_by(user_of(request)).filter(pk=session_id).exists():
        raise HttpError(403, "You may read this session. Ask an owner of its group for the role of a member.")
    return session


def once(request: HttpRequest, body: Schema | None, make: Callable[[], str]) -> str:
    """`idempotency.once` for a request of the API, after it was found that the caller may do this."""
    payload = body.model_dump(mode="json", exclude_unset=True) if body else None
    return idempotency.once(user_of(request).pk, request.path, request.headers.get("Idempotency-Key"), payload, make)
