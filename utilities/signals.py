"""SIGTERM and Ctrl-C: what a command does when it is asked to stop. Imports next to nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from latent_diffusion.errors import MSGLDError

Handler = Callable[[int, FrameType | None], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(MSGLDError):
    """A signal ended the work; `status` is the exit status that says so, 130 or 143."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def stop(number: int, _: FrameType | None) -> None:
    """Handler: end the work with a `StoppedError`, so that what is half done is tidied up."""
    raise StoppedError(f"stopped by {signal.Signals(number).name}", number)


def leave_at_once(number: int, _: FrameType | None) -> None:
    """Handler while libraries load: nothing is to be tidied up, and half-loaded libraries take no exception well."""
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def listen(handler: Handler) -> None:
    """Let a handler hear both signals from now on; in the main thread only, and not those that nohup has ignored."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)


@contextmanager
def listening(handler: Handler) -> Iterator[None]:
    """Within the block the handler hears both signals; after it, who heard them before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen(handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, former in before.items():
                signal.signal(number, signal.SIG_DFL if former is None else former)
