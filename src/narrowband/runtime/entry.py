"""What every stage script shares: one console, torch set up for repeatable results, one sentence for bad input."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from narrowband.params import InputError, first_line
from narrowband.runtime.signals import Stopped, stopping

console = Console(stderr=False, width=None if sys.stdout.isatty() else 120)


def run(main: Callable[..., Any], *, needs_less_memory: str = "lower generation.batch_size") -> None:
    """Run a stage's `main` as a Typer command, which ends in an exit code and at the most one sentence.

    `main` reads its parameters before it imports what takes seconds, so that a mistake in them is told at once.
    `needs_less_memory` is the mend where memory runs out.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(main)
    with one_sentence(needs_less_memory):
        app()


@contextmanager
def one_sentence(needs_less_memory: str = "lower generation.batch_size") -> Iterator[None]:
    """End the process with one sentence, not with a traceback, on what its user or its surroundings are the cause of.

    The exit code is 2 for bad input, diverging training, too little memory and whatever else the operating system refuses
    (a full disk, for one), and 128 + the signal's number for SIGINT and SIGTERM.
    """
    try:
        with stopping():
            yield
    except (InputError, FloatingPointError) as error:
        _end(f"[bold red]Error:[/] {escape(str(error))}", 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = escape(f"{where}{error.strerror or first_line(error)}")
        _end(f"[bold red]Error:[/] {reason}; mend that and run the same command again", 2)
    except Stopped as stopped:
        _end(escape(str(stopped)), stopped.code)
    except (RuntimeError, MemoryError) as error:
        from accelerate.utils.memory import should_reduce_batch_size

        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        size = re.search(r"allocate ([\d.]+ \w+)", str(error))
        beyond = f" at {size[1]} more" if size else ""
        _end(f"[bold red]Error:[/] out of memory{escape(beyond)}; {needs_less_memory}", 2)


def _end(sentence: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence)
    sys.exit(code)


def set_up_torch() -> None:
    """Deterministic kernels, and as many threads as this process has cores (or OMP_NUM_THREADS says).

    Of several processes only the main one prints.
    """
    import torch

    from narrowband.runtime import distributed

    console.quiet = not distributed.is_main()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", cores)))
