"""What agents used of model APIs. The keys that they use are grants of operators: `groups.models.BrokeredKey`."""

from django.db import models
from django.db.models import F
from django.utils import timezone

from groups.models import AgentGroup
from groups.permissions import RestrictedQuerySet


class BrokerUsageQuerySet(RestrictedQuerySet["BrokerUsage"]):
    """Use of models, narrowed to what somebody may see."""


class BrokerUsage(models.Model):
    """What a group's agents used of model APIs on one day (UTC), as far as the answers told."""

    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="broker_usage")
    day = models.DateField()
    requests = models.PositiveBigIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)

    objects = BrokerUsageQuerySet.as_manager()

    class Meta:
        app_label = "groups"  # where it was made: its table, permissions and addresses are named by it
        ordering = ["-day", "group"]
        verbose_name = "use of models"
        verbose_name_plural = "use of models"
        constraints = [models.UniqueConstraint(fields=["group", "day"], name="one_usage_per_day")]

    def __str__(self) -> str:
        return f"{self.group} on {self.day}"

    @classmethod
    def count_request(cls, group: AgentGroup) -> str:
        """Count a request of a group before it is made; why it may not be made, or an empty text.

        Compare-and-set, so that a burst can't pass a limit of requests. Tokens are only known afterwards: what is
        under way when they are used up still ends.
        """
        today = cls.objects.filter(group=group, day=timezone.now().date())
        if not today.exists():
            cls.objects.get_or_create(group=group, day=timezone.now().date())
        within = today
        if group.broker_requests is not None:
            within = within.filter(requests__lt=group.broker_requests)
        if group.broker_tokens is not None:
            within = within.annotate(used=F("input_tokens") + F("output_tokens")).filter(used__lt=group.broker_tokens)
        if within.update(requests=F("requests") + 1):
            return ""
        limit = f"{group.broker_requests} requests" if group.broker_requests is not None else ""
        tokens = f"{group.broker_tokens} tokens" if group.broker_tokens is not None else ""
        both = " and ".join(filter(None, (limit, tokens)))
        return f"the group's budget of {both} a day is used up; it is renewed at midnight UTC"

    @classmethod
    def add_tokens(cls, group: AgentGroup, input_tokens: int, output_tokens: int) -> None:
        """Add the tokens that a request used."""
        today = timezone.now().date()
        row, _ = cls.objects.get_or_create(group=group, day=today)
        cls.objects.filter(pk=row.pk).update(
            input_tokens=F("input_tokens") + input_tokens, output_tokens=F("output_tokens") + output_tokens
        )
