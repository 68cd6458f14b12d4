import pytest

from narrowband.data.squad import Answer, Example
from narrowband.data.words import words
from narrowband.sft.filters import ROUGE_L, Contamination, Distinct, clean, has_residue, ran_on, rouge_l


@pytest.mark.parametrize(
    ("completion", "response", "runaway"),
    [
        (" Paris\n\n", "Paris", False),
        ("\nParis\n\n", "Paris", False),
        (" Paris\n\nWhat is fog?\nA cloud", "Paris", False),
        (" Paris\nQ: What is fog?\nA: A cloud", "Paris", True),
        (" Renva\nQuestion:", "Renva", True),
        (" short\nIs the answer", "short", True),
        ("One line.\nAnother line.\n\n", "One line.\nAnother line.", False),
        ("\n\nParis", "", False),
    ],
)
def test_a_run_on_is_cut_and_noticed_and_leaves_no_residue(completion: str, response: str, runaway: bool) -> None:
    assert clean(completion) == response
    assert ran_on(completion) == runaway
    assert not has_residue(response)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # LCS of 3 words (the cat on) in texts of 4 and 6.
    assert rouge_l(words("the cat sat on"), words("the black cat is on it")) == pytest.approx(2 * 3 / (4 + 6))
    assert rouge_l(["a", "b"], ["a", "b"]) == 1 and rouge_l(["a"], ["b"]) == 0


def test_near_duplicates_are_those_of_rouge_l_at_or_above_the_threshold() -> None:
    texts = [
        f"What is the {thing} of {place}?" for thing in ("capital", "anthem") for place in ("Peru", "Cuba", "Chad")
    ]
    texts += [f"{a} plus {b} is {a + b}" for a in range(12) for b in range(12)]
    distinct = Distinct()
    kept: list[list[str]] = []
    for text in texts:
        mine = text.lower().replace("?", "").split()
        alike = any(rouge_l(mine, other) >= ROUGE_L for other in kept)
        assert distinct.add(text) != alike, text
        if not alike:
            kept.append(mine)
    assert 10 < len(kept) < len(texts)
    assert not distinct.add(texts[0].upper() + "!")


@pytest.mark.parametrize(
    ("text", "overlaps"),
    [
        ("据说：长江是中国最长的河流，它发源于青藏高原！", True),
        ("长江是中国最长的河流，人人都知道。", False),  # 10 characters, which two texts may well share
        ("他看见长江是中国最长的河流它发源于山", False),  # 14
        ("它发源于青藏高原, YANGTZE river in Asia", True),  # 8 characters and 4 words
        ("它发源于青藏高原 Yangtze river", False),
    ],
)
def test_a_character_of_a_script_without_spaces_is_half_a_word_of_a_run(text: str, overlaps: bool) -> None:
    context = "长江是中国最长的河流，它发源于青藏高原，Yangtze River in Asia。"
    test = Contamination([Example("1", context, "长江在哪里？", (Answer("亚洲", 0),))])
    assert test.overlaps(text) == overlaps


def test_eight_words_in_a_row_of_the_test_split_are_too_many() -> None:
    context = "Orvane is a small town on the river Dalkin where people make glass."
    test = Contamination([Example("1", context, "What do people make?", (Answer("glass", 62),))])
    assert test.overlaps("They say: orvane is a SMALL town, on the river.")
    assert not test.overlaps("Orvane is a small town on the coast, where people make glass.")
