"""How a sample of prompts is reconstructed: quality, directions, nearest tokens and norms of its coded tokens."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.folded import FoldedCodec
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.evaluation.answer import batches_by_length
from narrowband.evaluation.reconstruction import Quality
from narrowband.lm.frozen import FrozenLM

SPECTRUM = 250
"""Tokens per batch whose directions are compared with one another."""

BINS = 40
"""Bins of the histogram of norms."""


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
    unseen_share: float  # share of tokens that occur in no training prompt
    unseen_match: float  # token_match of unseen tokens; of all tokens if there are none
    seen_match: float  # token_match of the other tokens


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
        quality.add(original, rebuilt, ids)
        quality.match(nearest, ids)
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
