"""Refuse impossible parameters, models and data sets before any stage touches its outputs."""

from pathlib import Path

from narrowband.params import InputError, load_params
from narrowband.runtime.entry import console, run

FEWEST = 2  # one to train on, one held out


def main(out: Path) -> None:
    """Check params.yaml, the base model's folder and the data set; write a line to OUT if all is well."""
    params = load_params()
    data = params.data
    if data.phase2_sft_share and data.sft_records < FEWEST:
        raise InputError(
            f"data.phase2_sft_share {data.phase2_sft_share:g} needs at least {FEWEST} SFT records, data.sft_records is "
            f"{data.sft_records}; raise it"
        )

    from narrowband.data.splits import check_dataset
    from narrowband.lm.needs import check_needs
    from narrowband.lm.source import outline, positions
    from narrowband.runtime.files import write_text
    from narrowband.sft.instructions import read_instructions
    from narrowband.sft.prompts import read_pool
    from narrowband.sft.vllm import require_vllm

    check_needs(params.base_model, params.needs)
    model = outline(params.base_model)
    params.vector_dim(model.get_input_embeddings().embedding_dim)
    params.check_length(positions(model))
    read_pool(Path(params.data.few_shot_pool))
    read_instructions(Path(params.data.instruction_pool))
    if params.generation.backend == "vllm":
        require_vllm()
    check_dataset(params)
    verdict = "parameters, base model and data set are fit to run"
    write_text(out, verdict + "\n")
    console.print(verdict)


if __name__ == "__main__":
    run(main)
