import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from narrowband.params import InputError, Params
from narrowband.runtime import entry
from narrowband.runtime.parameters import dotted_names

STAGES = Path(__file__).parent.parent.parent / "stages"


def cuda() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.15 GiB"
    )


@pytest.mark.parametrize(
    ("allocate", "size"),
    [
        (cuda, "20.00 MiB"),
        (lambda: torch.empty(2**50), "4503599627370496 bytes"),
        (lambda: np.empty(2**57), "1.00 EiB"),
    ],
    ids=["cuda", "torch on the CPU", "numpy"],
)
def test_too_little_memory_is_one_sentence_with_the_fix(
    allocate: Callable[[], object], size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        allocate()

    monkeypatch.setattr("sys.argv", ["stage"])
    with pytest.raises(SystemExit, match="2"):
        entry.run(main, needs_less_memory="lower window")
    assert capsys.readouterr().err == f"Error: out of memory when {size} more were needed; lower window\n"


def test_any_other_runtime_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        torch.ones(2) @ torch.ones(3)

    monkeypatch.setattr("sys.argv", ["stage"])
    with pytest.raises(RuntimeError, match="size"):
        entry.run(main)


@pytest.mark.parametrize(
    "name",
    ["generate_data", "uncompressed", "references", "fit_pca", "train_phase1", "train_phase2", "evaluate", "baselines"],
)
def test_the_fix_that_a_stage_names_is_a_parameter_that_exists(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "set_up_torch", cuda)
    script = str(STAGES / f"{name}.py")
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(script, run_name="__main__")
    fix = capsys.readouterr().err.partition(";")[2]
    named = re.findall(r"\b(?:[a-z0-9]+\.[a-z_]+|window)\b", fix)
    assert named and set(named) <= set(dotted_names(Params))


@pytest.mark.parametrize("asked", ["4,2", "0", "two"])
def test_a_number_of_threads_that_is_none_is_one_sentence(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    with pytest.raises(InputError, match=f"OMP_NUM_THREADS is {asked}, not a number of threads; set it to 1 or more"):
        entry.set_up_torch()
