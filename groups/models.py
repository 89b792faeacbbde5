"""Tenants and what they may run."""

import uuid

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from simple_history.models import HistoricalRecords

from groups import validators
from groups.api_tokens import ApiToken
from groups.audit import AuditEntry
from groups.choices import Contract, Hold, Role
from groups.permissions import Narrowed
from groups.pod_options import PodOptions, Quota, quota_constraint

__all__ = [
    "AgentGroup",
    "AgentProfile",
    "ApiToken",
    "AuditEntry",
    "BrokerUsage",
    "BrokeredKey",
    "GroupMount",
    "Limits",
    "Membership",
    "MountRoot",
    "OperatorScope",
    "SecretReference",
    "SecretUse",
]


class GroupQuerySet(Narrowed["AgentGroup"]):
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


class MembershipQuerySet(Narrowed["Membership"]):
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


def limit(help_text: str) -> "models.PositiveIntegerField[int | None, int | None]":
    """A time limit of a profile, in seconds; empty for the installation's default."""
    return models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text=f"{help_text} Seconds; empty for the default.",
        validators=[MinValueValidator(1), MaxValueValidator(30 * 24 * 3600)],
    )


class AgentProfile(PodOptions):
    """What runs: written by operators, chosen by name when a session starts."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=60, unique=True)
    description = models.CharField(max_length=200, blank=True)
    contract = models.CharField(max_length=20, choices=Contract, default=Contract.JSONL)
    image = models.CharField(max_length=500, blank=True, help_text="Not used by the local runtime.")
    command = models.JSONField(validators=[validators.validate_command], help_text="The agent's argv, a JSON list.")
    environment = models.JSONField(default=dict, blank=True, validators=[validators.validate_environment])
    secrets = models.JSONField(
        default=dict,
        blank=True,
        validators=[validators.validate_secrets],
        help_text="File under /var/secrets → ref:NAME, a secret that is granted to this profile. Never a value.",
    )
    state_folder = models.CharField(
        max_length=200,
        blank=True,
        validators=[validators.validate_state_folder],
        help_text="Folder in the container that a session keeps from run to run.",
    )
    cpu_millis = models.PositiveIntegerField("CPU (thousandths)", default=1000, validators=[MinValueValidator(10)])
    memory_mib = models.PositiveIntegerField("memory (MiB)", default=1024, validators=[MinValueValidator(16)])
    idle_seconds = limit("How long an agent may wait for a follow-up.")
    deadline_seconds = limit("How long a run may last at all.")
    start_seconds = limit("How long a start may take.")
    turn_seconds = limit("How long an agent may work without a word.")
    active = models.BooleanField(default=True, help_text="New sessions may use it.")

    history = HistoricalRecords()

    class Meta:
        ordering = ["slug"]
        verbose_name = "profile"
        constraints = [
            models.CheckConstraint(condition=Q(contract__in=Contract.values), name="profile_contract_known"),
            models.CheckConstraint(condition=Q(memory_mib__gte=16), name="profile_memory_enough"),
            models.CheckConstraint(condition=Q(cpu_millis__gte=10), name="profile_cpu_enough"),
        ]

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """The state folder stays where it is put."""
        super().clean()
        if problem := validators.state_folder_problem(self.state_folder):
            raise ValidationError({"state_folder": problem})


# They refer to the models above.
from groups.models_mounts import GroupMount, MountRoot  # noqa: E402
from groups.models_secrets import BrokeredKey, BrokerUsage, SecretReference, SecretUse  # noqa: E402
