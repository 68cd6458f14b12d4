"""What the probe finds out about a base model, on families that batch rightly, wrongly, or can't be fed embeddings."""

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, SIZES, save, save_family, save_recurrent
from transformers import BambaConfig, BertConfig, FalconH1Config, PreTrainedConfig

from narrowband.lm import probe
from narrowband.lm.base_model import outline
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling, sample
from narrowband.params import InputError

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 640, "initializer_range": 0.3}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_recurrent(tmp_path_factory.mktemp("leaking"))


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_which_padding_is_masked_are_batched(name: str, tmp_path: Path) -> None:
    assert FrozenLM.load(str(save_family(name, tmp_path))).batchable


def padded(lm: FrozenLM, lengths: list[int]) -> tuple[list[list[int]], torch.Tensor, torch.Tensor]:
    rows = [torch.randint(3, 500, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in lengths]
    width = max(lengths)
    ids = torch.tensor([[lm.pad_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return rows, ids, mask


def test_a_model_that_padding_leaks_into_is_run_one_prompt_at_a_time(
    leaking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = FrozenLM.load(str(leaking))
    assert not lm.batchable
    assert "answers differently in a left-padded batch than alone" in capsys.readouterr().out
    rows, ids, mask = padded(lm, [4, 11, 30])
    alone = [lm.model(torch.tensor([row])).logits[0, -6:] for row in rows]
    together = lm.logits(lm.embed(ids), mask, 6)
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found[-len(expected) :], expected, rtol=1e-3, atol=1e-3)
    answers = [lm.generate_from_ids(row, 5) for row in rows]
    assert lm.generate(lm.embed(ids), mask, 5) == answers
    assert any(answer.text for answer in answers)
    lm.batchable = True
    assert not torch.allclose(lm.logits(lm.embed(ids), mask, 6)[0, -1], alone[0][-1], atol=1e-2)


def test_samples_of_such_a_model_are_those_of_single_rows(leaking: Path) -> None:
    lm = FrozenLM.load(str(leaking))
    rows, ids, mask = padded(lm, [4, 11])
    sampling = Sampling(temperature=1.0, max_new_tokens=6, stop_strings=("\n",))
    together = sample(lm, ids, mask, [1, 2], sampling)
    for row, seed, found in zip(rows, [1, 2], together, strict=True):
        alone = sample(lm, torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool), [seed], sampling)[0]
        assert found[: len(alone)].tolist() == alone.tolist()
        assert set(found[len(alone) :].tolist()) <= {lm.pad_id}


@pytest.mark.parametrize(
    "config",
    [
        BambaConfig(**SIZES, **HEADS, **MAMBA, attn_layer_indices=[1]),
        FalconH1Config(**SIZES, **HEADS, **MAMBA, mamba_d_ssm=64),
    ],
)
def test_a_model_that_generates_from_tokens_alone_is_refused_before_its_weights_are_read(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    save(config, tmp_path)
    for call in (outline, FrozenLM.load):
        with pytest.raises(InputError, match="whose generate takes no inputs_embeds, so it can't be fed") as refusal:
            call(str(tmp_path))
        assert "\n" not in str(refusal.value)


@pytest.fixture
def own(tmp_path: Path) -> FrozenLM:
    """A Llama that a test may change."""
    return FrozenLM.load(str(save_family("llama", tmp_path)))


def test_a_model_that_sees_tokens_otherwise_than_their_embeddings(own: FrozenLM) -> None:
    forward = own.model.forward

    def other(*args: object, input_ids: torch.Tensor | None = None, **kwargs: object) -> object:
        return forward(*args, input_ids=None if input_ids is None else input_ids.flip(-1), **kwargs)

    own.model.forward = other
    with pytest.raises(InputError, match="its next tokens after embeddings and after the same tokens differ"):
        probe.probe("name", own)


def test_a_model_that_reads_later_tokens(tmp_path: Path) -> None:
    config = BertConfig(**SIZES, num_attention_heads=2, max_position_embeddings=640, initializer_range=0.3)
    folder = save(config, tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": None}))
    with pytest.raises(InputError, match="is a BertLMHeadModel whose logits depend on later tokens, so it does not"):
        FrozenLM.load(str(folder))


def test_a_model_whose_weights_are_not_numbers(own: FrozenLM) -> None:
    with torch.no_grad():
        own.model.model.layers[0].self_attn.o_proj.weight.mul_(torch.nan)
    with pytest.raises(
        InputError, match="gives logits that are NaN in float32, so its weights are damaged or too large"
    ):
        probe.probe("name", own)


def test_a_model_that_cuts_the_gradient(own: FrozenLM) -> None:
    layer = own.model.model.layers[0]
    forward = layer.forward
    layer.forward = lambda hidden, *args, **kwargs: forward(hidden.detach() + 0 * hidden, *args, **kwargs)
    with pytest.raises(InputError, match="is a LlamaForCausalLM that passes no gradient to each of its"):
        probe.probe("name", own)


def test_a_model_whose_code_fails(own: FrozenLM) -> None:
    def fail(*args: object, **kwargs: object) -> object:
        raise KeyError("linear_cache\nand more")

    own.model.forward = fail
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM that can't be fed embeddings \(.*\); give a model of"
    ) as refusal:
        probe.probe("name", own)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kept", ["", "[1]", "{}", '{"batchable": 3}'])
def test_a_damaged_verdict_is_asked_for_again(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lm = FrozenLM.load(str(save_family("gpt2", tmp_path / "model")))
    (verdict,) = (tmp_path / "cache" / "narrowband" / "probes").iterdir()
    whole = verdict.read_text()
    verdict.write_text(kept)
    assert probe.batchable(str(tmp_path / "model"), lm)
    assert verdict.read_text() == whole


def test_a_model_is_asked_once_for_its_revision_and_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = save_family("gpt2", tmp_path / "model")
    asked = []
    monkeypatch.setattr(probe, "probe", lambda name, lm: not asked.append(str(lm.model.dtype)))
    lm = FrozenLM.load(str(folder))
    FrozenLM.load(str(folder))
    assert asked == ["torch.float32"]
    lm.model.to(torch.bfloat16)
    probe.batchable(str(folder), lm)
    save_family("gpt2", folder, n_layer=3)
    FrozenLM.load(str(folder))
    assert asked == ["torch.float32", "torch.bfloat16", "torch.float32"]
