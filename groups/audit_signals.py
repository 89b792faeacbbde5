"""Who changed a role, a limit or a token: signals of the rows, noted in the audit log with from → to.

Rows with a history tell their changes by it. People have none, so what decides on their power is compared on saving.
"""

from typing import Any

from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import receiver
from simple_history.models import HistoricalRecords
from simple_history.signals import post_create_historical_record

from groups import audit
from groups.models import AgentGroup, AgentProfile, ApiToken, Limits, Membership, OperatorScope

DEEDS = {"+": "add", "~": "change", "-": "remove"}
# Of these models, changes of these fields are roles and limits. An empty tuple: that the row is there at all.
NOTED: dict[type[Model], tuple[str, tuple[str, ...]]] = {
    Membership: ("membership", ("role",)),
    OperatorScope: ("operator", ()),
    AgentGroup: (
        "group",
        (
            "is_main",
            "max_runs",
            "weight",
            "storage_gib",
            "hold",
            "hold_reason",
            "writes_mounts",
            "quota_cpu_millis",
            "quota_memory_mib",
            "quota_pods",
            "broker_requests",
            "broker_tokens",
        ),
    ),
    Limits: ("limits", ("max_runs", "max_runs_per_group", "hold", "hold_reason")),
    AgentProfile: (
        "profile",
        ("cpu_millis", "memory_mib", "idle_seconds", "deadline_seconds", "start_seconds", "turn_seconds", "active"),
    ),
}
POWERS = ("is_superuser", "is_staff", "is_active")


def who() -> Any:
    """The person of the request that is being answered, if there is one."""
    request = getattr(HistoricalRecords.context, "request", None)
    user = getattr(request, "user", None)
    return user if user is not None and user.is_authenticated else None


@receiver(post_create_historical_record)
def noticed(instance: Any, history_instance: Any, **_: Any) -> None:
    """A row with a history was added, changed or removed."""
    if type(instance) not in NOTED:
        return
    name, fields = NOTED[type(instance)]
    deed = DEEDS[history_instance.history_type]
    if deed == "remove" and name == "group":
        return  # clean-up notes that itself, with what went along
    told: dict[str, Any] = {field: getattr(history_instance, field) for field in fields}
    if deed == "change":
        before = history_instance.prev_record
        told = {field: [getattr(before, field), now] for field, now in told.items() if getattr(before, field) != now}
        if before is None or not told:
            return
    group = instance if isinstance(instance, AgentGroup) else getattr(instance, "group", None)
    whose = {"user": instance.user.get_username()} if hasattr(instance, "user_id") else {}
    if not isinstance(instance, Membership | OperatorScope):
        whose = {"name": str(instance)}
    audit.record(f"{name}.{deed}", actor=who(), target=instance.pk, group=group, **whose, **told)


@receiver(pre_save, sender=User)
def remember(instance: User, **_: Any) -> None:
    """What a person could do before."""
    before = User.objects.filter(pk=instance.pk).values(*POWERS, "password").first() if instance.pk else None
    instance._before = before  # type: ignore[attr-defined]


@receiver(post_save, sender=User)
def person_saved(instance: User, created: bool, update_fields: Any, **_: Any) -> None:
    """A person was made, or may do something else than before."""
    before = getattr(instance, "_before", None)
    if created or before is None:
        told: dict[str, Any] = {field: getattr(instance, field) for field in POWERS}
    else:
        told = {f: [before[f], getattr(instance, f)] for f in POWERS if before[f] != getattr(instance, f)}
        # Alone it is saved when a login makes the hash of the same password anew, in a newer way.
        if before["password"] != instance.password and set(update_fields or ()) != {"password"}:
            told["password"] = "changed"
        if not told:
            return
    action = "user.add" if created else "user.change"
    audit.record(action, actor=who(), target=instance.pk, user=instance.get_username(), **told)


@receiver(post_delete, sender=User)
def person_removed(instance: User, **_: Any) -> None:
    """A person is gone."""
    audit.record("user.remove", actor=who(), target=instance.pk, user=instance.get_username())


def permissions_changed(
    instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, model: Any, **_: Any
) -> None:
    """Django's permissions of a person or of a set of permissions were changed."""
    if not action.startswith("post_"):
        return
    names = sorted(str(row) for row in model.objects.filter(pk__in=pk_set or ()))
    what = {"post_add": "given", "post_remove": "taken", "post_clear": "cleared"}[action]
    told: dict[str, Any] = {what: names[:50]}
    audit.record("permissions.change", actor=who(), target=instance.pk, of=str(instance), **told)


for through in (User.groups.through, User.user_permissions.through, Group.permissions.through):
    m2m_changed.connect(permissions_changed, sender=through)


@receiver(post_delete, sender=ApiToken)
def token_revoked(instance: ApiToken, **_: Any) -> None:
    """A token opens nothing any more."""
    by = instance.user.get_username()
    audit.record("token.revoke", actor=who(), target=instance.pk, group=instance.group, name=instance.name, user=by)
