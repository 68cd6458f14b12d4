"""A tiny random Llama with a tokenizer, saved to disk, that every test can load like any other base model."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same numbers on every machine
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="narrowband-cache-")  # what is kept of base models

import pytest
import torch
import yaml
from families import make_stop
from hypothesis import settings
from transformers import LlamaConfig, LlamaForCausalLM

from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.pretrain.bundled_model import sample_texts
from narrowband.pretrain.tokenizer import train_tokenizer

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)
settings.register_profile("fuzz", max_examples=2_500)


LONGEST = (
    *("test_interruption", "test_dag", "test_recovery", "test_rows", "test_distributed", "test_bad_input"),
    *("test_other_models", "test_queue", "test_experiment_queue", "test_swapped", "test_shots", "test_wire"),
)
"""The files that take longest, in CPU seconds, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: with a file at a time for each process, they must not start last."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer(sample_texts(0, 200), 512)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.chat_template = "{{ 'You are a helpful assistant' }}"  # which must never reach a prompt
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stopping_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, but one that ends its texts after a few tokens."""
    folder = tmp_path_factory.mktemp("models") / "stopping"
    shutil.copytree(tiny_model, folder)
    make_stop(folder)
    return folder


@pytest.fixture(scope="session")
def lm(tiny_model: Path) -> FrozenLM:
    return FrozenLM.load(str(tiny_model))


@pytest.fixture
def params() -> Params:
    """The committed parameters, with as few detectors as tiny models need."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["adapter"]["detectors"] = 128
    return Params.model_validate(content)
