"""Who may do what: the one place that decides it. Every page, API call and websocket frame asks through the querysets.

| right | who has it in a group |
|---|---|
| SEE | its viewers, members and owners |
| WRITE | its members and owners: they start sessions and send messages |
| OWN | its owners: they change who is in it |
| OPERATE | its operators (`OperatorScope`): they do all of that, and to its rows what Django's permissions give them |

An operator has every right of the group; a superuser has every right everywhere; who is switched off has none.
"""

from enum import IntEnum
from typing import Any, Self, TypeVar

from django.apps import apps
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.db.models import Q

from groups.choices import Role

Person = AbstractBaseUser | AnonymousUser
Row = TypeVar("Row", bound=models.Model, covariant=True)
NOBODY = Q(pk__in=[])


class Right(IntEnum):
    """What somebody wants to do in a group, least first; each has those before it."""

    SEE = 1
    WRITE = 2
    OWN = 3
    OPERATE = 4


ROLES: dict[Right, tuple[Role, ...]] = {
    Right.SEE: (Role.VIEWER, Role.MEMBER, Role.OWNER),
    Right.WRITE: (Role.MEMBER, Role.OWNER),
    Right.OWN: (Role.OWNER,),
    Right.OPERATE: (),
}


def restrict_to_group(user: Any, group_id: Any) -> Any:
    """Let this object of a person reach one group only, whatever the person may otherwise do; returns it.

    It is how a token that is bound to a group acts: all the querysets below heed it.
    """
    user.only_group = group_id
    return user


def permission_filter(user: Person, right: Right, path: str = "group") -> Q:
    """The rows that belong to a group where `user` has `right`. `path` leads from a row to its group's id.

    It is made of subqueries and joins nothing, so rows come once, and in their table's own order.
    """
    if not user.is_active:
        return NOBODY
    only = getattr(user, "only_group", None)
    within = Q(**{path: only}) if only else Q()
    if getattr(user, "is_superuser", False):
        return within
    scopes = apps.get_model("groups", "OperatorScope").objects.filter(user_id=user.pk)
    operated = scopes.order_by().values("group_id")
    allowed = Q(**{f"{path}__in": operated})
    if ROLES[right]:
        memberships = apps.get_model("groups", "Membership").objects.filter(user_id=user.pk, role__in=ROLES[right])
        allowed |= Q(**{f"{path}__in": memberships.order_by().values("group_id")})
    return within & allowed


def is_scoped_operator(user: Any) -> bool:
    """Whether a person operates some groups only. What belongs to no group is not theirs to change, then.

    Who ever was given single groups stays one who operates these alone, also when the last of them is gone: to take
    power away, or to delete a group, must not give more. A superuser's word lifts it.
    """
    if not user.is_active or user.is_superuser:
        return False
    scope = apps.get_model("groups", "OperatorScope")
    mine = {"user_id": user.pk}
    return bool(scope.objects.filter(**mine).exists() or scope.history.filter(**mine).exists())


class RestrictedQuerySet(models.QuerySet[Row]):
    """Rows of groups, narrowed to what somebody may do. `group_path` leads from a row to its group's id."""

    group_path = "group"

    def visible_to(self, user: Person) -> Self:
        """Those that `user` may see."""
        return self.filter(permission_filter(user, Right.SEE, self.group_path))

    def writable_by(self, user: Person) -> Self:
        """Those that `user` may use: send messages, stop, close, change what members change."""
        return self.filter(permission_filter(user, Right.WRITE, self.group_path))

    def ownable_by(self, user: Person) -> Self:
        """Those that `user` may decide on as an owner of the group."""
        return self.filter(permission_filter(user, Right.OWN, self.group_path))

    def operable_by(self, user: Person) -> Self:
        """Those that `user` may change as an operator, as far as Django's permissions go."""
        return self.filter(permission_filter(user, Right.OPERATE, self.group_path))
