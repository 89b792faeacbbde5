"""Enumerations of the groups app, with their labels."""

from django.db import models


class Role(models.TextChoices):
    """What a member may do in a group, least first."""

    VIEWER = "viewer", "Viewer"  # reads sessions
    MEMBER = "member", "Member"  # also starts sessions and sends messages
    OWNER = "owner", "Owner"  # also changes the group


class Contract(models.TextChoices):
    """How an agent speaks with the courier (docs/courier-protocol.md)."""

    PLAIN = "plain", "Plain text, one run a message"
    JSONL = "jsonl", "JSON lines"
    CLAUDE = "claude", "Claude Code stream-json"
    NANOCLAW = "nanoclaw", "NanoClaw agent runner"
