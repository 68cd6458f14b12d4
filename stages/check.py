"""Refuse impossible parameters, models and data sets before any stage touches its outputs."""

from pathlib import Path

from narrowband.base_model import check_base_model
from narrowband.data.qa import make_splits
from narrowband.files import write_text
from narrowband.params import InputError, load_params
from narrowband.sft.instructions import read_instructions
from narrowband.sft.prompts import read_pool
from narrowband.sft.vllm import require_vllm
from narrowband.stage import console, run


def main(out: Path) -> None:
    """Check params.yaml, the base model's folder and the data set; write a line to OUT if all is well."""
    params = load_params()
    outline = check_base_model(params.base_model)
    params.vector_dim(outline.hidden_size)
    params.check_length(outline.positions)
    read_pool(Path(params.data.few_shot_pool))
    read_instructions(Path(params.data.instruction_pool))
    if params.generation.backend == "vllm":
        require_vllm()
    if params.dataset.endswith(".json"):
        make_splits(params)
    elif params.dataset != "embedded" and params.dataset.count("/") != 1:
        raise InputError(
            f"dataset {params.dataset} does not exist; give `embedded`, a SQuAD-schema .json file or a hub id (owner/name)"
        )
    verdict = "parameters, base model and data set are fit to run"
    write_text(out, verdict + "\n")
    console.print(verdict)


if __name__ == "__main__":
    run(main)
