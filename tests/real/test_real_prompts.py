"""BOS and shared worked examples on the real models, with questions of the bundled world."""

from pathlib import Path

from narrowband.data.prompts import collate, encode_prompt
from narrowband.data.settled import draw_shots, settle
from narrowband.data.splits import world_example
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import KnownTokens
from narrowband.params import Params

BOS = {"gemma-3-270m": "text", "smollm2-135m-instruct": "none"}
TRAIN = [world_example(0, "train", i) for i in range(12)]


def test_bos_is_added_where_it_helps_and_is_no_chat_delimiter(real: tuple[str, Path], params: Params) -> None:
    name, file = real
    found, told = settle(params.prompt, draw_shots(TRAIN[:4], 0, seed=0), str(file))
    assert found.bos == BOS[name]
    if name == "gemma-3-270m":
        assert told["bos_choice"]["with_bos"] > told["bos_choice"]["without_bos"] + 1
    else:
        assert "chat delimiter" in told["bos_choice"]["reason"]


def test_shared_examples_give_the_answers_of_whole_prompts(
    real: tuple[str, Path], real_lm: FrozenLM, params: Params
) -> None:
    drawn = draw_shots(TRAIN, 2, seed=0)
    prompt = params.prompt.model_copy(update={"bos": BOS[real[0]], "shots": 2, "max_length": 640})
    settled, _ = settle(prompt, drawn, str(real[1]))
    prompts = [encode_prompt(real_lm.tokenizer, one.context, one.question, settled) for one in drawn.train[:2]]
    batch = collate(prompts, real_lm.pad_id)
    found = real_lm.generate(real_lm.embed(batch.ids), batch.mask, 6, known=KnownTokens(batch.shared))
    assert found == [real_lm.generate_from_ids(one.ids, 6) for one in prompts]
    assert real_lm.prefix[0] == batch.shared and real_lm.prefix[1]
