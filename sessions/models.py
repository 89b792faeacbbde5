"""Sessions, their runs, the messages that go in and the events that come out."""

import uuid
from typing import Any, Self

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from groups.models import AgentGroup, AgentProfile
from groups.permissions import RestrictedQuerySet
from runtimes.base import Cause, RunRef
from sessions import choices
from sessions.choices import EndReason, EventKind, Intent, MessageState, RunState, SessionState


class SessionQuerySet(RestrictedQuerySet["AgentSession"]):
    """Sessions, narrowed to what somebody may see or do."""


class AgentSession(models.Model):
    """One conversation of a group with an agent. It outlives its runs: the next message starts the next one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    group = models.ForeignKey(AgentGroup, on_delete=models.PROTECT, related_name="sessions")
    profile = models.ForeignKey(AgentProfile, on_delete=models.PROTECT, related_name="sessions")
    title = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=10, choices=SessionState, default=SessionState.IDLE, editable=False)
    reason = models.TextField(blank=True, editable=False, help_text="Why it is in its state, in words.")
    priority = models.SmallIntegerField(
        default=0,
        validators=[MinValueValidator(-10), MaxValueValidator(10)],
        help_text="From -10 to 10; higher goes first.",
    )
    resume = models.CharField(max_length=200, blank=True, editable=False, help_text="The agent's own conversation id.")
    last_seq = models.PositiveBigIntegerField(default=0, editable=False)
    last_message = models.PositiveIntegerField(default=0, editable=False)
    last_run = models.PositiveIntegerField(default=0, editable=False)
    queued_at = models.DateTimeField(null=True, editable=False, help_text="Since when a message waits for a slot.")
    attempts = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        editable=False,
        help_text="Runs begun since the last answer; counted before each begins.",
    )
    retry_at = models.DateTimeField(null=True, editable=False, help_text="The next try is not made before this.")
    pruned_seq = models.PositiveBigIntegerField(
        default=0,
        db_default=0,
        editable=False,
        help_text="Events up to this number were removed after their retention.",
    )
    event_bytes = models.PositiveBigIntegerField(
        default=0, db_default=0, editable=False, help_text="What its events take, those that were removed not counted."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-updated_at"]
        verbose_name = "session"
        indexes = [
            models.Index(fields=["-updated_at"], name="session_recent"),
            models.Index(fields=["state", "-updated_at"], name="session_state_recent"),
            models.Index(fields=["queued_at"], name="session_queue", condition=Q(queued_at__isnull=False)),
        ]
        constraints = [models.CheckConstraint(condition=Q(state__in=SessionState.values), name="session_state_known")]

    def __str__(self) -> str:
        return self.title or f"Session {str(self.id)[:8]}"


class RunQuerySet(models.QuerySet["Run"]):
    """Runs, and the one way to move them."""

    def active(self) -> Self:
        """Those that hold a slot."""
        return self.filter(state__in=choices.ACTIVE)

    def for_decision(self) -> Self:
        """With all that `reconcile.wanted_of` reads: its session, group and profile, and what of messages there is."""
        waiting = Message.objects.filter(session=OuterRef("session_id"), state=MessageState.QUEUED)
        handed = Message.objects.filter(run=OuterRef("pk"))
        rows = self.select_related("session__group", "session__profile")
        return rows.annotate(has_messages=Exists(waiting), handed=Exists(handed))

    def move(self, target: RunState, **changes: Any) -> int:
        """Move the runs that may go to `target` there, with `changes`; return how many did (compare-and-set)."""
        sources = choices.sources(choices.RUN_MOVES, target)
        return self.filter(state__in=sources).update(state=target, **changes)


class Run(models.Model):
    """One execution of a session: one Job or one local process, one verdict."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="runs")
    number = models.PositiveIntegerField(help_text="Within the session, from 1.")
    state = models.CharField(max_length=10, choices=RunState, default=RunState.CLAIMED)
    runtime = models.CharField(max_length=20)
    resume = models.CharField(max_length=200, blank=True, help_text="The conversation id it was started with.")
    spec = models.JSONField(
        null=True,
        blank=True,
        editable=False,
        help_text="All that it was started with, without secrets. Null: it was not started yet.",
    )
    intent = models.CharField(max_length=20, choices=Intent, default=Intent.NONE, blank=True)
    intent_by = models.CharField(max_length=150, blank=True, help_text="Who asked for its end.")
    intent_at = models.DateTimeField(null=True, blank=True)
    waits_for = models.TextField(blank=True, help_text="What holds up its start, in the runtime's words.")
    waits_cause = models.CharField(
        max_length=20, blank=True, choices=[(cause.value, EndReason(cause).label) for cause in Cause]
    )
    verdict = models.CharField(max_length=20, blank=True, choices=EndReason)
    verdict_words = models.TextField(blank=True)
    warning = models.TextField(
        blank=True, db_default="", help_text="What the runtime refused since it started; it goes on all the same."
    )
    retry_safe = models.BooleanField(null=True, blank=True)
    exit_code = models.SmallIntegerField(null=True, blank=True)
    peak_bytes = models.BigIntegerField(null=True, blank=True, help_text="The most memory that its agent used.")
    last_lines = models.TextField(blank=True)
    last_number = models.PositiveBigIntegerField(default=0, help_text="Highest contiguous event number stored.")
    event_bytes = models.PositiveBigIntegerField(default=0, db_default=0, help_text="What its courier's events take.")
    left_out_bytes = models.PositiveBigIntegerField(
        default=0, db_default=0, help_text="What of its output was not stored, since there was too much of it."
    )
    attempt = models.PositiveSmallIntegerField(default=1, db_default=1, help_text="Which try this is, from 1.")
    queued_at = models.DateTimeField(null=True, blank=True, help_text="Since when its session had waited for a slot.")
    claimed_at = models.DateTimeField(default=timezone.now)
    counted_from = models.DateTimeField(
        default=timezone.now,
        db_default=Now(),
        help_text="The time limit of its start counts from here: what passes by itself does not.",
    )
    not_before = models.DateTimeField(null=True, blank=True, help_text="The runtime asked to be left alone until then.")
    made_at = models.DateTimeField(null=True, blank=True, help_text="When the runtime had all of it.")
    started_at = models.DateTimeField(null=True, blank=True, help_text="When its courier first called.")
    first_output_at = models.DateTimeField(null=True, blank=True)
    waiting_since = models.DateTimeField(null=True, blank=True)
    heard_at = models.DateTimeField(null=True, blank=True, help_text="When its courier last had something to tell.")
    seen_at = models.DateTimeField(null=True, blank=True, help_text="When its courier last called.")
    ended_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True, help_text="When its traces in the runtime were removed.")

    objects = RunQuerySet.as_manager()
    has_messages: bool  # of rows from `for_decision`: whether messages wait
    handed: bool  # likewise: whether it was handed one

    class Meta:
        ordering = ["session", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["session", "number"], name="run_number_unique"),
            models.UniqueConstraint(
                fields=["session"],
                condition=~Q(state="ended"),
                name="one_active_run_per_session",
                violation_error_message="The session has a run already.",
            ),
            models.CheckConstraint(condition=Q(state__in=RunState.values), name="run_state_known"),
            models.CheckConstraint(
                condition=Q(state="ended", ended_at__isnull=False) | (~Q(state="ended") & Q(ended_at__isnull=True)),
                name="run_ended_has_time",
            ),
        ]
        indexes = [
            models.Index(fields=["state"], name="run_active", condition=~Q(state="ended")),
            models.Index(fields=["ended_at"], name="run_unremoved", condition=Q(removed_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"run {self.number} of {self.session}"

    @property
    def contract(self) -> str:
        """What its agent speaks: as it was when the run was started."""
        kept = self.spec.get("contract") if isinstance(self.spec, dict) else None
        return kept or self.session.profile.contract

    @property
    def ref(self) -> RunRef:
        """The run's name towards a runtime."""
        group = self.session.group
        return RunRef(str(self.id), str(self.session_id), str(group.id), group.slug)


class MessageQuerySet(models.QuerySet["Message"]):
    """Messages, and the one way to move them."""

    def move(self, target: MessageState, **changes: Any) -> int:
        """Move the messages that may go to `target` there; return how many did (compare-and-set)."""
        return self.filter(state__in=choices.message_sources(target)).update(state=target, **changes)


class Message(models.Model):
    """What goes in: from a person, a program, a schedule."""

    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="messages")
    number = models.PositiveIntegerField(help_text="Within the session, from 1.")
    text = models.TextField()
    state = models.CharField(max_length=10, choices=MessageState, default=MessageState.QUEUED)
    sender = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    idempotency_key = models.CharField(  # noqa: DJ001 (null: not compared)
        max_length=200, null=True, blank=True, help_text="Berth's own; those of people and programs: IdempotencyKey."
    )
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, blank=True, related_name="messages")
    created_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="How often an agent was handed it.")
    reason = models.TextField(blank=True, db_default="", help_text="Why it failed or was cancelled, in words.")
    delivered_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    objects = MessageQuerySet.as_manager()

    class Meta:
        ordering = ["session", "number"]
        constraints = [
            models.UniqueConstraint(fields=["session", "number"], name="message_number_unique"),
            models.UniqueConstraint(fields=["session", "idempotency_key"], name="message_idempotency"),
            models.CheckConstraint(condition=Q(state__in=MessageState.values), name="message_state_known"),
        ]
        indexes = [models.Index(fields=["session", "number"], name="message_queued", condition=Q(state="queued"))]

    def __str__(self) -> str:
        return f"message {self.number} of {self.session}"


