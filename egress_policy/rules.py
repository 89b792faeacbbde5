"""Making, changing and withdrawing rules. Each is in the audit log, and the proxies hear of it."""

from typing import Any

from django.db import transaction

from egress_policy import policy_revision
from egress_policy.models import EgressRule
from groups import audit
from groups.permissions import Person


def store(rule: EgressRule, *, by: str, actor: Person | None = None) -> EgressRule:
    """Make a rule, or save what was edited. Raises ValidationError."""
    rule.full_clean()
    with transaction.atomic():
        new = rule._state.adding
        rule.save()
        _audit("egress.allow" if new else "egress.change", rule, by, actor, until=_until(rule), reason=rule.reason)
        policy_revision.bump()
    return rule


def withdraw(rule: EgressRule, *, by: str, actor: Person | None = None) -> None:
    """Take a rule away: what is open by it ends within a second."""
    with transaction.atomic():
        _audit("egress.withdraw", rule, by, actor)
        EgressRule.objects.filter(pk=rule.pk).delete()
        policy_revision.bump()


def _until(rule: EgressRule) -> str:
    return rule.until.isoformat(timespec="seconds") if rule.until else ""


def _audit(action: str, rule: EgressRule, by: str, actor: Person | None, **details: Any) -> None:
    details = {"host": rule.host, "ports": rule.ports, "for": rule.whose} | details
    audit.record(action, actor=actor, by=by, target=rule.pk, group=rule.group, **details)
