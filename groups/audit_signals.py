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

ACTIONS = {"+": "add", "~": "change", "-": "remove"}
# Of these models, changes of these fields are roles and limits. An empty tuple: that the row is there at all.
RECORDED_FIELDS: dict[type[Model], tuple[str, tuple[str, ...]]] = {
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
PRIVILEGES = ("is_superuser", "is_staff", "is_active")


def current_user() -> Any:
    """The person of the request that is being answered, if there is one."""
    request = getattr(HistoricalRecords.context, "request", None)
    user = getattr(request, "user", None)
    return user if user is not None and user.is_authenticated else None


@receiver(post_create_historical_record)
def record_history(instance: Any, history_instance: Any, **_: Any) -> None:
    """A row with a history was added, changed or removed."""
    if type(instance) not in RECORDED_FIELDS:
        return
    name, fields = RECORDED_FIELDS[type(instance)]
    action = ACTIONS[history_instance.history_type]
    if action == "remove" and name == "group":
        return  # clean-up notes that itself, with what went along
    changes: dict[str, Any] = {field: getattr(history_instance, field) for field in fields}
    if action == "change":
        previous = history_instance.prev_record
        pairs = {field: [getattr(previous, field, None), now] for field, now in changes.items()}
        changes = {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}
        if previous is None or not changes:
            return
    group = instance if isinstance(instance, AgentGroup) else getattr(instance, "group", None)
    details = {"user": instance.user.get_username()} if hasattr(instance, "user_id") else {}
    if not isinstance(instance, Membership | OperatorScope):
        details = {"name": str(instance)}
    audit.record(f"{name}.{action}", actor=current_user(), target=instance.pk, group=group, **details, **changes)


@receiver(pre_save, sender=User)
def load_previous(instance: User, **_: Any) -> None:
    """What a person could do until now."""
    previous = User.objects.filter(pk=instance.pk).values(*PRIVILEGES, "password").first() if instance.pk else None
    instance._previous = previous  # type: ignore[attr-defined]


@receiver(post_save, sender=User)
def record_user_saved(instance: User, created: bool, update_fields: Any, **_: Any) -> None:
    """A person was made, or may do something else than before."""
    previous = getattr(instance, "_previous", None)
    if created or previous is None:
        changes: dict[str, Any] = {field: getattr(instance, field) for field in PRIVILEGES}
    else:
        changes = {f: [previous[f], getattr(instance, f)] for f in PRIVILEGES if previous[f] != getattr(instance, f)}
        # Alone it is saved when a login makes the hash of the same password anew, in a newer way.
        if previous["password"] != instance.password and set(update_fields or ()) != {"password"}:
            changes["password"] = "changed"
        if not changes:
            return
    action = "user.add" if created else "user.change"
    audit.record(action, actor=current_user(), target=instance.pk, user=instance.get_username(), **changes)


@receiver(post_delete, sender=User)
def record_user_removed(instance: User, **_: Any) -> None:
    """A person is gone."""
    audit.record("user.remove", actor=current_user(), target=instance.pk, user=instance.get_username())


def record_permission_change(
    instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, model: Any, **_: Any
) -> None:
    """Django's permissions of a person or of a set of permissions were changed."""
    if not action.startswith("post_"):
        return
    names = sorted(str(row) for row in model.objects.filter(pk__in=pk_set or ()))
    what = {"post_add": "given", "post_remove": "taken", "post_clear": "cleared"}[action]
    changes: dict[str, Any] = {what: names[:50]}
    audit.record("permissions.change", actor=current_user(), target=instance.pk, of=str(instance), **changes)


for through in (User.groups.through, User.user_permissions.through, Group.permissions.through):
    m2m_changed.connect(record_permission_change, sender=through)


@receiver(post_delete, sender=ApiToken)
def record_token_revoked(instance: ApiToken, **_: Any) -> None:
    """A token opens nothing any more."""
    details = {"name": instance.name, "user": instance.user.get_username()}
    audit.record("token.revoke", actor=current_user(), target=instance.pk, group=instance.group, **details)
