"""Tasks that are due by the clock, and what agents ask for about them."""

import uuid
from datetime import datetime, timedelta
from typing import Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from groups import times
from groups.models import AgentGroup, AgentProfile
from groups.permissions import RestrictedQuerySet
from groups.texts import storable
from schedules import cron
from schedules.choices import Context, Kind, Outcome, TaskState
from schedules.cron import Schedule
from sessions.choices import MessageState, SessionState
from sessions.models import AgentSession, Message, Run

LEAST_SECONDS, MOST_SECONDS = 60, 366 * 24 * 3600
UNSETTLED = (MessageState.QUEUED, MessageState.DELIVERED)
# Its message may wait in a session that gave up: then it is over too, for a person or the next time to try again.
SETTLED = (
    Q(last_message__isnull=True)
    | ~Q(last_message__state__in=UNSETTLED)
    | Q(last_message__session__state=SessionState.FAILED)
)
BY_KIND = {Kind.CRON: "cron", Kind.INTERVAL: "every_seconds", Kind.ONCE: "once_at"}


class TaskQuerySet(RestrictedQuerySet["ScheduledTask"]):
    """Tasks, narrowed to what somebody may see or do, or to what is to be done."""

    def due(self, now: datetime) -> Self:
        """Those whose time has come."""
        return self.filter(next_at__lte=now, state=TaskState.ACTIVE, group__deleted_at=None)

    def settled(self) -> Self:
        """Those whose last message came to its end, which nobody has counted yet."""
        return self.filter(SETTLED, outcome=Outcome.PENDING)


