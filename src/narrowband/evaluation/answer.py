"""Free-running generation through a codec, with its rate and its reconstruction quality."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.folded import FoldedCodec
from narrowband.codec.windows import with_tokens
from narrowband.data.encoded import EncodedPrompt, EncodedPrompts
from narrowband.data.prompts import Batch, collate, encode_prompts, truncated_share
from narrowband.data.settled import read_settled
from narrowband.data.squad import Example
from narrowband.evaluation.form import answer_form
from narrowband.evaluation.reconstruction import Quality
from narrowband.evaluation.scoring import Predictions, Scored, score_all
from narrowband.evaluation.significance import interval
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.prefill import continues
from narrowband.lm.rows import UNKNOWN, KnownTokens
from narrowband.lm.stop import Reply
from narrowband.params import Params, Prompt, Stop
from narrowband.runtime import distributed

LARGE_TABLE = 1 << 24
"""With an embedding table of at least this many numbers, only some positions are searched for their nearest token.

On Gemma 3 270M a search takes 5.2 ms of one core, about as much as a prompt token with its share of the answer (5 ms).
"""

SEARCHED = 4096
"""About how many positions are then searched, evenly spaced over all prompts: `token_match` is good to 1.5 points (95%)."""


class QuestionSet(NamedTuple):
    """Test questions, the seed of the bootstrap of their scores, and the ids of tokens coded in training, if these are known."""

    examples: Sequence[Example]
    seed: int
    seen: Int[Tensor, " known"] | None = None

    def interval(self, values: Sequence[float]) -> dict[str, float]:
        """The 95% interval of the mean of `values`, one for each question; questions about one context are drawn together."""
        return interval(values, self.seed, [example.context for example in self.examples])


class System(Protocol):
    """A way to send prompts: embeddings (or states after a block) in, the same out, at a cost in bits."""

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens as the receiver reconstructs them."""

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs, side information included."""


@dataclass(frozen=True)
class Evaluated(Scored):
    """Scored predictions; quality and rate of the codec, if there is one; share of truncated prompts.

    `form` has the shares of answers that are empty, cut or run on; `by_seen` the quality of tokens seen in training and of all
    others, if these are known.
    """

    quality: dict[str, float]
    bits_per_token: float
    truncated_share: float
    form: dict[str, float]
    by_seen: dict[str, dict[str, float]]


class HasIds(Protocol):
    """A prompt, whole or in parts."""

    @property
    def ids(self) -> list[int]:
        """Its token ids."""


def batches_by_length(prompts: Sequence[HasIds], size: int, alike: Sequence[int] = ()) -> list[list[int]]:
    """Indices of `prompts`, shortest first, at most `size` at a time, so that little is padded.

    Prompts of the same number in `alike` stay together, as far as `size` allows.
    """
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(alike or range(len(prompts))):
        groups.setdefault(number, []).append(i)
    lengths = [len(prompt.ids) for prompt in prompts]
    batches: list[list[int]] = []
    for group in sorted(groups.values(), key=lambda group: max(lengths[i] for i in group)):
        for part in (group[start : start + size] for start in range(0, len(group), size)):
            if batches and len(batches[-1]) + len(part) <= size:
                batches[-1] += part
            else:
                batches.append(part)
    return batches


@dataclass(frozen=True)
class QuestionAnswerer:
    """A frozen LM with its prompt settings, maximum new tokens per answer, and prompts per batch.

    `stop` says where an answer ends.
    """

    lm: FrozenLM
    prompt: Prompt
    max_new_tokens: int
    batch_size: int
    stop: Stop

    @classmethod
    def load(cls, params: Params) -> Self:
        """The base model of `params`, with the prompt settings that `generate_data` settled on.

        Raises:
            InputError: see `FrozenLM.load` and `read_settled`.
        """
        lm, generation = FrozenLM.load(params.base_model, params.source), params.generation
        prompt = read_settled(params.prompt)
        return cls(lm, prompt, generation.max_new_tokens, generation.batch_size, generation.stop)

    def encode(self, examples: Iterable[Example]) -> EncodedPrompts:
        """The prompts of `examples`."""
        return encode_prompts(self.lm.tokenizer, examples, self.prompt)

    def generate(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        known: KnownTokens = UNKNOWN,
    ) -> list[Reply]:
        """Greedy answers to left-padded prompts given as embeddings; see `FrozenLM.generate`."""
        return self.lm.generate(embeddings, mask.to(self.lm.device), self.max_new_tokens, self.stop, known)

    def answer_ids(self, ids: Sequence[int]) -> str:
        """The greedy answer to one prompt given as token ids."""
        return self.lm.generate_from_ids(ids, self.max_new_tokens, self.stop).text

    def answer(
        self,
        system: System | None,
        examples: Sequence[Example],
        *,
        seen: Int[Tensor, " known"] | None = None,
        answered: Predictions | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> Evaluated:
        """Answer every example greedily from embeddings, in batches sorted by length; without a system, from the originals.

        A context that several questions of a batch share is read once, as far as its embeddings as sent are the same for all.
        A codec that reconstructs each token independently is folded: reconstruction and quality are computed once per distinct
        token. `seen` are the ids of the tokens that were coded in training. With `answered`, the system's answers to these
        questions and maybe others, prompts are only sent and measured, and no answer counts as cut.
        """
        prompts = self.encode(examples)
        sender = _Sender(self.lm, system, prompts, seen)
        alike = self.alike(examples, prompts)

        def answer_batch(rows: list[int]) -> tuple[dict[str, Reply], Quality, int]:
            batch = collate([prompts[i] for i in rows], self.lm.pad_id)
            embeddings, quality, cost = sender.send(batch)
            asked, same = [examples[i].id for i in rows], [alike[i] for i in rows]
            saved = [Reply(answered[id_], cut=False) for id_ in asked] if answered else None
            answers = saved or self.generate(embeddings, batch.mask, KnownTokens(batch.shared, same, batch.ids))
            advance(len(rows))
            return dict(zip(asked, answers, strict=True)), quality, cost

        replies, quality, bits = dict[str, Reply](), sender.folded_quality(), 0
        batches = batches_by_length(prompts, self.batch_size, alike)
        for answers, part, cost in distributed.shared_out(answer_batch, batches):
            replies |= answers
            quality.merge(part)
            bits += cost
        ordered = {example.id: replies[example.id].text for example in examples}
        return Evaluated(
            ordered,
            score_all(ordered, examples),
            quality.means() if system else {},
            bits / max(1, quality.count),
            truncated_share(prompts),
            answer_form([replies[example.id] for example in examples], examples),
            quality.by_seen() if system and seen is not None else {},
        )

    def alike(self, examples: Sequence[Example], prompts: Sequence[HasIds]) -> Sequence[int]:
        """A number for each prompt, the same for prompts with the same context; all differ if the model can't share one."""
        groups: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            groups.setdefault(example.context, []).append(i)
        several = (group for group in groups.values() if len(group) > 1)
        beginnings = (_beginning([prompts[i].ids for i in group]) for group in several)
        longest = max(beginnings, key=len, default=[])
        if not (longest and continues(self.lm, longest)):
            return range(len(examples))
        numbers = {context: number for number, context in enumerate(groups)}
        return [numbers[example.context] for example in examples]


