"""The original run's plain implementation, kept to measure speed-ups against and to show that they change no result.

Embeddings of every position are materialised, PCA is scikit-learn's, the codec is applied position by position, answers
are generated one prompt at a time.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from sklearn import decomposition
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.codec.windows import cut
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.data.squad import Example
from narrowband.evaluation.answer import Evaluated, QuestionAnswerer, System
from narrowband.evaluation.form import answer_form
from narrowband.evaluation.reconstruction import Quality
from narrowband.evaluation.scoring import Predictions, score_all
from narrowband.lm.frozen import FrozenLM
from narrowband.training.losses import Reconstruction


def all_windows(lm: FrozenLM, prompts: Sequence[EncodedPrompt], window: int) -> Float[Tensor, "n vector"]:
    """The windows of all prompts at once."""
    batches = [collate([prompt], lm.pad_id) for prompt in prompts]
    return torch.cat([cut(lm.embed(batch.ids), batch.coded, window) for batch in batches])


def fit_pca(vectors: Float[Tensor, "n vector"], compress_dim: int) -> PCA:
    """scikit-learn's fastest exact solver when there are more vectors than components."""
    fitted = decomposition.PCA(compress_dim, svd_solver="covariance_eigh").fit(vectors.numpy())
    return PCA(
        torch.from_numpy(fitted.components_),
        torch.from_numpy(fitted.mean_),
        torch.from_numpy(fitted.explained_variance_),
        torch.tensor([fitted.explained_variance_.sum() / fitted.explained_variance_ratio_.sum()]).float(),
    )


def coded_tokens(lm: FrozenLM, codec: Codec, batch: Batch) -> Reconstruction:
    """Every coded position of `batch`, for the loss of Phase 1."""
    original = lm.embed(batch.ids)
    reconstructed = codec(original, batch.coded)
    return Reconstruction(original[batch.coded], reconstructed[batch.coded])


def reconstruct(
    codec: Codec, lm: FrozenLM, embeddings: Float[Tensor, "batch seq hidden"], batch: Batch
) -> Float[Tensor, "batch seq hidden"]:
    """The codec at every coded position, for Phase 2."""
    return codec(embeddings, batch.coded)


@torch.no_grad()
def answer(
    answerer: QuestionAnswerer,
    system: System | None,
    examples: Sequence[Example],
    *,
    seen: Tensor | None = None,
    answered: Predictions | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Evaluated:
    """Answer the examples one by one; those in `answered` again, as the plain way kept no answers."""
    lm = answerer.lm
    replies, quality, bits, truncated = [], Quality(seen=seen), 0, 0
    for prompt in answerer.encode(examples):
        truncated += prompt.truncated
        batch = collate([prompt], lm.pad_id)
        original = lm.embed(batch.ids)
        embeddings = system(original, batch.coded) if system else original
        if system:
            received, ids = embeddings[batch.coded], batch.ids[batch.coded]
            quality.add(original[batch.coded], received, ids)
            quality.match(lm.nearest(received), ids)
            bits += system.bits(original, batch.coded)
        replies += answerer.generate(embeddings, batch.mask)
        advance(1)
    predictions = {example.id: reply.text for example, reply in zip(examples, replies, strict=True)}
    return Evaluated(
        predictions,
        score_all(predictions, examples),
        quality.means() if system else {},
        bits / max(1, quality.count),
        truncated / len(examples),
        answer_form(replies, examples),
        quality.by_seen() if system and seen is not None else {},
    )
