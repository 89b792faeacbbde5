"""Enumerations of the schedules app, with their labels and colours."""

from django.db import models

from groups.choice_set import ChoiceSet


class Kind(models.TextChoices):
    """When a task is due."""

    CRON = "cron", "Cron"  # at the times of a cron expression, by the clocks of a time zone
    INTERVAL = "interval", "Interval"  # so many seconds after the last time
    ONCE = "once", "Once"


class Context(models.TextChoices):
    """Where its prompt goes."""

    SESSION = "session", "One session"  # each time the same conversation
    FRESH = "fresh", "A fresh session each time"


class TaskState(ChoiceSet):
    """Whether it will be due again."""

    ACTIVE = "active", "success", "Active"
    PAUSED = "paused", "warning", "Paused"  # by a person, its agent, or itself after too many failures
    DONE = "done", "", "Done"  # it was due once, and that is over


class Outcome(ChoiceSet):
    """What became of the last time that it was due."""

    NONE = "", "", "Never run"
    PENDING = "pending", "info", "Under way"  # its message has no answer yet
    ANSWERED = "answered", "success", "Answered"
    FAILED = "failed", "danger", "Failed"
    CANCELLED = "cancelled", "", "Cancelled"  # its message was taken back; neither a success nor a failure
