"""Refuse impossible parameters, models and data sets before any stage touches its outputs. Runs before everything else."""

import hashlib
from pathlib import Path

from narrowband.data.dataset_revision import dataset_revision
from narrowband.lm.model_revision import model_revision
from narrowband.params import InputError, Params
from narrowband.runtime import paths
from narrowband.runtime.artifacts import sha256
from narrowband.runtime.entry import console, run
from narrowband.runtime.files import read_cached, write_json
from narrowband.runtime.parameters import load_params

FEWEST = 2  # one to train on, one held out
PASSED = paths.CHECKPOINTS / "checked.json"


def main() -> None:
    """Write revisions of base model and data set to artifacts/checked; examine them unless nothing changed since they passed."""
    params = load_params()
    if params.data.phase2_sft_share and params.data.sft_records < FEWEST:
        raise InputError(
            f"data.phase2_sft_share {params.data.phase2_sft_share:g} needs at least {FEWEST} SFT records, but data.sft_records "
            f"is {params.data.sft_records}; raise it"
        )
    revisions = {"base_model": model_revision(params.base_model), "dataset": dataset_revision(params.dataset)}
    if params.test_dataset:
        revisions["test_dataset"] = dataset_revision(params.test_dataset)
    pools = [Path(params.data.few_shot_pool), Path(params.data.instruction_pool)]
    state = {
        **revisions,
        "pools": [sha256([pool]) for pool in pools if pool.is_file()],
        "params": hashlib.sha256(params.model_dump_json().encode()).hexdigest(),
    }
    if read_cached(PASSED) != state:
        examine(params, *pools)
        write_json(PASSED, state)
    write_json(paths.CHECKED, revisions)
    if not (here := Path.cwd()).as_posix().isascii():
        console.print(f"DVC's --temp and queue fail in {here}, which is not ASCII; move the project to use them")
    console.print("parameters, base model and data set are fit to run")


def examine(params: Params, few_shot_pool: Path, instruction_pool: Path) -> None:
    """Open base model, pools and data set; raises an InputError if one of them can't be used."""
    from narrowband.codec.token_windows import check_windows
    from narrowband.data.prompts import check_questions, stream_prompts
    from narrowband.data.settled import draw_shots, require_bos, with_examples
    from narrowband.data.splits import BUNDLED, check_dataset
    from narrowband.experiments.estimate import tell_time
    from narrowband.lm.needs import check_needs
    from narrowband.lm.source import load_tokenizer, max_positions, outline
    from narrowband.lm.split import require_source
    from narrowband.reader.encoder import require_depth
    from narrowband.sft.instructions import read_instructions
    from narrowband.sft.pool import read_pool
    from narrowband.sft.vllm import require_vllm

    check_needs(params.base_model, params.needs)
    model = outline(params.base_model)
    params.vector_dim(model.get_input_embeddings().embedding_dim)
    params.check_length(max_positions(model))
    params.check_shots()
    params.check_source()
    if require_source(model, params.source) and params.phase1.vocabulary_share:
        console.print(
            f"source is {params.source}: phase1.vocabulary_share is not used, as a random token would change all later states"
        )
    params.check_reader()
    require_depth(model, params.reader.depth)
    read_pool(few_shot_pool)
    read_instructions(instruction_pool)
    if params.generation.backend == "vllm":
        require_vllm()
    data, prompt, dim = params.data, params.prompt, params.compress_dim
    made = params.dataset == BUNDLED and not params.test_dataset  # of generated questions a few are enough
    few = dim + 1 + prompt.shots
    sizes = {split: min(n, few) for split, n in data.sizes.items()} if made else data.sizes
    splits = check_dataset(params.dataset, sizes, params.seed, data.unanswerable, params.test_dataset)
    tokenizer = load_tokenizer(params.base_model)
    require_bos(prompt, tokenizer)
    shots, train = draw_shots(splits["train"], prompt.shots, params.seed) if "train" in splits else ([], [])
    asked = with_examples(prompt, shots)
    for examples in splits.values():
        check_questions(tokenizer, examples, asked)
    if train:
        check_windows(stream_prompts(tokenizer, train, asked), params.window, dim)
    if splits.keys() == sizes.keys():
        tell_time(params, model, splits, console)


if __name__ == "__main__":
    run(main)
