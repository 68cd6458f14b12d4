import gc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from narrowband.codec.batches import token_windows
from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.prompts import EncodedPrompt, encode_prompt
from narrowband.data.splits import world_example
from narrowband.evaluation.answer import answer
from narrowband.lm.frozen import FrozenLM
from narrowband.memory import Geometry, predict
from narrowband.params import Params
from narrowband.training.micro_batches import Part
from narrowband.training.phase1 import phase1_loss
from narrowband.training.phase2 import Lesson, phase2_loss

EXAMPLES = [world_example(0, "train", i) for i in range(8)]


def peak(work: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once during `work`, beside those that were there before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(accumulate(n for _, n in sorted(changes, key=lambda change: change[0])))


@pytest.fixture
def llama(tiny_model: Path) -> FrozenLM:
    """Four blocks that share keys and values between heads, with a vocabulary like a small model's."""
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    )
    torch.manual_seed(0)
    return FrozenLM(LlamaForCausalLM(config).eval().requires_grad_(False), FrozenLM.load(str(tiny_model)).tokenizer)


@pytest.fixture
def small(params: Params) -> Params:
    """Prompts of 64 tokens and answers of 8, four at a time in two parts."""
    phases = {
        name: getattr(params, name).model_copy(update={"batch_size": 8, "micro_batch": 4})
        for name in ("phase1", "phase2")
    }
    return params.model_copy(
        update={
            "compress_dim": 16,
            "window": 2,
            "prompt": params.prompt.model_copy(update={"max_length": 64}),
            "generation": params.generation.model_copy(update={"batch_size": 4, "max_new_tokens": 8}),
            **phases,
        }
    )


def prompts(lm: FrozenLM, params: Params) -> list[EncodedPrompt]:
    """As long as they may be, every other one shorter by a token so that there is padding to mask."""
    found = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in EXAMPLES]
    assert {len(prompt.ids) for prompt in found} == {params.prompt.max_length}
    return [EncodedPrompt(p.ids[i % 2 :], p.coded[i % 2 :], p.truncated) for i, p in enumerate(found)]


def make_codec(lm: FrozenLM, params: Params) -> Codec:
    vectors = torch.randn(200, 2 * lm.hidden_size, generator=torch.Generator().manual_seed(0))
    return Codec(PCA.fit(vectors, params.compress_dim), lm.hidden_size, params)


def with_phase2(params: Params, **changes: object) -> Params:
    return params.model_copy(update={"phase2": params.phase2.model_copy(update=changes)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_phase_2(llama: FrozenLM, small: Params, dtype: torch.dtype, checkpointed: bool) -> None:
    llama.model.to(dtype)
    if checkpointed:
        llama.checkpoint_gradients()
        small = with_phase2(small, gradient_checkpointing=True)
    loss = phase2_loss(llama, make_codec(llama, small), [Lesson(p, [5] * 8) for p in prompts(llama, small)], small)
    loss(0, Part(0, 2)).loss.backward()
    found = peak(lambda: loss(0, Part(1, 2)).loss.backward())
    assert_close(found, llama, small, "train_phase2", dtype.itemsize)


def test_phase_1(llama: FrozenLM, small: Params) -> None:
    loss = phase1_loss(llama, make_codec(llama, small), prompts(llama, small), small)
    loss(0, Part(0, 2)).loss.backward()
    assert_close(peak(lambda: loss(0, Part(1, 2)).loss.backward()), llama, small, "train_phase1", 4)


def test_evaluation(llama: FrozenLM, small: Params) -> None:
    codec = make_codec(llama, small)
    assert llama.vocabulary.shape == (512, 64)  # held, as the formula has it
    assert_close(peak(lambda: answer(llama, codec, EXAMPLES, small)), llama, small, "evaluate", 4)


def test_pca_takes_no_more_than_predicted(llama: FrozenLM, small: Params) -> None:
    vectors, windows = token_windows(llama, prompts(llama, small), 2)
    found = peak(lambda: PCA.fit(vectors, small.compress_dim, windows))
    assert found <= predict(Geometry.of(llama.model, small, 4), small)["fit_pca"].working


def assert_close(found: int, lm: FrozenLM, params: Params, stage: str, size: int) -> None:
    expected = predict(Geometry.of(lm.model, params, size), params)[stage].working
    assert 0.85 * expected < found <= expected
