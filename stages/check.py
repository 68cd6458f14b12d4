"""Refuse impossible parameters, models and data sets before any stage touches its outputs. Runs before everything else."""

import hashlib
import platform
from pathlib import Path

import narrowband
from narrowband.data.dataset_revision import dataset_revision
from narrowband.lm.model_revision import model_revision
from narrowband.params import InputError
from narrowband.runtime import paths
from narrowband.runtime.artifacts import sha256
from narrowband.runtime.entry import console, run
from narrowband.runtime.files import read_cached, write_json
from narrowband.runtime.parameters import load_params

FEWEST = 2  # one to train on, one held out
PACKAGE = Path(narrowband.__file__).parent
PASSED = paths.CHECKPOINTS / "checked.json"


def main() -> None:
    """Write revisions of base model and data set to artifacts/checked; examine them unless nothing changed since they passed.

    Nothing: neither them nor pools, parameters, the package's code and the machine.
    """
    params = load_params()
    if params.data.phase2_sft_share and params.data.sft_records < FEWEST:
        raise InputError(
            f"data.phase2_sft_share {params.data.phase2_sft_share:g} needs at least {FEWEST} SFT records, but data.sft_records "
            f"is {params.data.sft_records}; raise it"
        )
    given = {"dataset": params.dataset, "test_dataset": params.test_dataset}
    revisions = {"base_model": model_revision(params.base_model)}
    revisions |= {parameter: dataset_revision(f"{parameter} {name}", name) for parameter, name in given.items() if name}
    pools = [Path(params.data.few_shot_pool), Path(params.data.instruction_pool)]
    state = {
        **revisions,
        "pools": [sha256(pool) for pool in pools if pool.is_file()],
        "params": hashlib.sha256(params.model_dump_json().encode()).hexdigest(),
        "code": hashlib.sha256(b"".join(file.read_bytes() for file in sorted(PACKAGE.rglob("*.py")))).hexdigest(),
        "machine": platform.node(),
    }
    if read_cached(PASSED) != state:
        from narrowband.experiments.examine import examine  # slow to import

        examine(params)
        write_json(PASSED, state)
    write_json(paths.CHECKED, revisions)
    if not (here := Path.cwd()).as_posix().isascii():
        console.print(f"DVC's --temp and queue fail in {here}, which is not ASCII; move the project to use them")
    console.print("parameters, base model and data set are fit to run")


if __name__ == "__main__":
    run(main)
