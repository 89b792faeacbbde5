"""What goes in and out of the API: sessions, messages and events."""

from datetime import datetime
from typing import Any

from ninja import Field, Schema


class NewSession(Schema):
    """What starts a session."""

    profile: str = Field(description="A profile's slug")
    message: str = Field(description="The first message")
    title: str = Field("", max_length=80)


class NewMessage(Schema):
    """A follow-up."""

    text: str


class GroupOut(Schema):
    """A group that the caller is in."""

    slug: str
    name: str
    role: str
    max_runs: int


class RunOut(Schema):
    """One execution of a session. Times are null until they happened."""

    number: int
    state: str
    verdict: str | None
    verdict_words: str
    exit_code: int | None
    started_at: datetime | None
    first_output_at: datetime | None
    ended_at: datetime | None


class SessionOut(Schema):
    """A session, with the reason for its state in words."""

    id: str
    title: str
    group: str
    profile: str
    state: str
    reason: str
    created_at: datetime
    updated_at: datetime
    last_seq: int
    runs: list[RunOut] = Field(description="The last 100")


class MessageOut(Schema):
    """The number that an accepted message has within its session."""

    number: int


class MessageState(Schema):
    """A message, and how far it came."""

    number: int
    state: str
    attempts: int = Field(description="How often an agent was handed it")
    reason: str = Field(description="Why it failed or was cancelled")
    text: str
    created_at: datetime
    delivered_at: datetime | None
    answered_at: datetime | None


class EventOut(Schema):
    """One event (docs/courier-protocol.md tells the kinds)."""

    seq: int
    kind: str
    text: str
    data: dict[str, Any]
    run: int | None
    at: datetime


class EventsOut(Schema):
    """A page of events, and the cursor after it."""

    events: list[EventOut]
    last_seq: int
    removed: int = Field(description="Up to this number, what came after the cursor was removed by retention; or 0")
