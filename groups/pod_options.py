"""What groups and profiles say of the cluster: a group's share of it, and how a profile's pods are placed there.

Abstract models, so that the fields stand beside their meaning; the rows are the groups' and profiles' own.
"""

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from groups.validators import validate_storable
from k8s_adapter.pod_overrides import check_patch

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}
EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")
validate_runtime_class = RegexValidator(
    r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", "Use the name of a RuntimeClass, such as gvisor."
)


def validate_node_selector(value: Any) -> None:
    """Labels of nodes."""
    if not isinstance(value, dict):
        raise ValidationError('Use a JSON object of labels, such as {"pool": "agents"}.')
    for key, text in value.items():
        if not LABEL_KEY.fullmatch(key) or not isinstance(text, str) or not LABEL_VALUE.fullmatch(text):
            raise ValidationError(f"{key!r}: {text!r} is no label and value of a node.")


def validate_tolerations(value: Any) -> None:
    """Tolerations as in a pod's spec (https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/).

    One without a key tolerates every taint, also those that keep pods off the control plane's nodes: refused.
    """
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValidationError('Use a JSON list, such as [{"key": "agents", "operator": "Exists"}].')
    validate_storable(value)
    for each in value:
        if unknown := sorted(each.keys() - TOLERATION):
            raise ValidationError(f"A toleration has no {', '.join(unknown)}; it has {', '.join(sorted(TOLERATION))}.")
        if not isinstance(each.get("key"), str) or not LABEL_KEY.fullmatch(each["key"]):
            raise ValidationError("Name the taint's key: a toleration without one would tolerate every taint.")
        if each.get("operator", "Equal") not in ("Equal", "Exists") or each.get("effect", "") not in EFFECTS:
            raise ValidationError("A toleration's operator is Equal or Exists; its effect one of a taint's, or none.")
        if each.get("operator") == "Exists" and each.get("value"):
            raise ValidationError("A toleration with the operator Exists has no value.")


def validate_patch(value: Any) -> None:
    """A patch may add what doesn't weaken a pod's isolation; each refusal says why."""
    validate_storable(value)
    if refusals := check_patch(value):
        raise ValidationError([ValidationError(words) for words in refusals])


class Quota(models.Model):
    """What the runs of a group may use together on a cluster."""

    quota_cpu_millis = models.PositiveIntegerField(
        "CPU of all runs (thousandths)",
        null=True,
        blank=True,
        validators=[MinValueValidator(100)],
        help_text="Empty: GROUP_CPU_MILLIS.",
    )
    quota_memory_mib = models.PositiveIntegerField(
        "memory of all runs (MiB)",
        null=True,
        blank=True,
        validators=[MinValueValidator(128)],
        help_text="Empty: GROUP_MEMORY_MIB.",
    )
    quota_pods = models.PositiveIntegerField(
        "pods",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Those that end count until they are gone. Empty: GROUP_PODS.",
    )

    class Meta:
        abstract = True


class PodOptions(models.Model):
    """Where a profile's pods run on a cluster, and what operators add to them."""

    runtime_class = models.CharField(
        max_length=253,
        blank=True,
        default="",
        db_default="",
        validators=[validate_runtime_class],
        help_text="A RuntimeClass that isolates more, such as gvisor or kata. Empty: the cluster's default.",
    )
    node_selector = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_node_selector],
        help_text="Labels that a node must have.",
    )
    tolerations = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        validators=[validate_tolerations],
        help_text="Taints of nodes that its pods may ignore, as in a pod's spec.",
    )
    pod_patch = models.JSONField(
        "additions to the pod",
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_patch],
        help_text="Parts of a pod template: labels, affinity, a priority class, devices. What would weaken the "
        "isolation is refused, with the reason.",
    )
    dns = models.BooleanField(
        "DNS",
        default=False,
        db_default=False,
        help_text="Its pods may ask the cluster's DNS. That is a way out for data: leave it closed if you can.",
    )

    class Meta:
        abstract = True


def quota_constraint() -> models.CheckConstraint:
    """What the database itself holds of a quota."""
    fields = ("quota_cpu_millis", "quota_memory_mib", "quota_pods")
    condition = Q()
    for name in fields:
        condition &= Q(**{f"{name}__isnull": True}) | Q(**{f"{name}__gte": 1})
    return models.CheckConstraint(
        condition=condition,
        name="group_quota_positive",
        violation_error_message="A quota is at least 1; leave the field empty for the default.",
    )
