"""What `check` looks at before any stage touches its outputs."""

from pathlib import Path
from typing import cast

from torch.nn import Embedding

from narrowband.codec.token_windows import check_windows
from narrowband.data.legible import require_legible
from narrowband.data.prompts import check_questions, stream_prompts
from narrowband.data.settled import draw_shots, require_bos, with_examples
from narrowband.data.splits import are_generated, check_dataset
from narrowband.experiments.estimate import tell_time
from narrowband.lm.base_model import load_tokenizer, max_positions, outline
from narrowband.lm.needs import check_needs
from narrowband.lm.split import require_source
from narrowband.params import Params
from narrowband.reader.encoder import require_copy, require_depth
from narrowband.runtime.entry import console
from narrowband.sft.critic import require_critic
from narrowband.sft.instructions import read_instructions
from narrowband.sft.pool import read_pool
from narrowband.sft.vllm import require_vllm


def examine(params: Params) -> None:
    """Open base model, pools and data set; raises an InputError if one of them can't be used."""
    check_needs(params.base_model, params.needs)
    model = outline(params.base_model)
    embedding = cast(Embedding, model.get_input_embeddings())
    params.vector_dim(embedding.embedding_dim)
    params.phase2.check_top_k(embedding.num_embeddings)
    params.check_length(max_positions(model))
    params.check_shots()
    params.check_source()
    if require_source(model, params.source) and params.phase1.vocabulary_share:
        console.print(
            f"source is {params.source}: phase1.vocabulary_share is not used, as a random token would change all later states"
        )
    params.check_reader()
    require_depth(model, params.reader.depth)
    if params.reader.tokens_per_position > 1 and params.reader.encoder != "embeddings":
        require_copy(model)
    data, prompt, dim = params.data, params.prompt, params.compress_dim
    read_pool(Path(data.few_shot_pool))
    read_instructions(Path(data.instruction_pool))
    if data.sft_records and params.generation.backend == "vllm":
        require_vllm()
    few = dim + 1 + prompt.shots  # of generated questions these are enough
    made = are_generated(params.dataset, params.test_dataset)
    sizes = {split: min(n, few) for split, n in data.sizes.items()} if made else data.sizes
    splits = check_dataset(params.dataset, sizes, params.seed, data.unanswerable, params.test_dataset)
    tokenizer = load_tokenizer(params.base_model)
    require_bos("prompt.bos", prompt.bos, tokenizer)
    if data.sft_records:
        require_bos("data.bos", data.bos, tokenizer)
        require_critic(tokenizer)
    shots, train = draw_shots(splits["train"], prompt.shots, params.seed) if "train" in splits else ([], [])
    asked = with_examples(prompt, shots)
    for examples in splits.values():
        check_questions(tokenizer, examples, asked)
    require_legible(tokenizer, splits.values())
    if train:
        check_windows(stream_prompts(tokenizer, train, asked), params.window, dim)
    if splits.keys() == sizes.keys():
        tell_time(params, model, splits)
