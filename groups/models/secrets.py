"""Secrets by reference, what may use them, and keys that stay out of pods. No value is ever in a row."""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from simple_history.models import HistoricalRecords

from groups import validators
from groups.choices import Provider, SecretKind
from groups.models.profiles import AgentProfile
from groups.models.tenants import AgentGroup
from groups.permissions import Person, is_scoped_operator
from runtimes.secret_sources import SOURCES, AllowedSources

validate_file_name = RegexValidator(validators.SECRET_NAME, "Use letters, digits, dots, hyphens and underscores.")


class SecretReferenceQuerySet(models.QuerySet["SecretReference"]):
    """References, narrowed to what somebody may see or change."""

    def visible_to(self, user: Person) -> "SecretReferenceQuerySet":
        """All of them for whoever may change them; else those that the agents of a group which `user` owns may get."""
        if SecretReference.editable_by(user):
            return self
        owned = AgentGroup.objects.ownable_by(user).order_by()
        granted = SecretReference.groups.through.objects.filter(agentgroup__in=owned.values("pk"))
        rows = Q(pk__in=granted.values("secretreference"))
        return self.filter(rows | Q(every_group=True)) if owned.exists() else self.none()


def allowed_sources() -> AllowedSources:
    """What the settings let secrets be read from."""
    return AllowedSources(settings.SECRETS_ENV_PREFIX, settings.SECRETS_FOLDER, tuple(settings.K8S_SECRETS_NAMESPACES))


