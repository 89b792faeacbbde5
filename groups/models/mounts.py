"""What groups mount: the roots that operators allow, and what a group wants under one."""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone
from simple_history.models import HistoricalRecords

from groups import validators
from groups.choices import MountKind, MountState
from groups.models.tenants import AgentGroup
from groups.mounts import MountVerdict, Request, Resolve, Root, Tenant, evaluate, real_folder
from groups.permissions import RestrictedQuerySet


class MountRoot(models.Model):
    """A place under which groups may have mounts. Operators alone make it."""

    name = models.SlugField(max_length=60, unique=True)
    description = models.CharField(max_length=200, blank=True, help_text="Shown to owners who ask for a mount.")
    kind = models.CharField(max_length=10, choices=MountKind)
    place = models.CharField(
        max_length=500,
        help_text="A claim's name (it has to exist in each group's namespace), SERVER:/EXPORT, or an absolute folder.",
    )
    base = models.CharField(
        "folder in it", max_length=500, blank=True, help_text="Mounts must stay under it. Empty for all of the place."
    )
    read_write = models.BooleanField(
        "may be written", default=False, help_text="Where the group's mounts may be written, too."
    )
    blocked = models.JSONField(
        "blocked names",
        default=list,
        blank=True,
        validators=[validators.validate_names],
        help_text='Besides .ssh, .env and the like: a JSON list such as ["payroll"].',
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    history = HistoricalRecords()

    class Meta:
        ordering = ["name"]
        verbose_name = "mount root"
        constraints = [models.CheckConstraint(condition=Q(kind__in=MountKind.values), name="mount_root_kind_known")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """The place is one of its kind, and mounts under it could be accepted."""
        if self.kind and (problem := validators.place_problem(MountKind(self.kind), self.place)):
            raise ValidationError({"place": problem})
        if isinstance(self.blocked, list) and self.kind:
            verdict = evaluate(Request("any", "."), self.rule, Tenant(), real_folder)
            if not verdict.ok:
                raise ValidationError({"base": f"{verdict.reason[:1].upper()}{verdict.reason[1:]}."})

    @property
    def rule(self) -> Root:
        """The root as plain data."""
        kind = MountKind(self.kind)
        return Root(self.name, kind, self.place, self.base, self.read_write, tuple(self.blocked))


class GroupMountQuerySet(RestrictedQuerySet["GroupMount"]):
    """Mounts, narrowed to what somebody may see or do."""


class GroupMount(models.Model):
    """What a group wants to see at /workspace/extra/NAME: asked for by an owner, approved or refused by an operator."""

    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="mounts")
    root = models.ForeignKey(MountRoot, on_delete=models.PROTECT, related_name="mounts")
    path = models.CharField(max_length=1000, help_text="As seen from the root; . for all of it.")
    name = models.CharField(max_length=200, help_text="Where agents see it: /workspace/extra/NAME.")
    read_write = models.BooleanField(
        "to be written", default=False, help_text="Refused unless the root and the group may."
    )
    reason = models.CharField("what for", max_length=200, blank=True)
    state = models.CharField(max_length=10, choices=MountState, default=MountState.REQUESTED, editable=False)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    requested_at = models.DateTimeField(default=timezone.now, editable=False)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True, editable=False)
    decision = models.CharField("why so", max_length=200, blank=True, editable=False)

    objects = GroupMountQuerySet.as_manager()
    history = HistoricalRecords()

    class Meta:
        ordering = ["group", "name"]
        verbose_name = "mount"
        permissions = [("approve_groupmount", "Can approve and refuse mounts")]
        constraints = [
            models.UniqueConstraint(
                fields=["group", "name"],
                name="one_mount_per_name",
                violation_error_message="The group has a mount of this name already.",
            ),
            models.CheckConstraint(condition=Q(state__in=MountState.values), name="mount_state_known"),
        ]

    def __str__(self) -> str:
        how = "to be written" if self.read_write else "read-only"
        return f"{self.name} of {self.group}: {self.path} of {self.root}, {how}"

    def clean(self) -> None:
        """What would be refused at the start is refused here, with the same words."""
        if self.group_id and self.root_id:
            verdict = self.evaluate()
            if not verdict.ok:
                raise ValidationError(f"Refused: {verdict.reason}.")

    def evaluate(self, resolve: Resolve | None = real_folder, runtime: str = "") -> MountVerdict:
        """The verdict on this mount, as its root and its group are now; `runtime` is where a run of it would be."""
        # What is only asked for can't get in the way of what was approved.
        beside = {MountState.APPROVED, *((MountState.REQUESTED,) if self.state != MountState.APPROVED else ())}
        others = [each.name for each in self.group.mounts.all() if each.pk != self.pk and each.state in beside]
        tenant = Tenant(
            main=self.group.is_main,
            may_write=self.group.writes_mounts,
            taken=tuple(others),
            runtime=runtime or settings.RUNTIME,
        )
        return evaluate(self.request, self.root.rule, tenant, resolve)

    @property
    def request(self) -> Request:
        """What is wanted, as plain data."""
        return Request(self.name, self.path, self.read_write)

    @property
    def version(self) -> str:
        """Changes whenever what is asked for does: who approves names what was on the page."""
        return f"{self.requested_at.timestamp():.6f}"
