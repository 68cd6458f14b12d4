"""Everything that `base_model` may name, and one sentence for each way in which it can't be used."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import COMMIT, Hub, point_to, served
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, CpmAntConfig, Gemma3nTextConfig

from narrowband.lm.base_model import Location, load_tokenizer, locate, max_positions, outline
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.model_revision import model_revision
from narrowband.params import InputError, Params

TOKEN = "hf_thismustneverbeshown"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tiny_model)
    with served(hub) as address:
        point_to(address, tmp_path / "hub", monkeypatch)
        yield hub


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("base_model", "location"),
    [
        ("gpt2", Location("gpt2", None)),
        ("org/name", Location("org/name", None)),
        ("org/name@v1", Location("org/name", "v1")),
        ("org/name@refs/pr/3", Location("org/name", "refs/pr/3")),
    ],
)
def test_a_name_with_or_without_a_revision(base_model: str, location: Location) -> None:
    assert locate(base_model) == location


@pytest.mark.parametrize("name", ["gone/foo.gguf", "foo.GGUF"])
def test_a_gguf_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match=f"base_model {name} does not exist; give a folder, a GGUF file or a hub id"):
        locate(name)


def test_a_folder_may_have_an_at_in_its_name(copy: Path) -> None:
    folder = copy.rename(copy.with_name("name@v1"))
    assert locate(str(folder)) == Location(str(folder), None)


@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}"])
def test_a_model_of_the_hub_is_the_one_on_disk(hub: Hub, lm: FrozenLM, revision: str) -> None:
    name = f"org/tiny{revision}"
    assert outline(name).get_input_embeddings().embedding_dim == lm.hidden_size
    assert not any(asked.startswith("GET") and asked.endswith(".safetensors") for asked in hub.asked)
    found = FrozenLM.load(name)
    assert found.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    for key, tensor in lm.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], tensor), key
    assert model_revision(name) == f"commit:{COMMIT}"


@pytest.mark.parametrize(
    ("base_model", "sentence"),
    [
        (
            "org/gated",
            "org/gated is gated; accept its terms at https://huggingface.co/org/gated, then log in with `hf auth login`",
        ),
        ("org/nothing", "org/nothing is not on the hub, or is private; check its name, or log in with `hf auth login`"),
        ("org/tiny@v9", "org/tiny@v9 has no revision v9; give a branch, tag or commit of org/tiny"),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_sentence_without_the_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base_model: str, sentence: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for call in (outline, FrozenLM.load):
        with pytest.raises(InputError) as refusal:
            call(base_model)
        assert str(refusal.value) == f"base_model {sentence}"
    said = "".join(capsys.readouterr())
    assert TOKEN not in said and "Traceback" not in said


def test_a_hub_that_can_t_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    with pytest.raises(InputError) as refusal:
        outline("org/tiny")
    assert str(refusal.value) == (
        "base_model org/tiny has not been downloaded and the hub can't be reached; check the network, or give a folder"
    )


def test_what_was_downloaded_needs_no_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FrozenLM.load("org/tiny")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    point_to("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    FrozenLM.load("org/tiny")


def refused(folder: Path, sentence: str) -> None:
    """Without weights and with them, in one and the same sentence."""
    for call in (outline, FrozenLM.load):
        with pytest.raises(InputError, match=sentence) as refusal:
            call(str(folder))
        assert "\n" not in str(refusal.value)


def test_an_architecture_that_is_not_known(copy: Path) -> None:
    change(copy / "config.json", model_type="llama9")
    refused(copy, r"is a llama9 model, which is not known \(transformers .*\); give a causal LM of a known family")


@pytest.mark.parametrize("content", ["[]", "null", '"a"'])
def test_a_configuration_that_is_no_mapping(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    refused(copy, "has a config.json that holds no mapping; download or save it again")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model_type", ["a"], r"is a \['a'\] model, which is not known"),
        ("model_type", {"a": 5}, r"is a \{'a': 5\} model, which is not known"),
        ("architectures", [None], r"has \[None\] as architectures in its config.json, which should be a list of names"),
        ("architectures", 5, "has 5 as architectures in its config.json"),
        ("hidden_size", "32", "can't be loaded as a causal LM: Validation error for field 'hidden_size'; check its"),
        ("hidden_size", -1, "can't be loaded as a causal LM: "),
        ("hidden_act", "nope", r"can't be loaded as a causal LM: KeyError\('nope'\); check its name, or give another"),
        ("num_attention_heads", 0, "can't be loaded as a causal LM"),
    ],
)
def test_a_configuration_of_odd_values(copy: Path, name: str, value: object, sentence: str) -> None:
    change(copy / "config.json", **{name: value})
    refused(copy, sentence)


def test_code_that_a_model_brings_is_never_run(copy: Path) -> None:
    (copy / "modeling.py").write_text("raise SystemExit('run')\n")
    maps = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    change(copy / "config.json", model_type="own", auto_map=maps)
    refused(copy, "is a own model, which brings code of its own, which is never run")


def test_a_model_that_is_no_causal_lm(copy: Path) -> None:
    BertForMaskedLM(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=512)
    ).save_pretrained(copy)
    refused(copy, "is a BertForMaskedLM model, not a causal LM; give a causal LM")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            CpmAntConfig(),
            "is a CpmAntForCausalLM, which takes no inputs_embeds, so it can't be fed reconstructed embeddings",
        ),
        (Gemma3nTextConfig(), "is a Gemma3nForCausalLM that feeds token ids to every layer"),
    ],
)
def test_a_family_that_can_t_be_fed_embeddings(copy: Path, config: object, sentence: str) -> None:
    config.architectures = None
    config.save_pretrained(copy)
    refused(copy, sentence)


def test_pickled_weights_are_never_read(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    refused(copy, r"has no weights as safetensors \(pickled ones are never read\); save it again")


def test_a_tokenizer_of_another_model(copy: Path) -> None:
    tokenizer = load_tokenizer(str(copy))
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(copy)
    refused(
        copy, "has a tokenizer whose ids go up to 512, but only 512 embeddings; use the tokenizer it was trained with"
    )


def test_an_id_beyond_the_embeddings_of_a_tokenizer_with_unused_ids(copy: Path) -> None:
    file = copy / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["\u010a"] = 520  # the line break
    file.write_text(json.dumps(content))
    refused(copy, "has a tokenizer whose ids go up to 520, but only 512 embeddings")


def test_weights_of_another_shape(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:100].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    sentence = (
        r"has lm_head.weight of shape \(100, 32\), and by its config.json of \(512, 32\); correct that, or download"
    )
    with pytest.raises(InputError, match=sentence) as refusal:
        FrozenLM.load(str(copy))
    assert "\n" not in str(refusal.value)


def test_a_configuration_of_fewer_blocks_than_the_weights(copy: Path) -> None:
    change(copy / "config.json", num_hidden_layers=1)
    with pytest.raises(
        InputError, match=r"holds 2 blocks, and by its config.json has 1; correct num_hidden_layers, or"
    ):
        FrozenLM.load(str(copy))


def test_weights_that_no_block_has_are_left_alone(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    more = {"mtp.layers.7.weight": torch.ones(3), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    save_file(tensors | more, copy / "model.safetensors", {"format": "pt"})
    FrozenLM.load(str(copy))


def test_limits_of_the_model_are_those_of_the_parameters(copy: Path, params: Params) -> None:
    change(copy / "config.json", max_position_embeddings=500)
    model = outline(str(copy))
    with pytest.raises(InputError, match=r"compress_dim 1024 is more than vector_dim 32 \(window 1 x hidden 32\)"):
        params.model_copy(update={"window": 1}).vector_dim(model.get_input_embeddings().embedding_dim)
    with pytest.raises(InputError, match=r"prompt.max_length 512 and 48 new tokens are more than the 500 positions"):
        params.check_length(max_positions(model))
    with pytest.raises(
        InputError, match=r"lower generation.max_new_tokens and data.sft_max_new_tokens below 40, and then"
    ):
        params.check_length(40)
    with pytest.raises(InputError, match=r"lower prompt.max_length to 1$"):
        params.check_length(49)
    params.check_length(560)
    without_records = params.data.model_copy(update={"sft_records": 0})
    params.model_copy(update={"data": without_records}).check_length(512 + params.generation.max_new_tokens)
    params.check_length(None)
