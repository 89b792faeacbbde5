"""What the task queue calls. Every task may run twice, or be lost: the next sweep finds what it left undone."""

import structlog
from django.db import OperationalError

from schedules import fire, requests

log = structlog.get_logger(__name__)


def fire_due() -> None:
    """Run what is due, and count what came to its end."""
    fire.fire_due()


def requested(request_id: int | str) -> None:
    """Answer what an agent asked for."""
    number = int(request_id)
    try:
        requests.handle(number)
    except OperationalError:
        raise
    except Exception:
        log.exception("an agent's request failed", request=number)
        requests.give_up(number, "Berth failed to handle it.")
