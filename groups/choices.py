"""Enumerations of the groups app, with their labels."""

from django.db import models


class Role(models.TextChoices):
    """What a member may do in a group, least first."""

    VIEWER = "viewer", "Viewer"  # reads sessions
    MEMBER = "member", "Member"  # also starts sessions and sends messages
    OWNER = "owner", "Owner"  # also changes the group


class Hold(models.TextChoices):
    """Whether new runs may start. What is queued stays queued in any case."""

    NONE = "", "Open"
    PAUSED = "paused", "Paused"  # nothing new starts; what runs goes on
    DRAINING = "draining", "Draining"  # nothing new starts; what runs is closed when its turn ends


# Unfold's label colours.
HOLD_COLOURS = {Hold.NONE: "", Hold.PAUSED: "warning", Hold.DRAINING: "info"}


class Contract(models.TextChoices):
    """How an agent speaks with the courier (docs/courier-protocol.md)."""

    PLAIN = "plain", "Plain text, one run a message"
    JSONL = "jsonl", "JSON lines"
    CLAUDE = "claude", "Claude Code stream-json"
    NANOCLAW = "nanoclaw", "NanoClaw agent runner"
