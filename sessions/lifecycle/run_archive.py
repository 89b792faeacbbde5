"""The archive of runs: what the runtime knows of a run is stored before the runtime forgets it."""

import json
from datetime import datetime
from typing import Any

import structlog
from django.db import DatabaseError, transaction
from django.utils import timezone

from runtimes.base import Description, Runtime, RuntimeFault
from sessions.lifecycle import redact
from sessions.models import Run, RunRecord

log = structlog.get_logger(__name__)

NOTICES = 100  # the newest are kept
NOTICE_LENGTH = 2000  # characters
MANIFEST_BYTES = 256 * 1024


def archive(run: Run, runtime: Runtime) -> None:
    """Store what the runtime knows of `run`. Best effort: what goes wrong is logged, and nothing is raised.

    It may be called again, and for a run of which the runtime has forgotten some: what was kept stays.
    """
    try:
        payload = redact.redact_event(run.pk, "", to_json(runtime.describe(run.ref)))[1]
        changes = {name: value for name, value in payload.items() if value}
        with transaction.atomic():
            if changes and Run.objects.select_for_update().filter(pk=run.pk).exists():  # not cleaned up meanwhile
                RunRecord.objects.update_or_create(run=run, defaults=changes | {"at": timezone.now()})
    except (RuntimeFault, DatabaseError) as error:
        log.warning("no record of a run", session=str(run.session_id), run=str(run.pk), words=str(error))


def to_json(description: Description) -> dict[str, Any]:
    """`steps`, `notices` and `manifest` as a RunRecord holds them: JSON of bounded size."""
    return {
        "steps": {name: at.isoformat() for name, at in description.steps.items()},
        "notices": [
            {
                "at": notice.at.isoformat() if notice.at else None,
                "reason": _text(notice.reason, 100),
                "text": _text(notice.text, NOTICE_LENGTH),
                "count": notice.count,
            }
            for notice in description.notices[-NOTICES:]
        ],
        "manifest": _manifest(description),
    }


def steps_of(record: dict[str, str]) -> dict[str, datetime]:
    """The stored steps as times."""
    return {name: datetime.fromisoformat(at) for name, at in record.items()}


def _manifest(description: Description) -> dict[str, Any]:
    text = json.dumps(description.manifest).replace("\\u0000", "\\ufffd")  # PostgreSQL's JSON holds no NUL
    if len(text) > MANIFEST_BYTES:
        return {"left out": f"{len(text) // 1024} KiB are more than the {MANIFEST_BYTES // 1024} KiB that are kept"}
    kept: dict[str, Any] = json.loads(text)
    return kept


def _text(text: str, length: int) -> str:
    short = text if len(text) <= length else f"{text[: length - 1]}…"
    return short.replace("\0", "\ufffd")