class ScheduledTask(models.Model):
    """A prompt that a group's agent gets by the clock."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="tasks")
    name = models.CharField(max_length=80, blank=True, help_text="Empty: the prompt's first line.")
    prompt = models.TextField(help_text="What the agent is told each time.")
    kind = models.CharField("due", max_length=10, choices=Kind, default=Kind.CRON)
    cron = models.CharField(
        "cron expression", max_length=100, blank=True, help_text="Minute, hour, day, month, weekday: 0 9 * * 1-5"
    )
    time_zone = models.CharField(max_length=60, default="UTC", help_text="Whose clocks count, such as Europe/Berlin.")
    every_seconds = models.PositiveIntegerField(
        "seconds between",
        null=True,
        blank=True,
        validators=[
            MinValueValidator(LEAST_SECONDS, "An interval is at least %(limit_value)s seconds."),
            MaxValueValidator(MOST_SECONDS, "An interval is at most %(limit_value)s seconds, which is a year."),
        ],
    )
    once_at = models.DateTimeField("at", null=True, blank=True, help_text="In UTC.")
    context = models.CharField("goes to", max_length=10, choices=Context, default=Context.FRESH)
    session = models.ForeignKey(
        AgentSession, on_delete=models.SET_NULL, null=True, blank=True, related_name="tasks", help_text="Whose context."
    )
    profile = models.ForeignKey(
        AgentProfile,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="tasks",
        help_text="What a fresh session runs.",
    )
    state = models.CharField(max_length=10, choices=TaskState, default=TaskState.ACTIVE, editable=False)
    reason = models.TextField(blank=True, editable=False, help_text="Why it is paused, in words.")
    next_at = models.DateTimeField("next", null=True, editable=False)
    last_at = models.DateTimeField("last", null=True, editable=False, help_text="When it last ran.")
    last_message = models.ForeignKey(
        Message, on_delete=models.SET_NULL, null=True, editable=False, related_name="+", help_text="Its last message."
    )
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.NONE, blank=True, editable=False)
    outcome_words = models.TextField("in words", blank=True, editable=False)
    failures = models.PositiveIntegerField("failed in a row", default=0, editable=False)
    max_failures = models.PositiveIntegerField(
        "pauses after", default=5, validators=[MinValueValidator(1)], help_text="Failures in a row."
    )
    skipped = models.PositiveIntegerField(
        default=0, editable=False, help_text="Times that were passed over because its last run was not over."
    )
    agents_id = models.CharField(max_length=100, blank=True, editable=False, help_text="What the agent calls it.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["next_at", "created_at"]
        verbose_name = "task"
        indexes = [
            models.Index(fields=["next_at"], name="task_due", condition=Q(next_at__isnull=False)),
            models.Index(fields=["outcome"], name="task_pending", condition=Q(outcome="pending")),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=Kind.values), name="task_kind_known"),
            models.CheckConstraint(condition=Q(context__in=Context.values), name="task_context_known"),
            models.CheckConstraint(condition=Q(outcome__in=Outcome.values), name="task_outcome_known"),
            models.CheckConstraint(
                condition=Q(state="active", next_at__isnull=False)
                | Q(state__in=["paused", "done"], next_at__isnull=True),
                name="task_active_has_next",
            ),
            models.UniqueConstraint(
                fields=["group", "agents_id"],
                condition=~Q(agents_id=""),
                name="task_agents_id_unique",
                violation_error_message="The group has a task of this id already.",
            ),
        ]

    def __str__(self) -> str:
        return self.name or self.prompt.strip().partition("\n")[0][:80]

    @property
    def schedule(self) -> Schedule:
        """When it is due. Raises ValueError if what was saved can't be read any more."""
        every = timedelta(seconds=self.every_seconds or 0)
        return Schedule(self.kind, self.cron, times.zone(self.time_zone), every, self.once_at)

    @property
    def next_times(self) -> list[tuple[datetime, datetime]]:
        """Its next five times, in UTC and by its own clocks; none if what was saved can't be read any more."""
        try:
            zone = self.schedule.zone
            return [(at, at.astimezone(zone)) for at in cron.upcoming(self.schedule, self.next_at)]
        except (ValueError, OverflowError):
            return []

    @property
    def schedule_text(self) -> str:
        """Its schedule in words."""
        if self.kind == Kind.CRON:
            return f"{self.cron} ({self.time_zone})"
        if self.kind == Kind.INTERVAL:
            return f"every {_span(self.every_seconds or 0)}"
        return f"once at {self.once_at:%Y-%m-%d %H:%M} UTC" if self.once_at else "once"

    def clean(self) -> None:
        """Check what fields alone can't say, and drop what its kind and context don't need."""
        errors: dict[str, str] = {}
        self._clean_prompt(errors)
        self._clean_schedule(errors)
        self._clean_context(errors)
        if errors:
            raise ValidationError(errors)

    def _clean_prompt(self, errors: dict[str, str]) -> None:
        self.name, self.prompt = storable(self.name), storable(self.prompt)
        if not self.prompt.strip():
            errors["prompt"] = "Write what the agent is to do."
        elif len(self.prompt.encode()) > settings.MESSAGE_MAX_KIB * 1024:
            errors["prompt"] = f"A prompt holds at most {settings.MESSAGE_MAX_KIB} KiB. Put more into a file."

    def _clean_schedule(self, errors: dict[str, str]) -> None:
        needed = BY_KIND.get(Kind(self.kind)) if self.kind in Kind.values else None
        for name, empty in {"cron": "", "every_seconds": None, "once_at": None}.items():
            if name != needed:
                setattr(self, name, empty)
        try:
            times.zone(self.time_zone)
        except ValueError as error:
            errors["time_zone"] = str(error)
        if needed == "cron":
            try:
                self.cron = cron.check(self.cron)
            except ValueError as error:
                errors["cron"] = str(error)
        elif needed == "every_seconds" and self.every_seconds is None:
            errors["every_seconds"] = f"Say how many seconds, at least {LEAST_SECONDS}."
        elif needed == "once_at":
            self._clean_once(errors)

    def _clean_once(self, errors: dict[str, str]) -> None:
        if self.once_at is None:
            errors["once_at"] = "Say when."
            return
        try:
            times.bounded(self.once_at)
        except ValueError as error:
            errors["once_at"] = str(error)
            return
        if self.once_at <= timezone.now() and self._once_changed():
            errors["once_at"] = f"{self.once_at:%Y-%m-%d %H:%M} UTC is over. Choose a time in the future."

    def _once_changed(self) -> bool:
        """Whether its one time is another than the one that is stored."""
        return not ScheduledTask.objects.filter(pk=self.pk, once_at=self.once_at).exists()

    def _clean_context(self, errors: dict[str, str]) -> None:
        if self.context == Context.SESSION:
            self.profile = None
            if self.session is None:
                errors["session"] = "Choose the session that it continues."
            elif self.session.group_id != self.group_id:
                errors["session"] = "This session belongs to another group."
        elif self.context == Context.FRESH:
            self.session = None
            if self.profile is None:
                errors["profile"] = "Choose what a fresh session runs."
            elif not self.profile.active:
                errors["profile"] = f"The profile {self.profile.slug} is switched off. Choose another one."


def _span(seconds: int) -> str:
    """Seconds in the largest unit that leaves no rest."""
    for unit, length in {"d": 86400, "h": 3600, "min": 60}.items():
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


class TaskRequest(models.Model):
    """What an agent asked for, until it was answered: stored with its event, deleted with its answer."""

    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="+")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="+")
    text = models.TextField(help_text="As the agent wrote it.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"request {self.pk}"
