from pathlib import Path
from typing import Any

import pytest
import yaml

from narrowband.params import InputError
from narrowband.runtime.parameters import load_params

COMMITTED = yaml.safe_load((Path(__file__).parent.parent / "params.yaml").read_text())


def write(folder: Path, changes: dict[str, Any]) -> Path:
    """The committed parameters with dotted names changed, as a file."""
    content = yaml.safe_load(yaml.safe_dump(COMMITTED))
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = content
        for key in sections:
            section = section[key]
        section[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("compress_dim", 0, "compress_dim is 0, which should be greater than or equal to 1"),
        ("compress_dim", -5, "compress_dim is -5"),
        ("compress_dim", "many", "compress_dim is 'many', which should be a valid integer"),
        ("compress_dim", 2.5, "compress_dim is 2.5"),
        ("compress_dim", True, "compress_dim is True"),
        ("compress_dim", None, "compress_dim is None"),
        ("window", 0, "window is 0"),
        ("compres_dim", 256, "unknown parameter compres_dim; did you mean compress_dim?"),
        ("phase1.step", 3, "unknown parameter phase1.step; did you mean phase1.steps?"),
        ("magnitude", "tokens", "magnitude is 'tokens', which should be 'none', 'token', 'example' or 'calibrated'"),
        ("adapter.kind", "mlp", "adapter.kind is 'mlp'"),
        ("adapter.kind", "seed", "adapter.kind is 'seed', which is now called layernorm"),
        ("dataset", "embedded", "dataset is 'embedded', which is now called bundled"),
        ("adapter.dropout", 1, "adapter.dropout is 1"),
        ("prompt.prefix", "none", "prompt.prefix is 'none', which should be 'text' or 'codec'"),
        ("phase2.start", "phase0", "phase2.start is 'phase0', which should be 'phase1' or 'scratch'"),
        ("phase1.start", "phase1", "unknown parameter phase1.start"),
        ("loss.phase2.kl", -1, "loss.phase2.kl is -1"),
        ("loss.phase2.kl", float("nan"), "loss.phase2.kl is nan"),
        ("phase1.micro_batch", -1, "phase1.micro_batch is -1, which should be greater than or equal to 0"),
        (
            "phase2.gradient_checkpointing",
            "often",
            "phase2.gradient_checkpointing is 'often', which should be a valid boolean",
        ),
        ("phase2.teacher_top_k", 2.5, "phase2.teacher_top_k is 2.5"),
        (
            "reader.tokens_per_position",
            0,
            "reader.tokens_per_position is 0, which should be greater than or equal to 1",
        ),
        (
            "reader.encoder",
            "codec",
            "reader.encoder is 'codec', which should be 'pretrained', 'scratch' or 'embeddings'",
        ),
        ("reader.pretrain_steps", -1, "reader.pretrain_steps is -1"),
        ("phase2.lr", "fast", "phase2.lr is 'fast', which should be a number"),
        ("phase2.lr", 0, "phase2.lr is 0"),
        ("phase2.lr", None, "phase2.lr is None, which should be a number"),
        ("phase2.lr", [1], "phase2.lr is [1], which should be a number"),
        ("latent_bits", 20, "latent_bits is 20, which should be 32, 16, or 2 to 15"),
        ("latent_coding.kind", "huffman", "latent_coding.kind is 'huffman', which should be 'fixed' or 'entropy'"),
        ("latent_coding.bits_per_token", 0, "latent_coding.bits_per_token is 0, which should be greater than 0"),
        ("latent_coding.step", -1, "latent_coding.step is -1"),
        ("data.test", 0, "data.test is 0"),
        ("latent_bits", 1, "latent_bits is 1"),
        ("adapter", 3, "adapter is 3"),
        ("data.prompt_style", "chat", "data.prompt_style is 'chat', which should be 'few_shot' or 'completion'"),
        ("data.phase2_sft_share", 1.5, "data.phase2_sft_share is 1.5, which should be less than or equal to 1"),
        ("data.gates.keep", 0.5, "unknown parameter data.gates.keep; did you mean data.gates.kept?"),
        ("generation.stop", "\n", "generation.stop is '\\n', which should be 'line' or 'sentence'"),
        ("phase1.vocabulary_share", 1.5, "phase1.vocabulary_share is 1.5, which should be less than or equal to 1"),
        ("phase2.vocabulary_share", 0.5, "unknown parameter phase2.vocabulary_share"),
        ("generation.backend", "tgi", "generation.backend is 'tgi', which should be 'transformers' or 'vllm'"),
    ],
)
def test_bad_values_are_refused_with_name_and_value(tmp_path: Path, name: str, value: object, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_params(write(tmp_path, {name: value}))
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "\x00"])
def test_a_file_that_holds_no_parameters_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=r"params.yaml"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_parameter_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({k: v for k, v in COMMITTED.items() if k != "seed"}))
    with pytest.raises(InputError, match="parameter seed is missing"):
        load_params(tmp_path / "params.yaml")


def test_a_number_that_dvc_wrote_as_an_exponent_is_read(tmp_path: Path) -> None:
    assert load_params(write(tmp_path, {"phase1.lr": "5e-05"})).phase1.lr == 5e-5


def test_compress_dim_may_be_as_large_as_a_window_and_no_larger(tmp_path: Path) -> None:
    assert load_params(write(tmp_path, {"compress_dim": 4096})).vector_dim(256) == 4096
    with pytest.raises(InputError) as refusal:
        load_params(write(tmp_path, {"compress_dim": 5000})).vector_dim(256)
    assert str(refusal.value) == (
        "compress_dim 5000 is more than vector_dim 4096 (window 16 x hidden 256); choose 1 to 4096"
    )


@pytest.mark.parametrize("name", ["base_model", "dataset", "test_dataset"])
def test_a_tilde_is_the_home_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/mara")
    assert getattr(load_params(write(tmp_path, {name: "~/x.json"})), name) == "/home/mara/x.json"
