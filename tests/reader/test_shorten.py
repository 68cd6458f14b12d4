"""Ways to shorten a context, each against a loop over its tokens."""

import math

import pytest
import torch
from torch import Tensor

from narrowband.data.splits import world_example
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.reader.shorten import Every, latents, lay_rows, mean_pooling, shorteners
from narrowband.reader.split_prompt import SplitPrompt, split_prompts


@pytest.fixture(scope="module")
def prompts(lm: FrozenLM) -> list[SplitPrompt]:
    """Contexts of several lengths, that of a single token among them."""
    from test_params import COMMITTED

    prompt = Params.model_validate(COMMITTED).prompt
    found = split_prompts(lm.tokenizer, [world_example(0, "validation", i) for i in range(3)], prompt)
    return [*found, found[0]._replace(context=found[0].context[:1])]


def embedded(lm: FrozenLM, ids: list[int]) -> Tensor:
    return lm.embed(torch.tensor(ids))


def by_hand(lm: FrozenLM, name: str, prompt: SplitPrompt, k: int) -> Tensor:
    tokens = embedded(lm, prompt.context)
    n = math.ceil(len(tokens) / k)
    if name == "mean pooling":
        return torch.stack([tokens[i * k : (i + 1) * k].mean(0) for i in range(n)])
    if name == "every k-th token":
        return tokens[::k]
    if name == "beginning":
        return tokens[:n]
    before = prompt.head + prompt.context
    log_probabilities = lm.model(torch.tensor([before])).logits[0].log_softmax(-1)
    surprisal = [-log_probabilities[len(prompt.head) + i - 1, token].item() for i, token in enumerate(prompt.context)]
    kept = sorted(sorted(range(len(tokens)), key=lambda i: -surprisal[i])[:n])
    return tokens[kept]


@pytest.mark.parametrize("k", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["mean pooling", "every k-th token", "beginning", "surprisal"])
def test_a_baseline_is_what_a_loop_makes_of_each_context(
    name: str, k: int, lm: FrozenLM, prompts: list[SplitPrompt]
) -> None:
    found = latents(lm, shorteners(lm, k)[name], prompts)
    for vectors, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(vectors, by_hand(lm, name, prompt, k), rtol=1e-5, atol=1e-6)


def test_at_one_token_a_position_rows_are_the_prompts_themselves(lm: FrozenLM, prompts: list[SplitPrompt]) -> None:
    rows = lay_rows(lm, prompts, latents(lm, Every(1, mean_pooling), prompts), [[7, 8], [], [9], [1, 2, 3]])
    for prompt, answer, row, mask in zip(prompts, ([7, 8], [], [9], [1, 2, 3]), *rows, strict=True):
        torch.testing.assert_close(row[mask], embedded(lm, prompt.ids + answer))
        assert mask.tolist() == sorted(mask.tolist())  # padding stands on the left
