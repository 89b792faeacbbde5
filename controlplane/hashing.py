"""Passwords are hashed in turn: a few at a time in one process, so that many logins at once cost nobody else the CPU.

Whoever hashes waits a bounded time among a bounded number of others, and is then told to come again (503).
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher

from sessions.throttle import Throttled

# hashlib lets go of Python's lock while it computes, so each of these takes a core.
AT_ONCE = 2 if (os.cpu_count() or 1) > 2 else 1
WAITING = 16  # some five seconds' worth
WAIT_SECONDS = 5.0


class ConcurrencyLimit:
    """`at_once` of those who ask work, `waiting` others wait for up to `seconds`. For any thread."""

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        self._seconds = seconds
        self._work = threading.BoundedSemaphore(at_once)
        self._room = threading.BoundedSemaphore(at_once + waiting)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """While the block lasts, the caller is one of those who work. Raises Throttled."""
        if not self._room.acquire(blocking=False):
            raise _busy()
        try:
            if not self._work.acquire(timeout=self._seconds):
                raise _busy()
            try:
                yield
            finally:
                self._work.release()
        finally:
            self._room.release()


def _busy() -> Throttled:
    return Throttled("Too many people log in at this moment. Try again in a few seconds.", 5, 503)


limit = ConcurrencyLimit(AT_ONCE, WAITING, WAIT_SECONDS)


class LimitedPasswordHasher(PBKDF2PasswordHasher):
    """Django's own hasher, whose hashes it reads and writes, in turn."""

    def encode(self, password: str, salt: str, iterations: Any = None) -> str:
        """The hash. Raises Throttled."""
        with limit.slot():
            return super().encode(password, salt, iterations)
