"""The audit log: its rows, which nobody changes, and the one function that appends them."""

from typing import TYPE_CHECKING, Any, Never

from django.conf import settings
from django.db import models
from django.utils import timezone

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

    from groups.api_tokens import ApiToken
    from groups.models import AgentGroup

    Person = AbstractBaseUser | AnonymousUser


class Unchangeable(Exception):
    """Somebody tried to change or remove what was noted."""

    def __init__(self) -> None:
        super().__init__("Entries of the audit log are only ever added.")


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    """Entries, to read. The database refuses changes as well: a trigger stands in the migrations."""

    def update(self, **_: Any) -> Never:
        """Never."""
        raise Unchangeable

    def delete(self) -> Never:
        """Never."""
        raise Unchangeable

    def bulk_update(self, *_: Any, **__: Any) -> Never:
        """Never."""
        raise Unchangeable


class AuditEntry(models.Model):
    """Who did what, when: appended by `record`, never changed.

    What people did is here, with roles and limits from → to; every change of a row that they edit is in its history.
    """

    # Rows stay as they are when the person or the group goes, so the database does not tie them together.
    at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    by = models.CharField(max_length=150, editable=False, help_text="The actor's name at that time.")
    action = models.CharField(max_length=40, editable=False, help_text="A verb and its object, such as session.stop.")
    target = models.CharField(max_length=100, blank=True, editable=False, help_text="The id of what it was done to.")
    group = models.ForeignKey(
        "groups.AgentGroup",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    details = models.JSONField(default=dict, blank=True, editable=False)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["target"], name="audit_target")]

    def __str__(self) -> str:
        return f"{self.by}: {self.action} {self.target}".strip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Once."""
        if not self._state.adding:
            raise Unchangeable
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> Never:
        """Never."""
        raise Unchangeable


def record(
    action: str,
    *,
    actor: "Person | None" = None,
    by: str = "",
    target: Any = "",
    group: "AgentGroup | None" = None,
    **details: Any,
) -> None:
    """Note what was done. `by` names who did it where there is no user, such as a command or a schedule.

    Call it in the transaction of what it notes, so that neither exists without the other. Never pass a secret.
    A person who acts by an API token (`sessions.api.endpoints`) is noted with the token's name.
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


def token_made(token: "ApiToken", *, actor: "Person | None" = None, by: str = "") -> None:
    """Note a new token: whose it is and what it opens, and nothing of itself."""
    until = token.expires_at.isoformat(timespec="seconds") if token.expires_at else ""
    whose = {"name": token.name, "user": token.user.get_username(), "scope": token.scope, "until": until}
    record("token.make", actor=actor, by=by, target=token.pk, group=token.group, **whose)
