"""Programs' keys to the API."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Self

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import models
from django.db.models import Q
from django.utils import timezone

from groups.choices import Scope
from groups.models.tenants import AgentGroup

PREFIX = "berth_"  # so that scanners for leaked secrets can know one
LAST_USE_PRECISION = timedelta(minutes=1)  # how exact `last_used_at` is; more would be a write for every call
DEFAULT_DAYS, MAX_DAYS = 90, 3650  # that a new token is good for: unless something else is said, and at most


class TokenQuerySet(models.QuerySet["ApiToken"]):
    """Tokens, narrowed to those that open something."""

    def valid(self, now: datetime) -> Self:
        """Those that have not run out, of people who are not switched off."""
        return self.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now), user__is_active=True)


class ApiToken(models.Model):
    """A program's key to the API, which acts as `user`. Only its hash is kept."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100, blank=True, help_text="To know it by, such as the program's name.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scope = models.CharField(
        "may", max_length=10, choices=Scope, default=Scope.READ, db_default=Scope.WRITE, help_text="What it may do."
    )
    group = models.ForeignKey(
        AgentGroup,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="The only group that it reaches; empty for all groups of its person.",
    )
    expires_at = models.DateTimeField("good until", null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField("last used", null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API token"
        constraints = [models.CheckConstraint(condition=Q(scope__in=Scope.values), name="token_scope_known")]

    def __str__(self) -> str:
        return self.name or f"token of {self.user}"

    @property
    def label(self) -> str:
        """Its name for the audit log."""
        return self.name or f"number {self.pk}"

    @staticmethod
    def hash(token: str) -> str:
        """SHA-256 is enough for 256 random bits: there is nothing to guess that a slow hash would protect."""
        return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()

    @classmethod
    def issue(
        cls,
        user: AbstractBaseUser,
        name: str = "",
        *,
        scope: str = Scope.WRITE,
        days: int = DEFAULT_DAYS,
        group: AgentGroup | None = None,
    ) -> str:
        """Make a token for `user` and return it. It can't be shown again. With 0 `days` it is good for ever."""
        return cls.create(user, name, scope=scope, days=days, group=group)[1]

    @classmethod
    def create(
        cls, user: AbstractBaseUser, name: str, *, scope: str, days: int, group: AgentGroup | None
    ) -> "tuple[ApiToken, str]":
        """As `issue`, with the row."""
        row = cls(user_id=user.pk, name=name, scope=scope, group=group)
        token = row.mint(days)
        row.save()
        return row, token

    def mint(self, days: int) -> str:
        """Give this row, which has none yet, a token that is good for so many days, or for ever with 0; return it."""
        token = f"{PREFIX}{secrets.token_urlsafe(32)}"
        self.digest = self.hash(token)
        self.expires_at = timezone.now() + timedelta(days=days) if days else None
        return token

    @classmethod
    def authenticate(cls, token: str) -> "ApiToken | None":
        """The row of a token that opens something, noted as used; None for any other."""
        now = timezone.now()
        row = cls.objects.valid(now).select_related("user").filter(digest=cls.hash(token)).first()
        if row and (row.last_used_at is None or now - row.last_used_at >= LAST_USE_PRECISION):
            cls.objects.filter(pk=row.pk).update(last_used_at=now)
        return row
