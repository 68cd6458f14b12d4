"""SIGINT (Ctrl-C) and SIGTERM: where work would be lost, what is begun is finished first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """A signal asked this process to end, where `what` stood; `code` is the exit status that a shell expects of that.

    It is no `Exception`, so that nothing that handles errors swallows it.
    """

    def __init__(self, number: int, what: str = "Stopped") -> None:
        name = signal.Signals(number).name
        super().__init__(f"{what} by {name}; run the same command again and it goes on from what is finished")
        self.code = 128 + number


@contextmanager
def stopping() -> Iterator[None]:
    """In this block each signal raises `Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def postponed() -> Iterator[Callable[[], int]]:
    """Keep a signal until the block asks for it by the function yielded (0: none came) or ends; a second one does not wait.

    Raises:
        Stopped: the block has ended, or a second signal has come.
    """
    received: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise Stopped(number)

    with _handled_by(keep):
        yield lambda: received[0] if received else 0
    if received:
        raise Stopped(received[0])


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