class RunRecord(models.Model):
    """What the runtime knew of a run, kept for the run's page since the runtime forgets."""

    run = models.OneToOneField(Run, on_delete=models.CASCADE, related_name="record", primary_key=True)
    steps = models.JSONField(default=dict, help_text="Name of a step of the start → when it was reached (RFC 3339).")
    notices = models.JSONField(default=list, help_text="The runtime's own events: at, reason, text, count.")
    manifest = models.JSONField(default=dict, help_text="What the runtime was given, without secrets.")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["run"]

    def __str__(self) -> str:
        return f"record of {self.run}"


class Event(models.Model):
    """What comes out, numbered within the session. Rows are never changed.

    `seq` has no holes: it is taken from the session's row, under its lock, by the transaction that inserts the row.
    """

    session = models.ForeignKey(AgentSession, on_delete=models.CASCADE, related_name="events", db_index=False)
    seq = models.PositiveBigIntegerField()
    run = models.ForeignKey(Run, on_delete=models.CASCADE, null=True, blank=True, related_name="events", db_index=False)
    number = models.PositiveBigIntegerField(null=True, blank=True, help_text="The courier's own, within the run.")
    kind = models.CharField(max_length=10, choices=EventKind)
    text = models.TextField(blank=True)
    data = models.JSONField(default=dict, blank=True)
    at = models.DateTimeField(default=timezone.now, help_text="By the courier's clock.")

    class Meta:
        ordering = ["session", "seq"]
        constraints = [
            models.UniqueConstraint(fields=["session", "seq"], name="event_seq_unique"),
            # Of all rows, also those without a number: it is the index by run, too, without which no run could go.
            models.UniqueConstraint(fields=["run", "number"], name="event_number_unique"),
            models.CheckConstraint(condition=Q(kind__in=EventKind.values), name="event_kind_known"),
        ]
        # To which runs a message was handed, in a session of any length.
        indexes = [models.Index(fields=["session", "seq"], name="event_delivered", condition=Q(kind="delivered"))]

    def __str__(self) -> str:
        return f"{self.kind} {self.seq}"


