"""The curriculum of the bundled model: recall, copying, questions on passages, completions.

Reading is learned in stages: first looking up a name among many, then copying, then both through sentences and
paraphrases. docs/log.md has what happened without the earlier stages.
"""

from random import Random

from transformers import PreTrainedTokenizerBase

from narrowband.data.prompts import qa_prompt
from narrowband.world.completions import make_document
from narrowband.world.names import Split, name_word
from narrowband.world.passages import Passage, make_passage, make_roster

IGNORABLE = 0.1
"""Loss weight of tokens that nothing before them predicts, such as a new name."""

Piece = tuple[str, float]
"""A piece of text, which ends where a token ends, and the loss weight of its tokens."""


def mixture(progress: float) -> dict[str, float]:
    """Share of each kind of document at `progress` through training, 0 (first step) to 1 (last)."""
    if progress < 0.05:
        return {"recall": 0.35, "repeat": 0.1, "restate": 0.3, "roster": 0.25}
    if progress < 0.3:
        return {"recall": 0.08, "repeat": 0.05, "restate": 0.12, "roster": 0.35, "passage": 0.3, "completion": 0.1}
    return {"recall": 0.02, "repeat": 0.02, "roster": 0.1, "passage": 0.7, "completion": 0.16}


def recall(rng: Random, split: Split, n_queries: int) -> list[Piece]:
    """`name value. name value. … name? value.`, with `n_queries` queries."""
    pairs = {name_word(rng, split): name_word(rng, split) for _ in range(rng.randrange(2, 11))}
    cue = rng.choice(("", "?"))
    pieces = [(" ".join(f"{name} {value}." for name, value in pairs.items()), IGNORABLE)]
    for name in rng.choices(list(pairs), k=n_queries):
        pieces += [(f" {name}{cue}", 0.0), (f" {pairs[name]}", 1.0), (".", 0.0)]
    return pieces


def repeat(rng: Random, split: Split) -> list[Piece]:
    """A passage, twice."""
    text = make_passage(rng, split).text
    return [(text, IGNORABLE), ("\n" + text, 1.0)]


def restate(rng: Random, split: Split, n_questions: int) -> list[Piece]:
    """Statements of one relation, then the same statements again, each to be completed by its value."""
    passage = make_roster(rng, split, restate=True)
    pieces = [(passage.text, IGNORABLE)]
    for question in rng.choices(passage.questions, k=n_questions):
        pieces += [(f" {question.text}", 0.0), (f" {question.answer}", 1.0), (".", 0.0)]
    return pieces


def roster(rng: Random, split: Split, n_questions: int) -> list[Piece]:
    """Questions about statements of one relation."""
    return _ask(make_roster(rng, split, restate=False), rng, n_questions)


def questions(rng: Random, split: Split, n_questions: int) -> list[Piece]:
    """Questions about a passage, as in the test split."""
    return _ask(make_passage(rng, split), rng, n_questions)


def _ask(passage: Passage, rng: Random, n_questions: int) -> list[Piece]:
    """A passage with questions, drawn with replacement so that no answer can be found by elimination."""
    pieces: list[Piece] = []
    for question in rng.choices(passage.questions, k=n_questions):
        prompt = qa_prompt(passage.text, question.text)
        if pieces:
            prompt = prompt[prompt.index("Question:") :]
        pieces += [(prompt, IGNORABLE), (f" {question.answer}\n", 1.0)]
    return pieces


def sequence(
    rng: Random, split: Split, progress: float, tokenizer: PreTrainedTokenizerBase, length: int
) -> tuple[list[int], list[float]]:
    """Token ids and loss weights of one training sequence of exactly `length` tokens."""
    shares = mixture(progress)
    kind = rng.choices(list(shares), weights=list(shares.values()))[0]
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length:
        if rng.random() < 0.7:
            ids.append(tokenizer.bos_token_id)
            weights.append(0.0)
        match kind:
            case "recall":
                pieces = recall(rng, split, n_queries=length // 5)
            case "repeat":
                pieces = repeat(rng, split)
            case "restate":
                pieces = restate(rng, split, n_questions=length // 10)
            case "roster":
                pieces = roster(rng, split, n_questions=length // 12)
            case "passage":
                pieces = questions(rng, split, n_questions=length // 12)
            case _:
                pieces = [(make_document(rng), 0.5)]
        for (_, weight), piece in zip(
            pieces, tokenizer([text for text, _ in pieces], add_special_tokens=False).input_ids, strict=True
        ):
            ids += piece
            weights += [weight] * len(piece)
        ids.append(tokenizer.eos_token_id)
        weights.append(0.5)
    return ids[:length], weights[:length]