class SecretReference(models.Model):
    """A secret's name and where its value comes from. Operators write it, and grant it to groups and profiles."""

    name = models.CharField(max_length=100, unique=True, validators=[validate_file_name])
    description = models.CharField(max_length=200, blank=True)
    kind = models.CharField("source", max_length=20, choices=SecretKind)
    place = models.CharField(max_length=500, help_text="Where the source has it. Never the value itself.")
    profiles = models.ManyToManyField(
        AgentProfile,
        blank=True,
        related_name="secret_references",
        help_text="Profiles that may deliver it to their agents, as ref:NAME.",
    )
    groups = models.ManyToManyField(
        AgentGroup, blank=True, related_name="secret_references", help_text="Groups whose agents may get it."
    )
    every_group = models.BooleanField(
        "for every group", default=False, help_text="The agents of every group may get it, of later ones too."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    changed_at = models.DateTimeField(auto_now=True)

    objects = SecretReferenceQuerySet.as_manager()
    history = HistoricalRecords()

    class Meta:
        ordering = ["name"]
        verbose_name = "secret"
        constraints = [models.CheckConstraint(condition=Q(kind__in=SecretKind.values), name="secret_kind_known")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """The place is one of its kind, and within what the settings allow."""
        if self.kind in SOURCES and (problem := SOURCES[self.kind](self.place, allowed_sources()).problem()):
            raise ValidationError({"place": problem})

    @property
    def source(self) -> str:
        """Kind and place, as a runtime reads them."""
        return f"{self.kind}:{self.place}"

    @staticmethod
    def editable_by(user: Person) -> bool:
        """Whether somebody may see all references and their sources: operators of the whole installation."""
        may = getattr(user, "has_perm", lambda _: False)("groups.change_secretreference")
        return bool(user.is_active and may and not is_scoped_operator(user))

    def granted_to_group(self, group: AgentGroup) -> bool:
        """Whether agents of `group` may get it."""
        return self.every_group or self.groups.filter(pk=group.pk).exists()

    def refusal(self, group: AgentGroup, profile: AgentProfile) -> str:
        """Why agents of `group` that run `profile` may not get it; empty if they may."""
        if not self.profiles.filter(pk=profile.pk).exists():
            return f"secret {self.name!r} is not granted to the profile {profile.slug}"
        if not self.granted_to_group(group):
            return f"secret {self.name!r} is not granted to the group {group.slug}"
        return ""


class SecretUse(models.Model):
    """When a run of a group last got a secret. What came of it is not known."""

    reference = models.ForeignKey(SecretReference, on_delete=models.CASCADE, related_name="uses")
    group = models.ForeignKey(AgentGroup, on_delete=models.CASCADE, related_name="secret_uses")
    last_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["reference", "-last_at"]
        constraints = [models.UniqueConstraint(fields=["reference", "group"], name="one_use_per_group")]

    def __str__(self) -> str:
        return f"{self.reference} in {self.group}"


class BrokeredKeyQuerySet(models.QuerySet["BrokeredKey"]):
    """Keys, and which of them a run's requests get."""

    def for_run(self, group: AgentGroup, profile: AgentProfile) -> dict[str, "BrokeredKey"]:
        """Provider → the key for it. One for the group goes before one for the profile, and both before the rest."""
        rows = self.filter(Q(group=None) | Q(group=group.pk), Q(profile=None) | Q(profile=profile.pk), active=True)
        keys: dict[str, BrokeredKey] = {}
        for key in rows.select_related("reference").order_by("pk"):
            best = keys.get(key.provider)
            if best is None or key.specificity > best.specificity:
                keys[key.provider] = key
        return keys


class BrokeredKey(models.Model):
    """A key that agents use without having it: the credential broker puts it into their requests."""

    provider = models.CharField(max_length=20, choices=Provider)
    group = models.ForeignKey(
        AgentGroup,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="brokered_keys",
        help_text="Whose agents may use it. Empty: every group's.",
    )
    profile = models.ForeignKey(
        AgentProfile,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="brokered_keys",
        help_text="Which agents may use it. Empty: those of every profile.",
    )
    reference = models.ForeignKey(
        SecretReference, on_delete=models.PROTECT, related_name="brokered_keys", verbose_name="secret"
    )
    base_url = models.URLField(
        "API", max_length=300, blank=True, help_text="Empty: the provider's own address. Without /v1."
    )
    header = models.CharField(
        max_length=50,
        blank=True,
        validators=[RegexValidator(r"^[A-Za-z][A-Za-z0-9-]*$", "Use a header's name, such as x-api-key.")],
        help_text="The header that carries the key. Empty: the provider's own; Authorization carries a bearer token.",
    )
    file = models.CharField(
        max_length=100,
        blank=True,
        validators=[validate_file_name],
        help_text="File under /var/secrets with the agent's stand-in for the key. Empty: PROVIDER-api-key.",
    )
    active = models.BooleanField(default=True)

    objects = BrokeredKeyQuerySet.as_manager()
    history = HistoricalRecords()

    class Meta:
        ordering = ["provider", "group", "profile"]
        verbose_name = "brokered key"
        constraints = [
            *(
                models.UniqueConstraint(
                    fields=["provider", *(name for name in ("group", "profile") if name in named)],
                    condition=Q(group__isnull="group" not in named, profile__isnull="profile" not in named),
                    name="_".join(("one_brokered_key", *named)),
                    violation_error_message="There is a key for this provider, group and profile already.",
                )
                for named in ((), ("group",), ("profile",), ("group", "profile"))
            ),
            models.CheckConstraint(condition=Q(provider__in=Provider.values), name="brokered_key_provider_known"),
        ]

    def __str__(self) -> str:
        owner = " and ".join(str(each) for each in (self.group, self.profile) if each) or "everybody"
        return f"{self.get_provider_display()} for {owner}"

    def clean(self) -> None:
        """A key for some groups is not handed to others by way of the broker."""
        if self.reference_id and self.group and not self.reference.granted_to_group(self.group):
            raise ValidationError({"reference": f"It is not granted to the group {self.group}. Grant it first."})
        if self.reference_id and not self.group_id and not self.reference.every_group:
            raise ValidationError({"reference": "It is not for every group. Name a group, or grant it to every group."})
        if self.base_url and self.base_url.rstrip("/").endswith("/v1"):
            raise ValidationError({"base_url": "Leave /v1 out: it is part of what agents ask for."})

    @property
    def specificity(self) -> tuple[bool, bool]:
        """Sorts keys by how closely they fit a run that they may be used for."""
        return self.group_id is not None, self.profile_id is not None

    @property
    def file_name(self) -> str:
        """The file under /var/secrets that holds the agent's stand-in for the key."""
        return self.file or f"{self.provider}-api-key"
