"""Enumerations of the groups app, with their labels and colours."""

from django.db import models

from groups.choice_set import ChoiceSet
from runtimes.secret_sources import File, GroupSecret, OperatorsSecret, Variable


class Role(ChoiceSet):
    """What a member may do in a group, least first."""

    VIEWER = "viewer", "", "Viewer"  # reads sessions
    MEMBER = "member", "info", "Member"  # also starts sessions and sends messages
    OWNER = "owner", "primary", "Owner"  # also changes the group


class Scope(ChoiceSet):
    """What an API token may do, least first. It never may more than its person."""

    READ = "read", "", "Read"
    WRITE = "write", "info", "Read and write"


class TokenState(ChoiceSet):
    """Whether an API token opens anything."""

    GOOD = "good", "success", "Good"
    OVER = "over", "danger", "Ran out"


class Hold(ChoiceSet):
    """Whether new runs may start. What is queued stays queued in any case."""

    NONE = "", "", "Open"
    PAUSED = "paused", "warning", "Paused"  # nothing new starts; what runs goes on
    DRAINING = "draining", "info", "Draining"  # nothing new starts; what runs is closed when its turn ends


class Contract(models.TextChoices):
    """How an agent speaks with the courier (docs/courier-protocol.md)."""

    PLAIN = "plain", "Plain text, one run a message"
    JSONL = "jsonl", "JSON lines"
    CLAUDE = "claude", "Claude Code stream-json"
    NANOCLAW = "nanoclaw", "NanoClaw agent runner"


class MountKind(models.TextChoices):
    """What a mount root is. Each has words that fit into a sentence (`phrase`)."""

    CLAIM = "claim", "PersistentVolumeClaim"  # in the group's namespace
    NFS = "nfs", "NFS export"
    FOLDER = "folder", "Folder of this machine"

    @property
    def phrase(self) -> str:
        """The kind with its article."""
        return {"claim": "a PersistentVolumeClaim", "nfs": "an NFS export", "folder": "a folder of this machine"}[self]


class MountState(ChoiceSet):
    """How far a group's wish for a mount is. Only an approved one is mounted."""

    REQUESTED = "requested", "warning", "Requested"
    APPROVED = "approved", "success", "Approved"
    REFUSED = "refused", "danger", "Refused"


class SecretKind(models.TextChoices):
    """Where a secret's value comes from: what `runtimes.secret_sources` knows."""

    KUBERNETES = GroupSecret.scheme, GroupSecret.label
    OPERATORS = OperatorsSecret.scheme, OperatorsSecret.label
    FILE = File.scheme, File.label
    ENV = Variable.scheme, Variable.label


class Provider(models.TextChoices):
    """A model API that the credential broker speaks to."""

    ANTHROPIC = "anthropic", "Anthropic (Messages)"
    OPENAI = "openai", "OpenAI (Chat Completions, Responses)"
