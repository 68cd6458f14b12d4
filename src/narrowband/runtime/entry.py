"""Shared by all stage scripts: the console, the setup of torch, and one sentence for bad input."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from narrowband.params import InputError, first_line
from narrowband.runtime.signals import Stopped, stopping

console = Console(stderr=False, width=None if sys.stdout.isatty() else 120, markup=False)
"""What all of the package prints on; without markup, as texts of data and models may hold what looks like it."""


def run(main: Callable[..., Any], *, needs_less_memory: str = "lower generation.batch_size") -> None:
    """Run a stage's `main` as a Typer command; an expected error ends in one sentence and an exit code.

    `main` reads its parameters before its slow imports, so that a mistake in them is reported at once.
    `needs_less_memory` says what to change if memory runs out.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(main)
    with one_sentence(needs_less_memory):
        app()


@contextmanager
def one_sentence(needs_less_memory: str = "lower generation.batch_size") -> Iterator[None]:
    """For errors that the user or the machine causes, end the process with one sentence instead of a traceback.

    The exit code is 2 for bad input, diverging training, too little memory and errors of the operating system (a full disk,
    for example), and 128 + signal number for SIGINT and SIGTERM.
    """
    try:
        with stopping():
            yield
    except (InputError, FloatingPointError) as error:
        _end_with_error(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end_with_error(f"{where}{error.strerror or first_line(error)}; fix that and run the same command again")
    except Stopped as stopped:
        _end(Text(str(stopped)), stopped.code)
    except (RuntimeError, MemoryError) as error:
        from accelerate.utils.memory import should_reduce_batch_size

        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        size = re.search(r"allocate ([\d.]+ \w+)", str(error))
        beyond = f" when {size[1]} more were needed" if size else ""
        _end_with_error(f"out of memory{beyond}; {needs_less_memory}")


def _end_with_error(sentence: str) -> None:
    _end(Text.assemble(("Error:", "bold red"), f" {sentence}"), 2)


def _end(sentence: Text, code: int) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence)
    sys.exit(code)


def set_up_torch() -> None:
    """Use deterministic kernels, and OMP_NUM_THREADS threads, by default one per core.

    If there are several processes, only the main one prints.

    Raises:
        InputError: OMP_NUM_THREADS is not a number of threads.
    """
    import torch

    from narrowband.runtime import distributed

    console.quiet = not distributed.is_main()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # filling: 8% of a step
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS") or f"{cores}"
    if not asked.isdecimal() or int(asked) < 1:
        raise InputError(f"OMP_NUM_THREADS is {asked}, not a number of threads; set it to 1 or more, or unset it")
    torch.set_num_threads(int(asked))
