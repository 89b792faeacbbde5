"""The one way into the audit log."""

from typing import Any

from groups.models import AgentGroup, ApiToken, AuditEntry
from groups.permissions import Person


def record(
    action: str,
    *,
    actor: Person | None = None,
    by: str = "",
    target: Any = "",
    group: AgentGroup | None = None,
    **details: Any,
) -> None:
    """Note what was done. `by` names who did it where there is no user, such as a command or a schedule.

    Call it in the transaction of what it notes, so that neither exists without the other. Never pass a secret.
    A person who acts by an API token (`sessions.api.token_auth`) is noted with the token's name.
    """
    via = getattr(actor, "via", "")
    AuditEntry.objects.create(
        actor_id=actor.pk if actor else None,
        by=(by or (actor.get_username() if actor else "Berth"))[:150],
        action=action,
        target=str(target)[:100],
        group=group,
        details=details | ({"via": via} if via else {}),
    )


def record_token(token: ApiToken, *, actor: Person | None = None, by: str = "") -> None:
    """Note a new token: details it is and what it opens, and nothing of itself."""
    until = token.expires_at.isoformat(timespec="seconds") if token.expires_at else ""
    details = {"name": token.name, "user": token.user.get_username(), "scope": token.scope, "until": until}
    record("token.make", actor=actor, by=by, target=token.pk, group=token.group, **details)
