"""Who is in a group, and who operates it."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from simple_history.models import HistoricalRecords

from groups.choices import Role
from groups.models.tenants import AgentGroup
from groups.permissions import RestrictedQuerySet


class MembershipQuerySet(RestrictedQuerySet["Membership"]):
    """Memberships, narrowed to what somebody may see or do."""


class Membership(models.Model):
    """A person's role in a group."""

    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role, default=Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = MembershipQuerySet.as_manager()
    history = HistoricalRecords()

    class Meta:
        ordering = ["group", "user"]
        constraints = [
            models.UniqueConstraint(
                fields=["group", "user"],
                name="one_membership_per_person",
                violation_error_message="This person is in the group already.",
            ),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.group} ({self.get_role_display()})"


class OperatorScope(models.Model):
    """A person who operates a group without being one of its people. Superusers alone decide it.

    They do what owners do, and to the group's rows what Django's permissions give them; nothing in other groups.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="operator_scopes")
    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="operator_scopes")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    history = HistoricalRecords()

    class Meta:
        ordering = ["user", "group"]
        verbose_name = "operator of a group"
        verbose_name_plural = "operators of groups"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "group"],
                name="one_scope_per_group",
                violation_error_message="This person operates the group already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} operates {self.group}"
