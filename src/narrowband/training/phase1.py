"""Phase 1: train the adapter to reconstruct prompts: their embeddings, or states, which the model's first blocks compute."""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from narrowband.codec.adapter import ClosedForm, Sent
from narrowband.codec.codec import Codec
from narrowband.codec.windows import cut, token_places
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.data.vocabulary import mixed_in, plain_tokens
from narrowband.lm.frozen import FrozenLM
from narrowband.params import ReconstructionLoss
from narrowband.runtime.progress import bar
from narrowband.training.draws import Draws
from narrowband.training.loop import StepLoss
from narrowband.training.losses import Reconstruction, reconstruction_loss
from narrowband.training.micro_batches import WHOLE, Part, PhaseLoss, in_batch

FITTED_ON, FITTED_AT_ONCE = 800, 8
"""Prompts that an adapter's detectors are fitted on, and how many of them are in memory at a time."""

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


def fit_detectors(lm: FrozenLM, codec: Codec, prompts: Prompts, batch_size: int) -> None:
    """Fit what an adapter has in closed form, if it has anything, to the training prompts of the first steps."""
    adapter: object = codec.adapter
    if not isinstance(adapter, ClosedForm):
        return
    drawn = [prompt for step in range(-(-FITTED_ON // batch_size)) for prompt in prompts(step)]
    batches = [collate(drawn[i : i + FITTED_AT_ONCE], lm.pad_id) for i in range(0, len(drawn), FITTED_AT_ONCE)]
    found, counts = torch.cat([batch.ids[batch.coded] for batch in batches]).unique(return_counts=True)
    with bar("detectors", 2 * len(batches)) as advance, torch.no_grad():

        def sent() -> Iterator[Sent]:
            for batch in batches:
                states, coded = lm.states(batch.ids, batch.mask), batch.coded.to(lm.device)
                latents = codec.received(cut(states, coded, codec.window))
                ids, originals = batch.ids.to(lm.device)[coded], states[coded] / codec.scale
                yield Sent(latents, token_places(coded, codec.window), ids, originals)
                advance(1)

        adapter.fit(sent, found[counts.argsort(descending=True, stable=True)].to(lm.device))


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
