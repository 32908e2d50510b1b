"""Waits that end: the store's own time-outs do not cover a connection that is gone, as behind a cut link."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """What `action` returns or raises; TimeoutError if it has not ended after `seconds`.

    It runs in a thread, which is left behind when it is late: end the process with `os._exit` then.
    """
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)
