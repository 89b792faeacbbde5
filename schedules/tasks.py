"""What the task queue calls. Every task may run twice, or be lost: the next sweep finds what it left undone."""

import structlog
from django.db import OperationalError

from schedules import fire, requests

log = structlog.get_logger(__name__)


def fire_due() -> None:
    """Run what is due, and count what came to its end."""
    fire.fire_due()


def requested(request_id: int) -> None:
    """Answer what an agent asked for."""
    try:
        requests.handle(request_id)
    except OperationalError:
        raise
    except Exception:
        log.exception("an agent's request failed", request=request_id)
        requests.give_up(request_id, "Berth failed to handle it.")
