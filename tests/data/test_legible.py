"""Tokenizers that can't write what a run asks and answers."""

from collections.abc import Callable

import pytest
from families import metaspace_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from narrowband.data.legible import require_legible
from narrowband.data.prompts import encode_answer, qa_prompt
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, Example
from narrowband.params import InputError
from narrowband.pretrain.bundled_model import sample_texts
from narrowband.pretrain.tokenizer import train_tokenizer
from narrowband.runtime.entry import console

WORLD = [world_example(0, "train", i) for i in range(20)]
TEXTS = [f"{qa_prompt(one.context, one.question)} {one.golds[0]}\n" for one in WORLD]
THAI = Example(
    "a", "\u0e41\u0e21\u0e48\u0e19\u0e49\u0e33 \u0e42\u0e02\u0e07", "which?", (Answer("\u0e42\u0e02\u0e07", 7),)
)


def joining() -> PreTrainedTokenizerFast:
    """Merges bytes across spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def normalised(normalizer: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(sample_texts(0, 50), 400)
    tokenizer.backend_tokenizer.normalizer = normalizer
    return tokenizer


def letters() -> PreTrainedTokenizerFast:
    """Knows each character of the bundled world, and no other."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def said(tokenizer: PreTrainedTokenizerFast, *examples: Example) -> str:
    with console.capture() as captured:
        require_legible(tokenizer, [examples])
    return " ".join(captured.get().split())


def test_an_answer_that_is_joined_with_the_cue_is_refused() -> None:
    assert joining().convert_tokens_to_ids(":\u0120") is not None, "the case must occur"
    with pytest.raises(InputError, match=r'joins the end of "Answer:" with the beginning of the answer') as refusal:
        encode_answer(joining(), WORLD[0].golds[0])
    with pytest.raises(InputError) as same:
        said(joining(), *WORLD)
    assert str(same.value) == str(refusal.value) and "\n" not in str(same.value)


@pytest.mark.parametrize(
    "normalizer",
    [normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.BertNormalizer()],
    ids=lambda one: type(one).__name__,
)
def test_a_tokenizer_that_drops_line_breaks_is_refused_whatever_the_questions(
    normalizer: normalizers.Normalizer,
) -> None:
    with pytest.raises(
        InputError, match="drops line breaks, which end each line of a prompt and each answer; choose a"
    ):
        said(normalised(normalizer))


def test_unknown_characters_are_mentioned_and_refused_if_they_are_most() -> None:
    assert said(letters(), *WORLD) == ""
    assert "has no tokens for 12.5% of the characters of questions and answers" in said(
        letters(), Example("a", "the \u0e41", "?x", (Answer("e", 2),))
    )
    with pytest.raises(InputError, match=r"has no tokens for 6\d\.\d% of the characters of .*; choose a base model"):
        said(letters(), THAI)


@pytest.mark.parametrize("make", [metaspace_tokenizer, lambda: train_tokenizer(sample_texts(0, 50), 400)])
def test_tokenizers_that_write_bytes_know_every_character(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    tokenizer.unk_token = tokenizer.unk_token or tokenizer.eos_token
    assert said(tokenizer, THAI, *WORLD) == ""
