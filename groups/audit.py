"""The audit log: one function that appends to it."""

from typing import TYPE_CHECKING, Any

from groups.models import AgentGroup, AuditEntry

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

    Person = AbstractBaseUser | AnonymousUser


def record(
    action: str,
    *,
    actor: "Person | None" = None,
    by: str = "",
    target: Any = "",
    group: AgentGroup | None = None,
    **details: Any,
) -> None:
    """Note what was done. `by` names who did it where there is no user, such as a command or a schedule.

    Call it in the transaction of what it notes, so that neither exists without the other. Never pass a secret.
    """
    AuditEntry.objects.create(
        actor_id=actor.pk if actor else None,
        by=(by or (actor.get_username() if actor else "Berth"))[:150],
        action=action,
        target=str(target)[:100],
        group=group,
        details=details,
    )