def _beginning(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all of `prompts` begin with."""
    return [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))]


def sent(
    system: System, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
) -> tuple[Float[Tensor, "batch seq hidden"], int]:
    """Reconstructed embeddings and their bits; of a codec that writes streams, decoded from these, and their length."""
    if not (isinstance(system, Codec) and system.coder):
        return system(embeddings, coded), system.bits(embeddings, coded)
    streams = system.encode(embeddings, coded)
    return with_tokens(embeddings, coded, torch.cat(system.decode(streams))), 8 * sum(map(len, streams))


class _Sender:
    """Sends batches of `prompts` through a system, and measures the reconstructions."""

    def __init__(
        self, lm: FrozenLM, system: System | None, prompts: Sequence[EncodedPrompt], seen: Int[Tensor, " known"] | None
    ) -> None:
        self.lm, self.system, self.seen = lm, system, seen
        alone = isinstance(system, Codec) and system.takes_tokens_alone and not system.coder
        self.folded = FoldedCodec(system, lm, prompts) if alone and isinstance(system, Codec) else None
        coded = sum(sum(prompt.coded) for prompt in prompts)
        self.every = -(-coded // SEARCHED) if lm.embedding.weight.numel() >= LARGE_TABLE else 1
        self.sent = 0

    @torch.no_grad()
    def send(self, batch: Batch) -> tuple[Float[Tensor, "batch seq hidden"], Quality, int]:
        """Reconstructed embeddings; their quality (empty if folded: see `folded_quality`); their bits."""
        original, quality = self.lm.states(batch.ids, batch.mask), Quality(seen=self.seen)
        if self.system is None:
            return original, quality, 0
        if self.folded:
            return self.folded(original, batch), quality, self.system.bits(original, batch.coded)
        embeddings, cost = sent(self.system, original, batch.coded)
        received, ids = embeddings[batch.coded], batch.ids[batch.coded]
        quality.add(original[batch.coded], received, ids)
        if not self.lm.sender_blocks:
            first = -self.sent % self.every  # evenly spaced over all batches
            self.sent += len(ids)
            if first < len(ids):
                quality.match(self.lm.nearest(received[first :: self.every]), ids[first :: self.every])
        return embeddings, quality, cost

    def folded_quality(self) -> Quality:
        """Quality of a folded codec over all prompts; empty for any other system."""
        quality = Quality(seen=self.seen)
        if folded := self.folded:
            quality.add(folded.original, folded.reconstructed, folded.ids, folded.counts)
            quality.match(self.lm.nearest(folded.reconstructed), folded.ids, folded.counts)
        return quality
