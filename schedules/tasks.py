"""What the task queue calls. Every task may run twice, or be lost: the next sweep finds what it left undone."""

from schedules import agent_requests, execute


def fire_due() -> None:
    """Run what is due, and count what came to its end."""
    execute.execute_due()


def requested(request_id: int | str) -> None:
    """Answer what an agent asked for, and what it asked for before."""
    agent_requests.handle_up_to(int(request_id))
