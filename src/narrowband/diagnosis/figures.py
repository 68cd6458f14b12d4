"""The figures behind the verdicts: of reconstructions, of answers, and of two experiments.

The experiments answer one batch of questions again: the uncompressed prompts by other calls of the language model (which call
gives the saved answers?), and each codec's prompts with the norms of the originals (is scale the problem?).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.folded import FoldedCodec
from narrowband.codec.magnitude import restore_magnitude, side_information
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionAnswerer, batches_by_length
from narrowband.evaluation.form import faults
from narrowband.evaluation.reconstruction import Quality
from narrowband.evaluation.scoring import normalize, score_all
from narrowband.evaluation.significance import interval
from narrowband.lm.bos import is_chat_delimiter
from narrowband.lm.frozen import FrozenLM

SAMPLE = 200
"""Test questions whose prompts are reconstructed again."""

REPLAYED = 24
"""Questions that are answered again, one at a time."""

SPECTRUM = 250
"""Tokens per batch whose directions are compared with one another."""

BINS = 40
"""Bins of the histogram of norms."""

Predictions = Mapping[str, str]


@dataclass(frozen=True)
class ReconstructionFigures:
    """How the sample's coded tokens were reconstructed: means over tokens; overlaps are means over prompts."""

    cosine: float
    norm_ratio: float
    mse: float
    relative_error: float
    token_match: float  # percent
    commonest_token: float  # share of the commonest nearest token
    pairwise_cosine: float  # of reconstructed tokens with one another
    original_pairwise_cosine: float
    effective_rank: float
    original_effective_rank: float
    own_overlap: float  # share of a prompt's nearest tokens that stand in that prompt
    other_overlap: float  # the same for the best-matching other prompt of its batch
    unseen_share: float  # share of tokens that training never saw
    unseen_match: float  # token_match of unseen tokens; of all tokens if there are none
    seen_match: float  # token_match of the other tokens


@dataclass(frozen=True)
class Diversity:
    """How much the answers differ, as shares of all questions; empty answers never count as the commonest."""

    commonest_prediction: float
    commonest_gold: float
    distinct_predictions: float
    empty_predictions: float


@dataclass(frozen=True)
class Rescaled:
    """F1 on one batch with the codec as it is, and with every token given its original's norm."""

    f1_before: float
    f1_after: float
    gain_low: float  # lower end of the paired 95% interval of the gain


@dataclass(frozen=True)
class CallPath:
    """The share (0 to 1) of the saved uncompressed answers that each of three calls of the language model reproduces.

    `with_bos` and `without_bos` pass token ids, one prompt at a time; `without_mask` passes padded embeddings with a mask of
    ones.
    """

    with_bos: float
    without_bos: float
    without_mask: float
    bos_gain_low: float  # lower end of the paired 95% interval of F1 with BOS over the saved answers


@dataclass(frozen=True)
class Form:
    """Shares of all uncompressed answers that are empty, and that hold a right answer among too many other words."""

    empty: float
    buried: float


@dataclass(frozen=True)
class Figures:
    """Everything known about one compressed system; F1 and EM are of the saved answers to all questions."""

    f1: float
    em: float
    reconstruction: ReconstructionFigures
    diversity: Diversity
    rescaled: Rescaled


@dataclass(frozen=True)
class Diagnosis:
    """Figures of a run, and the norms of the sample's tokens: `original`, and one entry a system."""

    uncompressed_f1: float
    form: Form
    call_path: CallPath
    systems: dict[str, Figures]
    norms: dict[str, Float[Tensor, " n"]]


class Probed(NamedTuple):
    """An evaluation batch: questions and their prompts, shortest first, padded together in `evaluate`."""

    examples: list[Example]
    prompts: list[EncodedPrompt]


