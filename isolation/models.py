"""Reports of proofs, kept as they were printed."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone

from isolation.choices import Verdict


class Proof(models.Model):
    """What a hostile agent tried in one group's namespace, with another group's run beside it, and what came of it.

    Groups and sessions are named, and no foreign keys: the report outlives them.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField("made", default=timezone.now, editable=False)
    runtime = models.CharField(max_length=20, editable=False)
    group = models.CharField("attacker in", max_length=40, editable=False)
    beside = models.CharField("neighbour in", max_length=40, editable=False)
    session = models.UUIDField(null=True, editable=False, help_text="Of the attacker.")
    verdict = models.CharField(max_length=10, choices=Verdict, editable=False)
    rows = models.JSONField(default=list, editable=False, help_text="As `isolation.evaluate.Row` has them.")
    versions = models.JSONField(default=dict, editable=False, help_text="Of what was tested: name → version.")
    unknown = models.JSONField(default=list, editable=False, help_text="What could not be found out, in words.")

    class Meta:
        ordering = ["-at"]
        verbose_name = "proof of isolation"
        verbose_name_plural = "proofs of isolation"
        constraints = [models.CheckConstraint(condition=Q(verdict__in=Verdict.values), name="proof_verdict_known")]

    def __str__(self) -> str:
        return f"Proof of {self.at:%Y-%m-%d %H:%M}"

    def count(self, verdict: Verdict) -> int:
        """How many of its checks came to a verdict."""
        return sum(row["verdict"] == verdict for row in self.rows)
