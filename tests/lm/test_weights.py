"""Weights that can't be read as they stand end in one sentence, without weights (`check`) and with them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import save_family
from safetensors.torch import load_file, save_file

from narrowband.lm.base_model import outline
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1072419256\n"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_family("qwen2", tmp_path / "sharded")


def change(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refused(folder: Path, sentence: str) -> None:
    for call in (outline, FrozenLM.load):
        with pytest.raises(InputError, match=sentence) as refusal:
            call(str(folder))
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
UNKNOWN = "as its quantization_config, which is not known; give the model without quantisation"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"is quantised \(bitsandbytes_4bit\) .* `pip install"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"is quantised \(bitsandbytes_8bit\) .* `pip install"),
        (GPTQ, r"is quantised \(gptq\) and can't be read here: .*`pip install optimum`"),
        ({"quant_method": "awq", "bits": 4}, r"is quantised \(awq\) and can't be read here: .*pip install gptqmodel"),
        ({"quant_method": "hqq"}, r"is quantised \(hqq\) and can't be read here"),
        ({"quant_method": "int3"}, f"has 'int3' {UNKNOWN}"),
        ({"quant_method": ["gptq"]}, rf"has \['gptq'\] {UNKNOWN}"),
        ({"bits": 4}, f"has None {UNKNOWN}"),
        ("x", f"has 'x' {UNKNOWN}"),
        (7, f"has 7 {UNKNOWN}"),
        ([], rf"has \[\] {UNKNOWN}"),
    ],
)
def test_quantised_weights_that_can_t_be_read(copy: Path, settings: object, sentence: str) -> None:
    change(copy, quantization_config=settings)
    refused(copy, sentence)


def test_weights_that_are_not_float8_though_the_config_says_so_answer_as_they_are(copy: Path, lm: FrozenLM) -> None:
    change(copy, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]})
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(FrozenLM.load(str(copy)).model(ids).logits, lm.model(ids).logits)


@pytest.mark.parametrize(
    "asked", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn", "nonsense"]
)
def test_attention_that_needs_another_library_is_left_to_transformers(copy: Path, lm: FrozenLM, asked: str) -> None:
    change(copy, attn_implementation=asked, _attn_implementation=asked, experts_implementation=asked)
    outline(str(copy))
    assert FrozenLM.load(str(copy)).model.config._attn_implementation == lm.model.config._attn_implementation


def test_a_part_that_is_missing(sharded: Path) -> None:
    part = sorted(sharded.glob("*.safetensors"))[1]
    part.unlink()
    refused(sharded, rf"lacks {part.name}, one of the \d+ parts of its weights; download it again")


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model-00001-of-*.safetensors"])
def test_a_pointer_in_place_of_a_file(sharded: Path, name: str) -> None:
    file = next(sharded.glob(name))
    file.write_text(POINTER)
    refused(sharded, rf"its {file.name} is a Git LFS pointer; run git lfs pull")


@pytest.mark.parametrize("content", ["[]", '{"weight_map": 3}', "{", '{"weight_map": {"a": 1}}'])
def test_an_index_that_names_no_parts(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    refused(sharded, "does not name its parts; download it again")


@pytest.mark.parametrize("kept", [0, 4, 500, -100])
def test_a_file_that_is_cut_short(copy: Path, kept: int) -> None:
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    refused(copy, r"can't be loaded: its model\.safetensors is damaged \(.*\); download it again")


def test_weights_that_are_missing_within_a_file(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 of its weights, model\.norm\.weight among them"):
        FrozenLM.load(str(copy))