def diagnose(
    answerer: QuestionAnswerer,
    systems: Mapping[str, Codec | None],
    examples: Sequence[Example],
    predictions: Mapping[str, Predictions],
    seed: int,
    *,
    seen: Int[Tensor, " known"] | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Diagnosis:
    """Examine every compressed system, from the answers that `evaluate` saved and from a sample of prompts sent again.

    `seen` are the ids of the tokens coded in training; without it, all tokens count as seen. `advance` is called after each
    system.
    """
    prompts = answerer.encode(examples)
    rows = max(batches_by_length(prompts, answerer.batch_size), key=lambda rows: _padding(prompts, rows))
    probed = Probed([examples[i] for i in rows], [prompts[i] for i in rows])
    figures, norms = {}, {}
    for name, codec in systems.items():
        if codec is None:
            continue
        scores = score_all(predictions[name], examples)
        reconstruction, norms["original"], norms[name] = examine(
            answerer.lm, codec, prompts[:SAMPLE], answerer.batch_size, seen
        )
        figures[name] = Figures(
            sum(score.f1 for score in scores) / len(scores),
            sum(score.em for score in scores) / len(scores),
            reconstruction,
            diversity(list(predictions[name].values()), examples),
            try_scales(answerer, codec, probed, predictions[name], seed),
        )
        advance(1)
    uncompressed = predictions["uncompressed"]
    return Diagnosis(
        sum(score.f1 for score in score_all(uncompressed, examples)) / len(examples),
        Form(*faults(uncompressed, examples)),
        replay(answerer, probed, uncompressed, seed),
        figures,
        norms,
    )


def _padding(prompts: Sequence[EncodedPrompt], rows: Sequence[int]) -> int:
    lengths = [len(prompts[i].ids) for i in rows]
    return sum(max(lengths) - length for length in lengths)


@torch.no_grad()
def examine(
    lm: FrozenLM,
    codec: Codec,
    prompts: Sequence[EncodedPrompt],
    batch_size: int,
    seen: Int[Tensor, " known"] | None = None,
) -> tuple[ReconstructionFigures, Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Reconstruct `prompts`; their figures, and the norms of their original and reconstructed coded tokens."""
    quality = Quality(seen=seen)
    found: Counter[int] = Counter()
    kept: list[tuple[Tensor, Tensor]] = []
    norms: list[tuple[Tensor, Tensor]] = []
    overlaps: list[Tensor] = []
    for batch, original, rebuilt, nearest in _sent(lm, codec, prompts, batch_size):
        ids = batch.ids[batch.coded]
        quality.add(original, rebuilt, ids, nearest)
        found.update(nearest.tolist())
        overlaps.append(overlap(nearest.cpu(), ids, batch.coded))
        norms.append((original.norm(dim=-1), rebuilt.norm(dim=-1)))
        step = -(-len(ids) // SPECTRUM)
        kept.append((original[::step], rebuilt[::step]))
    original_kept, rebuilt_kept = (torch.cat(tokens) for tokens in zip(*kept, strict=True))
    own, other = torch.cat(overlaps, 1).mean(1).tolist()
    means, parts = quality.means(), quality.by_seen()
    reconstruction = ReconstructionFigures(
        **means,
        commonest_token=found.most_common(1)[0][1] / quality.count,
        pairwise_cosine=pairwise_cosine(rebuilt_kept),
        original_pairwise_cosine=pairwise_cosine(original_kept),
        effective_rank=effective_rank(rebuilt_kept),
        original_effective_rank=effective_rank(original_kept),
        own_overlap=own,
        other_overlap=other,
        unseen_share=parts["unseen"]["share"],
        unseen_match=parts["unseen"].get("token_match", means["token_match"]),
        seen_match=parts["seen"].get("token_match", means["token_match"]),
    )
    original_norms, rebuilt_norms = (torch.cat(values).cpu() for values in zip(*norms, strict=True))
    return reconstruction, original_norms, rebuilt_norms


def _sent(
    lm: FrozenLM, codec: Codec, prompts: Sequence[EncodedPrompt], batch_size: int
) -> Iterator[tuple[Batch, Float[Tensor, "n hidden"], Float[Tensor, "n hidden"], Int[Tensor, " n"]]]:
    """Batches of `prompts` with original and reconstructed embeddings of coded tokens, and the nearest tokens of the latter.

    If the codec reconstructs each token independently, each distinct one is searched once.
    """
    folded = FoldedCodec(codec, lm, prompts) if codec.takes_tokens_alone else None
    known = lm.nearest(folded.reconstructed) if folded else None
    for rows in batches_by_length(prompts, batch_size):
        batch = collate([prompts[i] for i in rows], lm.pad_id)
        embeddings = lm.embed(batch.ids)
        rebuilt = (folded(embeddings, batch) if folded else codec(embeddings, batch.coded))[batch.coded]
        nearest = known[folded.rows(batch)] if folded and known is not None else lm.nearest(rebuilt)
        yield batch, embeddings[batch.coded], rebuilt, nearest


def pairwise_cosine(tokens: Float[Tensor, "n hidden"]) -> float:
    """Mean cosine of all pairs of different tokens: 1 if all have the same direction."""
    units = F.normalize(tokens.double(), dim=-1)
    n = len(units)
    return float((units.sum(0).square().sum() - units.square().sum()) / max(1, n * (n - 1)))


def effective_rank(tokens: Float[Tensor, "n hidden"]) -> float:
    """Exponential of the entropy of the singular values (Roy & Vetterli 2007, EUSIPCO): 1 if all are parallel."""
    values = torch.linalg.svdvals(tokens.float())
    shares = values / values.sum().clamp(min=1e-12)
    return float(torch.special.entr(shares).sum().exp())


def overlap(
    nearest: Int[Tensor, " n"], ids: Int[Tensor, " n"], coded: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "2 batch"]:
    """The share of each row's nearest tokens that its own prompt contains, and the largest such share of any other prompt."""
    known, codes = torch.unique(torch.cat([nearest, ids]), return_inverse=True)
    row = coded.nonzero()[:, 0]
    counts = torch.zeros(2, len(coded), len(known))
    for which, values in enumerate(codes.split(len(ids))):
        counts[which].index_put_((row, values), torch.ones(len(ids)), accumulate=True)
    found, wanted = counts
    shares = torch.stack([torch.minimum(bag, wanted).sum(-1) / bag.sum().clamp(min=1) for bag in found])
    own = shares.diagonal().clone()
    return torch.stack([own, shares.fill_diagonal_(0).amax(-1)])


def diversity(predictions: Sequence[str], examples: Sequence[Example]) -> Diversity:
    """How alike `predictions` are, beside how alike the first gold answers are."""
    found = Counter(normalize(text) for text in predictions)
    empty = found.pop("", 0)
    golds = Counter(normalize(example.golds[0]) for example in examples)
    return Diversity(
        max(found.values(), default=0) / len(predictions),
        max(golds.values()) / len(examples),
        len(found) / len(predictions),
        empty / len(predictions),
    )


@torch.no_grad()
def try_scales(answerer: QuestionAnswerer, codec: Codec, probed: Probed, saved: Predictions, seed: int) -> Rescaled:
    """F1 on `probed` with the norms of the originals, as `magnitude: token` would send them, and of the saved answers."""
    lm = answerer.lm
    batch = collate(probed.prompts, lm.pad_id)
    original, coded = lm.embed(batch.ids), batch.coded.to(lm.device)
    rebuilt = restore_magnitude(
        codec(original, coded), side_information(original, coded, "token"), coded, "token", codec.scale
    )
    replies = answerer.generate(rebuilt, batch.mask, batch.shared)
    answers = {e.id: reply.text for e, reply in zip(probed.examples, replies, strict=True)}
    before, after = ([score.f1 for score in score_all(texts, probed.examples)] for texts in (saved, answers))
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return Rescaled(sum(before) / len(before), sum(after) / len(after), interval(gains, seed)["low"])


@torch.no_grad()
def replay(answerer: QuestionAnswerer, probed: Probed, saved: Predictions, seed: int) -> CallPath:
    """Answer the uncompressed prompts of `probed` by three calls of the language model."""
    lm = answerer.lm
    batch = collate(probed.prompts, lm.pad_id)
    unmasked = [reply.text for reply in answerer.generate(lm.embed(batch.ids), torch.ones_like(batch.mask))[:REPLAYED]]
    bos = None if is_chat_delimiter(str(lm.tokenizer.bos_token)) else lm.tokenizer.bos_token_id
    bare = [prompt.ids[prompt.ids[0] == bos :] for prompt in probed.prompts[:REPLAYED]]
    without = [answerer.answer_ids(ids) for ids in bare]
    with_bos = without if bos is None else [answerer.answer_ids([bos, *ids]) for ids in bare]
    asked = probed.examples[:REPLAYED]

    def same(answers: Sequence[str]) -> float:
        pairs = zip(asked, answers, strict=True)
        return sum(normalize(text) == normalize(saved[e.id]) for e, text in pairs) / len(asked)

    before = score_all(saved, asked)
    after = score_all({e.id: text for e, text in zip(asked, with_bos, strict=True)}, asked)
    gains = [b.f1 - a.f1 for a, b in zip(before, after, strict=True)]
    return CallPath(same(with_bos), same(without), same(unmasked), interval(gains, seed)["low"])


def histogram(norms: Mapping[str, Float[Tensor, " n"]]) -> list[dict[str, float]]:
    """Rows of `norm` (the middle of a bin) and, for each entry of `norms`, its share of tokens in that bin.

    Bins cover 0 to the largest 99.5th percentile of all entries; larger norms count in the last bin.
    """
    top = max(float(values.quantile(0.995)) for values in norms.values())
    edges = torch.linspace(0, top, BINS + 1)
    shares = {
        name: torch.histogram(values.clamp(max=top).float(), edges).hist / len(values) for name, values in norms.items()
    }
    middles = (edges[:-1] + edges[1:]) / 2
    return [
        {"norm": float(middle), **{name: float(share[i]) for name, share in shares.items()}}
        for i, middle in enumerate(middles)
    ]
