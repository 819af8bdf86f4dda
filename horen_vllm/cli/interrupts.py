"""SIGINT and SIGTERM as an event that other threads can wait for."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT or SIGTERM sets; main thread only."""
    stop = threading.Event()
    read, write = os.pipe()

    def wait() -> None:
        os.read(read, 1)
        stop.set()

    # A handler that set the event itself could meet the main thread inside the event's own lock.
    def handle(*_signal: Any) -> None:
        os.write(write, b"!")

    waiter = threading.Thread(target=wait, name="signals", daemon=True)
    waiter.start()
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        handle()
        waiter.join()
        os.close(read)
        os.close(write)
