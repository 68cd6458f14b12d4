"""The plain way of the original run, kept to be measured against and to prove that nothing gained changes a result.

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
from narrowband.data.prompts import Batch, EncodedPrompt, collate, encode_prompt
from narrowband.data.squad import Example
from narrowband.evaluation.answer import Answered, System
from narrowband.evaluation.reconstruction import Quality
from narrowband.evaluation.scoring import score_all
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
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
    lm: FrozenLM,
    codec: System | None,
    examples: Sequence[Example],
    params: Params,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> Answered:
    """Answer the examples one by one."""
    predictions, quality, bits, truncated = {}, Quality(), 0, 0
    for example in examples:
        prompt = encode_prompt(lm.tokenizer, example.context, example.question, params.prompt)
        truncated += prompt.truncated
        batch = collate([prompt], lm.pad_id)
        original = lm.embed(batch.ids)
        embeddings = codec(original, batch.coded) if codec else original
        if codec:
            quality.add(original[batch.coded], embeddings[batch.coded], batch.ids[batch.coded], lm.vocabulary)
            bits += codec.bits(batch.coded)
        (text,) = lm.generate(embeddings, batch.mask, params.generation.max_new_tokens)
        predictions[example.id] = text
        advance(1)
    means = quality.means() if codec else {}
    rate = bits / max(1, quality.count)
    return Answered(predictions, score_all(predictions, examples), means, rate, truncated / len(examples))
