"""Phase 1: train the adapter to reconstruct prompts: their embeddings, or states, which the model's first blocks compute."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from narrowband.codec.codec import Codec
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.data.vocabulary import mixed_in, plain_tokens
from narrowband.lm.frozen import FrozenLM
from narrowband.params import ReconstructionLoss
from narrowband.training.draws import Draws
from narrowband.training.loop import StepLoss
from narrowband.training.losses import Reconstruction, reconstruction_loss
from narrowband.training.micro_batches import WHOLE, Part, PhaseLoss, in_batch

Prompts = Callable[[int], Sequence[EncodedPrompt]]
"""The training prompts of a step."""


def drawn_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[EncodedPrompt], draws: Draws, vocabulary_share: float
) -> Prompts:
    """Prompts drawn from `prompts`, each once an epoch.

    `vocabulary_share` of their coded tokens are replaced by random vocabulary tokens, drawn from the seed and the step.
    """
    tokens = plain_tokens(tokenizer)
    return lambda step: mixed_in(
        draws.batch(prompts, step), vocabulary_share, tokens, f"{draws.seed}/vocabulary/{step}"
    )


def phase1_loss(lm: FrozenLM, codec: Codec, prompts: Prompts, weights: ReconstructionLoss) -> PhaseLoss:
    """The loss of a step: cosine and squared error over the coded tokens of a batch of training prompts."""

    def step_loss(step: int, part: Part = WHOLE) -> StepLoss:
        drawn = prompts(step)
        pair = coded_tokens(lm, codec, collate(part.of(drawn), lm.pad_id))
        return reconstruction_loss(in_batch(lm, pair, drawn), weights)

    return step_loss


def coded_tokens(lm: FrozenLM, codec: Codec, batch: Batch) -> Reconstruction:
    """The coded tokens of `batch`: each distinct one once with its count if the codec allows it, else position by position."""
    if codec.takes_tokens_alone:
        ids, counts = batch.ids[batch.coded].unique(return_counts=True)
        original = lm.embed(ids)
        return Reconstruction(original, codec.tokens(original), counts.to(lm.device))
    original = lm.states(batch.ids, batch.mask)
    reconstructed = codec(original, batch.coded)
    return Reconstruction(original[batch.coded], reconstructed[batch.coded])
