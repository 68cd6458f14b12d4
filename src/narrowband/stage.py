"""What every stage script shares: one console, torch set up for repeatable results, one sentence for bad input."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from narrowband.params import InputError

console = Console(stderr=False, width=None if sys.stdout.isatty() else 120)


def run(main: Callable[..., Any], *, needs_less_memory: str = "lower generation.batch_size") -> None:
    """Run a stage's `main` as a Typer command.

    Bad input, diverging training and too little memory end it with one sentence and exit code 2; `needs_less_memory` is the
    mend of the last.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(main)
    try:
        app()
    except (InputError, FloatingPointError) as error:
        refuse(error)
    except (RuntimeError, MemoryError) as error:
        from accelerate.utils.memory import should_reduce_batch_size

        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        size = re.search(r"allocate ([\d.]+ \w+)", str(error))
        refuse(InputError(f"out of memory{f' at {size[1]} more' if size else ''}; {needs_less_memory}"))


def refuse(error: Exception) -> None:
    """Say what is wrong with the input and exit with code 2."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]Error:[/] {escape(str(error))}")
    sys.exit(2)


def set_up_torch() -> None:
    """Deterministic kernels, and as many threads as this process has cores (or OMP_NUM_THREADS says).

    Of several processes only the main one prints.
    """
    import torch

    from narrowband import processes

    console.quiet = not processes.is_main()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", cores)))
