"""Waiting for what may hang, but not for long."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin(work: Callable[[], T], name: str) -> "Future[T]":
    """Do `work` in a thread of its own, which doesn't hold up the end of the process."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # whoever stops waiting for it does not cancel it

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, name=name, daemon=True).start()
    return future


def within(seconds: float, work: Callable[[], T], name: str) -> T:
    """The result of `work`, or TimeoutError after `seconds`; it is left to itself then. `work` uses no database."""
    return begin(work, name).result(timeout=seconds)
