from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from narrowband.codec.spectrum import SPECTRUM_RATIOS, variance_shares
from narrowband.pretrain.bundled_model import (
    SMOKE,
    batch,
    build_model,
    pretrain,
    rescale,
    sample_prompts,
    sample_texts,
    save,
)
from narrowband.pretrain.held_spectrum import EXPONENT, token_counts
from narrowband.pretrain.muon import orthogonalize
from narrowband.pretrain.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sample_texts(0, 300), SMOKE.vocab_size)


def test_smoke_run_saves_a_standard_checkpoint(tmp_path: Path) -> None:
    model, tokenizer = pretrain(SMOKE, tmp_path / "state.safetensors")
    save(model, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    text = "Context: Orvane has 4070 inhabitants.\nQuestion: x?\nAnswer:"
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read.decode(read(text, add_special_tokens=False).input_ids) == text
    assert read(text).input_ids[0] == read.bos_token_id
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 12e6


def test_rescaling_changes_the_embeddings_and_not_the_model(tokenizer) -> None:
    model = build_model(SMOKE, tokenizer).eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = model(ids).logits
        rescale(model, 0.008)
        reloaded = type(model)(model.config).eval()  # epsilon is read from the configuration
        reloaded.load_state_dict(model.state_dict())
        after = reloaded(ids).logits
    assert float(model.get_input_embeddings().weight.detach().square().mean().sqrt()) == pytest.approx(0.008)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_first_layer_looks_back_and_second_finds_what_followed(tokenizer) -> None:
    model = build_model(SMOKE, tokenizer)
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(400, generator=generator)[:30] + 50 for _ in range(50)])
    ids[:, -1] = ids[:, 9]  # met before, followed by ids[:, 10]
    with torch.no_grad():
        first, second = model(ids, output_attentions=True).attentions
    for head in range(2):
        assert (first[:, head, 20].argmax(-1) == 20 - (head + 1)).all()
    assert second[:, 0, -1].mean(0).argmax() == 10
    assert second[:, 0, -1, 10].mean() > 3 / 30


def test_orthogonalisation_pulls_singular_values_to_one() -> None:
    for shape in ((30, 50), (50, 30)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert float((orthogonalize(matrix) * (u @ v)).sum() / values.norm() / (u @ v).norm()) > 0.95


def test_a_batch_depends_on_recipe_and_step_alone(tokenizer) -> None:
    ids, weights = batch(SMOKE, 3, tokenizer)
    assert ids.shape == weights.shape == (SMOKE.batch_size, SMOKE.sequence_length)
    again, _ = batch(SMOKE, 3, tokenizer)
    assert torch.equal(ids, again)
    assert not torch.equal(ids, batch(SMOKE, 4, tokenizer)[0])
    assert not torch.equal(ids, batch(replace(SMOKE, seed=1), 3, tokenizer)[0])


def test_full_weight_falls_on_answers_that_the_text_holds(tokenizer) -> None:
    from random import Random

    from narrowband.pretrain.curriculum import questions, recall, repeat

    for kind in (recall, questions):
        pieces = kind(Random(1), "train", 6)
        asked = [text.strip() for text, weight in pieces if weight == 1]
        assert len(asked) == 6
        assert all(answer in pieces[0][0] for answer in asked)
    (first, low), (second, full) = repeat(Random(1), "train")
    assert second.strip() == first and low < full


def test_a_trained_model_has_the_spectrum_that_it_is_held_at(tmp_path: Path) -> None:
    """Trained a step past the last call at most, from a start that has another spectrum."""
    model, tokenizer = pretrain(SMOKE, tmp_path / "state.safetensors")
    counts = token_counts(sample_prompts(SMOKE.seed, 3000), tokenizer)
    shares = variance_shares(model.get_input_embeddings().weight.detach(), counts)
    held = torch.arange(1, SMOKE.hidden_size + 1, dtype=torch.float64) ** -EXPONENT
    assert shares == pytest.approx(
        {ratio: float(held[: SMOKE.hidden_size // ratio].sum() / held.sum()) for ratio in SPECTRUM_RATIOS}, abs=0.03
    )
