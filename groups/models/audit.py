"""The rows of the audit log, which nobody changes."""

from typing import Any, Never

from django.conf import settings
from django.db import models
from django.utils import timezone


class Unchangeable(Exception):
    """Somebody tried to change or remove what was noted."""

    def __init__(self) -> None:
        super().__init__("Entries of the audit log are only ever added.")


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    """Entries, to read. The database refuses changes as well: a trigger stands in the migrations."""

    def update(self, **_: Any) -> Never:
        """Raise Unchangeable."""
        raise Unchangeable

    def delete(self) -> Never:
        """Raise Unchangeable."""
        raise Unchangeable

    def bulk_update(self, *_: Any, **__: Any) -> Never:
        """Raise Unchangeable."""
        raise Unchangeable


class AuditEntry(models.Model):
    """Who did what, when: appended by `groups.audit.record`, never changed.

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
        """Add the entry; raises Unchangeable if it is stored already."""
        if not self._state.adding:
            raise Unchangeable
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> Never:
        """Raise Unchangeable."""
        raise Unchangeable
