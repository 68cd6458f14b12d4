from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import SIZES, save_family
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, ElectraConfig, Llama4TextConfig, PreTrainedConfig

from narrowband.data.splits import world_example
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params
from narrowband.reader.encoder import ContextEncoder, ReaderConfig, require_copy, trainable_copy
from narrowband.reader.shorten import Every, latents, lay_rows, mean_pooling
from narrowband.reader.split_prompt import SplitPrompt, split_prompts

CONFIG = ReaderConfig("revision", 2, "pretrained", 0)


@pytest.fixture
def prompts(lm: FrozenLM, params: Params) -> list[SplitPrompt]:
    return split_prompts(lm.tokenizer, [world_example(0, "validation", i) for i in range(3)], params.prompt)


def drawn(lm: FrozenLM, config: ReaderConfig) -> ContextEncoder:
    """An encoder whose last layer is no longer zero."""
    encoder = ContextEncoder(lm, config)
    nn.init.normal_(encoder.leave.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return encoder


@torch.no_grad()
def by_hand(lm: FrozenLM, encoder: ContextEncoder, prompt: SplitPrompt, k: int) -> Tensor:
    """The vectors of one context without padding, `k` tokens at a time, with the states of the frozen model itself."""
    ids = torch.tensor([prompt.head + prompt.context])
    states = lm.model(ids, output_hidden_states=True).hidden_states[-1][0, len(prompt.head) :]
    tokens, found = lm.embed(torch.tensor(prompt.context)), []
    for start in range(0, len(tokens), k):
        group = tokens[start : start + k]
        mean = group.mean(0)
        missing = torch.zeros((encoder.k - len(group)) * lm.hidden_size)
        read = torch.cat([group.flatten() / encoder.scale, missing])
        if encoder.copy is not None:
            read = torch.cat([read, states[start : start + k].mean(0)])
        added = encoder.leave(nn.functional.gelu(encoder.enter(encoder.norm(read))))
        found.append(mean + encoder.scale * added)
    return torch.stack(found)


@pytest.mark.parametrize("start", ["pretrained", "embeddings"])
@pytest.mark.parametrize(("most", "k"), [(1, 1), (2, 2), (3, 3), (4, 2), (4, 4)])
def test_vectors_are_those_of_a_loop_over_groups_of_tokens(
    most: int, k: int, start: str, lm: FrozenLM, prompts: list[SplitPrompt]
) -> None:
    encoder = drawn(lm, replace(CONFIG, tokens_per_position=most, encoder=start))
    for vectors, prompt in zip(latents(lm, encoder.at(k), prompts), prompts, strict=True):
        torch.testing.assert_close(vectors, by_hand(lm, encoder, prompt, k), rtol=1e-3, atol=1e-4)


def test_an_untrained_encoder_is_mean_pooling_and_at_one_token_changes_no_logits(
    lm: FrozenLM, prompts: list[SplitPrompt]
) -> None:
    untrained = latents(lm, ContextEncoder(lm, CONFIG), prompts)
    for got, wanted in zip(untrained, latents(lm, Every(2, mean_pooling), prompts), strict=True):
        assert torch.equal(got, wanted)
    one = ContextEncoder(lm, replace(CONFIG, tokens_per_position=1))
    rows = lay_rows(lm, prompts, latents(lm, one, prompts))
    logits = lm.logits(*rows, last=1)[:, 0]
    for prompt, read in zip(prompts, logits, strict=True):
        own = lm.model(torch.tensor([prompt.ids])).logits[0, -1]
        torch.testing.assert_close(read, own, rtol=1e-4, atol=1e-4)


def test_a_vector_depends_on_no_token_after_its_own(lm: FrozenLM, prompts: list[SplitPrompt]) -> None:
    encoder, whole = drawn(lm, CONFIG), prompts[0]
    begun = whole._replace(context=whole.context[:20])
    (all_of_it,), (beginning,) = (latents(lm, encoder, [prompt]) for prompt in (whole, begun))
    torch.testing.assert_close(all_of_it[:10], beginning, rtol=1e-4, atol=1e-5)


def test_the_copy_is_trained_apart_from_the_model_it_was_taken_from(lm: FrozenLM) -> None:
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    copy = trainable_copy(lm, "pretrained", 0)
    with torch.no_grad():
        for parameter in copy.parameters():
            assert parameter.requires_grad
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert not any(tensor.shape == lm.embedding.weight.shape for tensor in copy.parameters())  # no second table
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_weight_of_a_model_is_left_in_new_blocks(family: str, tmp_path: Path) -> None:
    lm = FrozenLM.load(str(save_family(family, tmp_path)))
    for parameter in lm.model.parameters():
        parameter.data.add_(0.5)
    kept, new = (trainable_copy(lm, start, 0) for start in ("pretrained", "scratch"))
    pairs = zip(kept.named_parameters(), new.parameters(), strict=True)
    same = [name for (name, old), drawn in pairs if torch.equal(old, drawn)]
    assert same and not any(".0." in name or ".1." in name for name in same)  # those outside the blocks


def test_depth_counts_blocks_and_scratch_draws_them_anew(lm: FrozenLM) -> None:
    def numbers(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    whole, half, scratch = (trainable_copy(lm, *how) for how in (("pretrained", 0), ("pretrained", 1), ("scratch", 0)))
    block = numbers(lm.model.model.layers[0])
    assert numbers(whole) - numbers(half) == block and numbers(scratch) == numbers(whole)
    first = "layers.0.mlp.up_proj.weight"
    assert torch.equal(whole.state_dict()[first], lm.model.model.state_dict()[first])
    assert not torch.equal(scratch.state_dict()[first], whole.state_dict()[first])
    with pytest.raises(InputError, match=r"reader.depth 3 is more than the 2 blocks of the base model; choose 0 to 2"):
        trainable_copy(lm, "pretrained", 3)


def test_an_encoder_is_read_as_it_was_written_and_for_its_own_settings_alone(
    lm: FrozenLM, prompts: list[SplitPrompt], tmp_path: Path
) -> None:
    encoder = drawn(lm, CONFIG)
    encoder.save(tmp_path, {"seed": 0})
    read = ContextEncoder.load(tmp_path, lm, CONFIG)
    for got, wanted in zip(latents(lm, read, prompts), latents(lm, encoder, prompts), strict=True):
        assert torch.equal(got, wanted)
    for name, found, wanted in (("tokens_per_position", 2, 4), ("hidden_mult", 4, 8)):
        with pytest.raises(InputError, match=f"was made with {name} {found}, not {wanted}; run dvc repro"):
            ContextEncoder.load(tmp_path, lm, replace(CONFIG, **{name: wanted}))


@pytest.mark.parametrize("kind", ["pretrained", "embeddings"])
def test_a_sharded_base_model_is_refused(kind: str, lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrowband.runtime.distributed.sharded", lambda: True)
    with pytest.raises(InputError, match="a reader can't be trained with --use_fsdp"):
        ContextEncoder(lm, replace(CONFIG, encoder=kind))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            Llama4TextConfig(**SIZES, num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_local_experts=2),
            "a Llama4ForCausalLM, of which no part without the head can be copied; set",
        ),
        (
            ElectraConfig(**SIZES, num_attention_heads=2, embedding_size=16, is_decoder=True),
            "a ElectraForCausalLM, with embeddings of 16 numbers and states of 32; set reader.encoder to embeddings",
        ),
    ],
)
def test_a_model_that_can_t_be_copied_is_refused(config: PreTrainedConfig, sentence: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=sentence):
        require_copy(model)


def test_opt_is_copied_as_its_states_are_projected_to_the_width_of_embeddings(tmp_path: Path) -> None:
    lm = FrozenLM.load(str(save_family("opt", tmp_path)))
    states = trainable_copy(lm, "pretrained", 0)(inputs_embeds=lm.embed(torch.tensor([[5, 6]]))).last_hidden_state
    assert states.shape == (1, 2, lm.hidden_size)
