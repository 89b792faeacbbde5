"""What a new installation starts with: an administrator, a group, a profile, and a first conversation."""

import os
import sys
import time
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from groups.choices import Contract, Role
from groups.models import AgentGroup, AgentProfile, Membership
from sessions.choices import EventKind, SessionState
from sessions.cli.transcript import Paint, Transcript
from sessions.events import event_log
from sessions.lifecycle import intake
from sessions.models import AgentSession

TITLE = "Demo"
HELLO = "Hello! What are you, and where do you run?"


def administrator() -> User:
    """The superuser `admin`, with the password from the settings when it has to be made."""
    user = User.objects.filter(username="admin").first()
    return user or User.objects.create_superuser("admin", password=settings.ADMIN_PASSWORD)


@transaction.atomic
def create() -> tuple[AgentGroup, AgentProfile, User]:
    """Make what is missing of the administrator, the group `demo` and the profile `workbench`; change nothing else."""
    user = administrator()
    group, _ = AgentGroup.objects.get_or_create(slug="demo", defaults={"name": "Demo"})
    Membership.objects.get_or_create(group=group, user=user, defaults={"role": Role.OWNER})
    profile, _ = AgentProfile.objects.get_or_create(
        slug="workbench",
        defaults={
            "description": "Runs commands and answers without a model: for trying things out.",
            "contract": Contract.JSONL,
            "image": settings.WORKBENCH_IMAGE if settings.RUNTIME == "kubernetes" else "",
            "command": workbench_command(),
            "state_folder": "/home/agent/.workbench",
            "memory_mib": 256,
        },
    )
    return group, profile, user


def workbench_command() -> list[str]:
    """How the workbench is started on this installation's runtime."""
    if settings.RUNTIME == "kubernetes":
        return ["python3", "/opt/berth/workbench.py"]
    return [sys.executable, str(Path(settings.BASE_DIR) / "agents" / "workbench.py")]


def run_conversation(seconds: float = 60) -> tuple[AgentSession, bool]:
    """Send the demo session a message and print its transcript as it streams, until the agent has answered.

    Returns the session, and whether an answer came in time.
    """
    group, profile, user = create()
    session = AgentSession.objects.filter(group=group, profile=profile, title=TITLE).first()
    cursor = session.last_seq if session else 0
    if session is None:
        session = intake.open_session(group=group, profile=profile, text=HELLO, sender=user, title=TITLE)
    else:
        intake.post_message(session, HELLO, sender=user)
    transcript = Transcript(Paint(sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for event in event_log.read(session.pk, cursor):
            cursor = event["seq"]
            sys.stdout.write(transcript.put(event))
            sys.stdout.flush()
            if event["kind"] == EventKind.RESULT:
                return session, True
        session.refresh_from_db(fields=["state", "reason"])
        if session.state == SessionState.FAILED:
            return session, False
        time.sleep(0.1)  # a terminal that follows: ten looks a second are enough
    return session, False
