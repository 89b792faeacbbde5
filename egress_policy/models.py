"""Rules of what agents may reach, what they asked for, and what they reached."""

import uuid
from datetime import datetime
from typing import Any, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone
from simple_history.models import HistoricalRecords

from egress_policy import host_patterns
from egress_policy.choices import RequestState
from groups import times
from groups.models import AgentGroup, AgentProfile
from groups.permissions import Person, RestrictedQuerySet, Right, is_scoped_operator, permission_filter
from sessions.models import AgentSession, Run

PATTERN_LENGTH = 255  # "*." and a name (RFC 1035: at most 253 characters)


def https() -> list[int]:
    """The ports of a rule for which nothing else is said."""
    return [443]


def validate_pattern(value: str) -> None:
    """A rule's host is a name, or `*.` and a name."""
    try:
        host_patterns.normal(value)
    except ValueError as error:
        raise ValidationError(str(error)) from None


def validate_ports(value: Any) -> None:
    """A rule's ports are a list of numbers."""
    try:
        host_patterns.check_ports(value)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class RuleQuerySet(RestrictedQuerySet["EgressRule"]):
    """Rules, narrowed to those that count for a run, or to what somebody may see or do."""

    def visible_to(self, user: Person) -> Self:
        """Those of the groups that `user` is in, and those that are no group's."""
        return self._and_common(permission_filter(user, Right.SEE), user.is_active)

    def operable_by(self, user: Person) -> Self:
        """Those that `user` may change as an operator, as far as Django's permissions go."""
        common = user.is_active and not is_scoped_operator(user) and not getattr(user, "only_group", None)
        return self._and_common(permission_filter(user, Right.OPERATE), bool(common))

    def _and_common(self, allowed: Q, common: bool) -> Self:
        """Those that are allowed, and those of no group. An empty condition allows all: “or” would lose that."""
        return self.filter(allowed | Q(group=None)) if allowed and common else self.filter(allowed)

    def applying_to(self, run: Run) -> Self:
        """Everybody's, and those whose group, profile and run are the run's, where they name one."""
        session = run.session
        return self.filter(
            Q(group=None) | Q(group=session.group_id),
            Q(profile=None) | Q(profile=session.profile_id),
            Q(run=None) | Q(run=run.pk),
        )


