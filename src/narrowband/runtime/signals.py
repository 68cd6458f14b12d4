"""SIGINT (Ctrl-C) and SIGTERM: they end the process at once, or where work is `postponed`, after what has begun is saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """A signal asked this process to end; `what` says where it stopped, `code` is the exit code (128 + signal number).

    `saved` is whether the same command continues from there; otherwise it does this part of the work again. It is a
    `BaseException`, so that no `except Exception` swallows it.
    """

    def __init__(self, number: int, what: str = "Stopped", *, saved: bool = False) -> None:
        then = "run the same command again to continue" if saved else "run the same command again"
        super().__init__(f"{what} by {signal.Signals(number).name}; {then}")
        self.code = 128 + number


@contextmanager
def stopping() -> Iterator[None]:
    """Within this block, each signal raises `Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def postponed() -> Iterator[Callable[[], int]]:
    """Hold back the first signal within this block; the function yielded returns its number, or 0 if none has come.

    Raises:
        Stopped: at the end of the block if a signal came, or at once when a second one comes.
    """
    received: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise Stopped(number)

    with _handled_by(keep):
        yield lambda: received[0] if received else 0
    if received:
        raise Stopped(received[0], saved=True)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
