"""SIGTERM, which ends a command as the keyboard does."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn


@contextlib.contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """End by SIGTERM as by the keyboard: temporary files go, what is written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
