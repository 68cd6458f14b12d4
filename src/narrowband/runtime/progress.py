"""Progress bars with rate and time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from narrowband.runtime.entry import console


class RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """The rate as text; empty until it is known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def progress() -> Progress:
    """A bar with items done, total, rate and time left; it disappears when it ends."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` items; yields a function that advances it."""
    with progress() as shown:
        task = shown.add_task(title, total=total)
        yield lambda n: shown.advance(task, n)
