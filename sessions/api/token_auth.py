"""How a program says who it is: an API token, whose scope and group narrow what its person may do."""

import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from ninja.errors import HttpError
from ninja.security import HttpBearer

from groups.choices import Scope
from groups.models import ApiToken
from groups.permissions import restrict_to_group
from sessions.client_address import client_network, request_address
from sessions.models import AgentSession
from sessions.throttle import attempts, spend

KNOWN_SECONDS = 3600  # for which a token that was right is looked up whatever others of its address try
READING = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.1: safe methods


class Token(HttpBearer):
    """`Authorization: Bearer …`, made by `manage.py create_token` or in the admin."""

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        """The person that the token acts as; None refuses. Raises HttpError(403) if its scope is too small."""
        found = _find(request, token)
        if found is None:
            return None
        if request.method not in READING and found.scope != Scope.WRITE:
            raise HttpError(403, f"This token has the scope {found.scope}; this call needs the scope {Scope.WRITE}.")
        request.token = token  # type: ignore[attr-defined]
        return acting(found)


def _find(request: HttpRequest, token: str) -> ApiToken | None:
    """The token's row. Raises Throttled if too many wrong ones came from this address.

    One that was right lately is looked up all the same: programs share an address, and one that has an old token must
    not shut the others out.
    """
    where, known = client_network(request_address(request)), f"token.known:{ApiToken.hash(token)}"
    if attempts("token", where) >= settings.LOGIN_ATTEMPTS_PER_MINUTE and not cache.get(known):
        spend("token", where)
    found = ApiToken.authenticate(token)
    if found is None:
        cache.delete(known)
        spend("token", where)
    else:
        cache.add(known, 1, KNOWN_SECONDS)
    return found


def acting(token: ApiToken) -> Any:
    """The person that a token acts as: with no more than its group, and named in the audit log with the token."""
    user: Any = token.user
    user.via = f"token {token.label}"
    return restrict_to_group(user, token.group_id)


def may_see(token: str, session_id: uuid.UUID) -> Callable[[], bool]:
    """A question to be asked again and again: whether this token, as it is now, may see a session."""

    def ask() -> bool:
        found = ApiToken.authenticate(token)
        return found is not None and AgentSession.objects.visible_to(acting(found)).filter(pk=session_id).exists()

    return ask
