"""The real models read from their GGUF files, held against other readers of the same files.

`references.json` has token ids of awkward texts: of Gemma by sentencepiece 0.2.3 from the file's pieces, of SmolLM2 by
llama.cpp (xllamacpp 2026.10, special tokens not parsed). Its completions are llama.cpp's greedy ones of 8 tokens, with the
log-probabilities of the first of them, of both models, whose quantised products differ a little from dequantised ones.
"""

import json
from pathlib import Path

import pytest
import torch

from narrowband.lm.base_model import load_tokenizer, locate
from narrowband.lm.frozen import FrozenLM

REFERENCES = json.loads((Path(__file__).parent / "references.json").read_text())


def test_tokens_are_those_of_the_original_tokenizer(real: tuple[str, Path]) -> None:
    name, file = real
    tokenizer = load_tokenizer(str(file))
    tokenizer.backend_tokenizer.encode_special_tokens = True
    found = [
        [text, tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids]
        for text, _ in REFERENCES[name]["tokens"]
    ]
    assert found == REFERENCES[name]["tokens"]


def test_texts_come_back_from_their_tokens(real: tuple[str, Path]) -> None:
    name, file = real
    tokenizer = load_tokenizer(str(file))
    for text, ids in REFERENCES[name]["tokens"]:
        if "\N{LOWER ONE EIGHTH BLOCK}" not in text:  # SentencePiece's own sign for a space
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_next_tokens_are_as_likely_as_llama_cpp_says(real: tuple[str, Path], real_lm: FrozenLM) -> None:
    for completion in REFERENCES[real[0]]["completions"]:
        with torch.no_grad():
            scores = real_lm.model(torch.tensor([completion["ids"]], device=real_lm.device)).logits[0, -1].float()
        likely = scores.log_softmax(-1)
        for token, expected in completion["first"].items():
            assert likely[int(token)].item() == pytest.approx(expected, abs=0.35)
        assert str(scores.argmax().item()) == next(iter(completion["first"]))


def test_the_model_is_batchable_and_whole(real: tuple[str, Path], real_lm: FrozenLM) -> None:
    assert real_lm.batchable
    assert len(real_lm.tokenizer) == real_lm.embedding.num_embeddings
    assert not hasattr(real_lm.model.config, "quantization_config")
    assert locate(str(real[1])) == locate(str(real[1].parent))
