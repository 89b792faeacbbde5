"""Tenants, and the limits of the whole installation."""

import uuid

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from simple_history.models import HistoricalRecords

from groups import validators
from groups.choices import Hold
from groups.permissions import RestrictedQuerySet
from groups.pod_options import Quota, quota_constraint


class GroupQuerySet(RestrictedQuerySet["AgentGroup"]):
    """Groups, narrowed to what somebody may see or do."""

    group_path = "pk"


class AgentGroup(Quota):
    """A tenant: its members share a workspace, a quota, and what their agents may reach."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.CharField(max_length=40, unique=True, validators=[validators.validate_group_slug])
    name = models.CharField(max_length=200)
    is_main = models.BooleanField("main group", default=False, help_text="Sees the project folder, read-only.")
    max_runs = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Runs at a time; empty for the default."
    )
    weight = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="Share of the slots, next to the other groups."
    )
    storage_gib = models.PositiveIntegerField("storage (GiB)", default=10, validators=[MinValueValidator(1)])
    hold = models.CharField(
        "starts",
        max_length=10,
        choices=Hold,
        default=Hold.NONE,
        db_default="",
        blank=True,
        help_text="Whether its sessions may start.",
    )
    hold_reason = models.CharField(
        "why", max_length=200, blank=True, db_default="", help_text="Shown to everybody who waits."
    )
    writes_mounts = models.BooleanField(
        "may write mounts",
        default=False,
        db_default=False,
        help_text="Its mounts may be written where the root allows it; without this they are all read-only.",
    )
    broker_requests = models.PositiveBigIntegerField(
        "model requests a day", null=True, blank=True, help_text="Through the credential broker. Empty for no limit."
    )
    broker_tokens = models.PositiveBigIntegerField(
        "model tokens a day", null=True, blank=True, help_text="In and out, as the answers tell. Empty for no limit."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Its data is removed GROUP_GRACE_DAYS after this."
    )
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="agent_groups")

    objects = GroupQuerySet.as_manager()
    history = HistoricalRecords(excluded_fields=["members"])

    class Meta:
        ordering = ["slug"]
        verbose_name = "group"
        constraints = [
            models.UniqueConstraint(
                fields=["is_main"],
                condition=Q(is_main=True),
                name="one_main_group",
                violation_error_message="There is a main group already.",
            ),
            models.CheckConstraint(
                condition=Q(max_runs__isnull=True) | Q(max_runs__gte=1),
                name="group_max_runs_positive",
                violation_error_message="A group has at least one slot; leave the field empty for the default.",
            ),
            models.CheckConstraint(
                condition=Q(weight__gte=1),
                name="group_weight_positive",
                violation_error_message="The weight is at least 1.",
            ),
            models.CheckConstraint(condition=Q(hold__in=Hold.values), name="group_hold_known"),
            quota_constraint(),
        ]

    def __str__(self) -> str:
        return self.name or self.slug

    @property
    def slots(self) -> int:
        """How many runs the group may have at a time."""
        return self.max_runs or Limits.current().runs_per_group


class Limits(models.Model):
    """What operators may change while Berth runs: one row, which stands before the settings of the same name."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    max_runs = models.PositiveIntegerField(
        "runs at a time", null=True, blank=True, validators=[MinValueValidator(1)], help_text="Empty: MAX_RUNS."
    )
    max_runs_per_group = models.PositiveIntegerField(
        "runs at a time for a group",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Of groups without a number of their own. Empty: MAX_RUNS_PER_GROUP.",
    )
    hold = models.CharField(
        "starts", max_length=10, choices=Hold, default=Hold.NONE, blank=True, help_text="Whether anything may start."
    )
    hold_reason = models.CharField("why", max_length=200, blank=True, help_text="Shown to everybody who waits.")

    history = HistoricalRecords()

    class Meta:
        verbose_name = verbose_name_plural = "limits"
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="limits_one_row"),
            models.CheckConstraint(condition=Q(hold__in=Hold.values), name="limits_hold_known"),
            models.CheckConstraint(
                condition=(Q(max_runs__isnull=True) | Q(max_runs__gte=1))
                & (Q(max_runs_per_group__isnull=True) | Q(max_runs_per_group__gte=1)),
                name="limits_positive",
            ),
        ]

    def __str__(self) -> str:
        return "Limits"

    @classmethod
    def current(cls) -> "Limits":
        """The row, or what stands for it before anybody has changed anything."""
        return cls.objects.filter(pk=1).first() or cls()

    @property
    def runs(self) -> int:
        """Runs at a time, in all."""
        return self.max_runs or settings.MAX_RUNS

    @property
    def runs_per_group(self) -> int:
        """Runs at a time for a group that has no number of its own."""
        return self.max_runs_per_group or settings.MAX_RUNS_PER_GROUP
