"""Profiles: what agents run."""

import uuid

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from simple_history.models import HistoricalRecords

from groups import validators
from groups.choices import Contract
from groups.pod_options import PodOptions


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