class WorkItem(models.Model):
    """Something that a worker has to do, once however often it was asked for: see `sessions.work_queue`."""

    KEY_LENGTH = 200

    key = models.CharField(primary_key=True, max_length=KEY_LENGTH, help_text="A task and its argument.")
    priority = models.SmallIntegerField(help_text="Lower goes first.")
    due_at = models.DateTimeField()
    generation = models.BigIntegerField(help_text="Grows with every request and every take.")
    taken_generation = models.BigIntegerField(null=True, help_text="What the take made it: the taker's token.")
    taken_until = models.DateTimeField(null=True, help_text="A worker that takes longer has lost it.")
    failures = models.PositiveIntegerField(default=0, help_text="In a row.")
    observed = models.TextField(blank=True, help_text="What the watcher has just seen of it.")

    class Meta:
        ordering = ["priority", "due_at"]
        indexes = [models.Index(fields=["priority", "due_at"], name="work_due")]

    def __str__(self) -> str:
        return self.key


class IdempotencyKey(models.Model):
    """A key under which a person's request made something, by `sessions.lifecycle.idempotency`."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    endpoint = models.CharField(max_length=200, help_text="The path of the request.")
    key = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the request's body.")
    made = models.CharField(max_length=40, blank=True, help_text="The id or number of what it made.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["user", "endpoint", "key"], name="idempotency_key_unique")]

    def __str__(self) -> str:
        return f"key {self.pk} of {self.endpoint}"


class Lease(models.Model):
    """Something that one process at a time may do. `epoch` grows with every new holder (a fencing token)."""

    name = models.CharField(max_length=50, primary_key=True)
    holder = models.CharField(max_length=200, blank=True)
    epoch = models.PositiveBigIntegerField(default=0)
    renewed_at = models.DateTimeField(default=timezone.now)
    since = models.DateTimeField(
        default=timezone.now, db_default=Now(), help_text="Since when the holder has it without a break."
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name}: {self.holder or 'nobody'}"