class EgressRule(models.Model):
    """Agents may reach a host. It counts where all of group, profile and run that it names are the agent's own.

    It is changed by `egress_policy.rules` alone, which tells the proxies.
    """

    host = models.CharField(
        max_length=PATTERN_LENGTH,
        validators=[validate_pattern],
        help_text="A name such as api.example.com, or *.example.com for all names below it (but not example.com).",
    )
    ports = models.JSONField(default=https, validators=[validate_ports], help_text="443 is HTTPS.")
    group = models.ForeignKey(
        AgentGroup,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="egress_rules",
        help_text="Empty: agents of every group.",
    )
    profile = models.ForeignKey(
        AgentProfile,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="egress_rules",
        help_text="Empty: agents of every profile.",
    )
    run = models.ForeignKey(
        Run, on_delete=models.CASCADE, null=True, blank=True, editable=False, related_name="egress_rules"
    )
    until = models.DateTimeField(null=True, blank=True, help_text="In UTC. Empty: for good.")
    reason = models.CharField(max_length=200, blank=True, help_text="Why it is allowed, for those who will ask.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = RuleQuerySet.as_manager()
    history = HistoricalRecords(excluded_fields=["run"])

    class Meta:
        ordering = ["host", "pk"]
        verbose_name = "egress rule"
        indexes = [models.Index(fields=["host"], name="egress_rule_host")]

    def __str__(self) -> str:
        return f"{self.host}:{self.ports_text}"

    def clean(self) -> None:
        """Store the host and ports in the form in which they are compared; its end is a time that can be."""
        if self.until:
            try:
                times.bounded(self.until)
            except ValueError as error:
                raise ValidationError({"until": str(error)}) from None
        try:
            self.host, self.ports = host_patterns.normal(self.host), host_patterns.check_ports(self.ports)
        except ValueError:
            return  # their own validators say it

    @property
    def ports_text(self) -> str:
        """The ports, as people write them."""
        return ", ".join(str(port) for port in self.ports)

    @property
    def whose(self) -> str:
        """Whom it counts for, in words."""
        if self.run_id:
            return f"one run of {self.group}"
        parts = [str(part) for part in (self.group, self.profile) if part]
        return " with ".join(parts) or "everybody"

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its time is up."""
        return self.until is not None and self.until <= (now or timezone.now())


class RequestQuerySet(RestrictedQuerySet["EgressRequest"]):
    """Requests, narrowed to what somebody may see or do."""


class EgressRequest(models.Model):
    """A host that agents of a group and profile were refused: one row for each, however often they tried."""

    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="egress_requests", editable=False)
    profile = models.ForeignKey(AgentProfile, on_delete=models.CASCADE, related_name="egress_requests", editable=False)
    host = models.CharField(max_length=253, editable=False)
    port = models.PositiveIntegerField(editable=False)
    state = models.CharField(max_length=10, choices=RequestState, default=RequestState.OPEN, editable=False)
    count = models.PositiveBigIntegerField("tries", default=0, editable=False)
    first_at = models.DateTimeField(default=timezone.now, editable=False)
    last_at = models.DateTimeField(default=timezone.now, editable=False)
    last_session = models.ForeignKey(
        AgentSession, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    last_run = models.ForeignKey(
        Run, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    reason = models.CharField("why it is wanted", max_length=200, blank=True, editable=False)
    proposed_by = models.CharField(max_length=150, blank=True, editable=False)
    answer = models.CharField(max_length=200, blank=True, editable=False, help_text="Of who decided, in words.")
    decided_by = models.CharField(max_length=150, blank=True, editable=False)
    decided_at = models.DateTimeField(null=True, blank=True, editable=False)
    rule = models.ForeignKey(
        EgressRule, on_delete=models.SET_NULL, null=True, blank=True, related_name="requests", editable=False
    )

    objects = RequestQuerySet.as_manager()

    class Meta:
        ordering = ["-last_at"]
        verbose_name = "egress request"
        constraints = [
            models.UniqueConstraint(fields=["group", "profile", "host", "port"], name="egress_request_unique"),
            models.CheckConstraint(condition=Q(state__in=RequestState.values), name="egress_request_state_known"),
        ]
        indexes = [models.Index(fields=["-last_at"], name="egress_request_recent")]

    def __str__(self) -> str:
        return f"{self.host}:{self.port} for {self.group} with {self.profile}"


class EgressUse(models.Model):
    """One tunnel, or one plain request, under the proxy's own id: what was reached, when, and how many bytes went."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="egress_uses", db_index=False)
    host = models.CharField(max_length=253)
    port = models.PositiveIntegerField()
    opened_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    sent = models.PositiveBigIntegerField(default=0, help_text="Bytes, from the agent.")
    received = models.PositiveBigIntegerField(default=0, help_text="Bytes, to the agent.")
    cause = models.CharField(max_length=20, blank=True, help_text="Why it ended (docs/egress.md).")

    class Meta:
        ordering = ["run", "host", "port"]
        verbose_name = "egress use"
        indexes = [
            models.Index(fields=["run", "host", "port"], name="egress_use_run"),
            models.Index(fields=["run"], name="egress_use_open", condition=Q(ended_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.host}:{self.port} of {self.run_id}"


class EgressDenial(models.Model):
    """What a run was refused: one row for each host, port and cause."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="egress_denials", db_index=False)
    host = models.CharField(max_length=253)
    port = models.PositiveIntegerField()
    code = models.CharField(max_length=20, help_text="The cause (docs/egress.md).")
    reason = models.CharField(max_length=300, blank=True, help_text="The same in words.")
    count = models.PositiveBigIntegerField(default=0)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    recent = models.JSONField(default=list, help_text="The last ids under which proxies told of it.")

    class Meta:
        ordering = ["run", "host", "port"]
        verbose_name = "egress denial"
        constraints = [models.UniqueConstraint(fields=["run", "host", "port", "code"], name="egress_denial_unique")]

    def __str__(self) -> str:
        return f"{self.host}:{self.port} of {self.run_id}: {self.code}"


class EgressVersion(models.Model):
    """One row: the number of the last change that may take something back from somebody. The proxies follow it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    number = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="egress_version_one_row")]

    def __str__(self) -> str:
        return str(self.number)
