"""The frozen language model: the one place that loads, freezes, embeds, scores and generates."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import torch
import transformers
from jaxtyping import Bool, Float, Int
from rich.markup import escape
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from narrowband.lm.device import best_device, best_dtype
from narrowband.lm.nearest import NearestTokens
from narrowband.lm.prefix import Beginnings, FixedLayer, Prefix, shareable
from narrowband.lm.probe import batchable
from narrowband.lm.sampling import SeededRows
from narrowband.lm.source import load_tokenizer, locate, model_config, refusal, require_embeddings
from narrowband.lm.split import blocks, replaced, require_source, states_before
from narrowband.lm.stop import Reply, TextEnd, decode_rows, until_end
from narrowband.params import EMBEDDINGS, InputError, Stop
from narrowband.runtime import distributed
from narrowband.runtime.entry import console

transformers.utils.logging.disable_progress_bar()


@dataclass
class FrozenLM:
    """A causal LM whose weights never change, on the best device there is, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batchable: bool = True
    """Whether prompts may be left-padded to a batch; a model whose answers change with padding gets one prompt at a time."""
    sender_blocks: int = 0
    """Blocks that run before the codec, which gets the states after them; with 0 it gets token embeddings."""
    _prefixes: dict[tuple[int, ...], Prefix | None] = field(default_factory=dict, init=False, repr=False)
    """Keys and values of the last shared first tokens; `None` if the model can't continue from them."""
    _continues: dict[tuple[int, ...], bool] = field(default_factory=dict, init=False, repr=False)
    """What `continues` found."""

    @classmethod
    def load(cls, name: str, source: str = EMBEDDINGS) -> "FrozenLM":
        """Load the model called `name` (a folder, a GGUF file, a hub id, or a hub id at a revision) with its tokenizer.

        `source` says what the codec gets, as in params.yaml. Weights are read from safetensors alone, and no code but
        transformers' own is run.

        Raises:
            InputError: there is no such model, it has no tokenizer, it can't be loaded as a causal LM, or has no such `source`.
        """
        config = model_config(name)
        tokenizer = load_tokenizer(name)
        model: Any = _read_weights(name, config)
        model.eval().requires_grad_(False)
        distributed.shard(model, blocks(model))
        model.to(best_device())
        # A model's own generation settings (a repetition penalty, top-p) would make "greedy" something else.
        model.generation_config = GenerationConfig()
        lm = cls(model, tokenizer, sender_blocks=require_source(model, source))
        if lm.sender_blocks and distributed.sharded():
            raise InputError(f"source {source} can't be used with --use_fsdp; start the stage without it")
        require_embeddings(name, tokenizer, lm.embedding.num_embeddings)
        lm.batchable = batchable(name, lm)
        if not lm.batchable:
            console.print(
                f"[yellow]base_model {escape(name)} answers differently in a left-padded batch than alone; it is run one "
                "prompt at a time, which is slower[/]",
                soft_wrap=True,
            )
        return lm

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def embedding(self) -> nn.Embedding:
        """The module that embeds tokens."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    @property
    def hidden_size(self) -> int:
        """Width of a token embedding."""
        return self.embedding.weight.shape[1]

    @property
    def pad_id(self) -> int:
        """Token id that pads short rows; it is never attended to, so any id will do if the tokenizer defines none."""
        return int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape hidden"]:
        """Token embeddings in float32, through the model's own module (which scales, in some families)."""
        return self.embedding(ids.to(self.device)).float()

    @torch.no_grad()
    def states(
        self, ids: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """What the codec gets of left-padded rows, in float32: token embeddings, or states after the first `sender_blocks`."""
        embeddings = self.embed(ids)
        if not self.sender_blocks:
            return embeddings
        mask = mask.to(self.device)
        if not self.batchable and len(mask) > 1:
            for i, (row, real) in enumerate(_rows(ids.to(self.device), mask)):
                embeddings[i, mask[i]] = self.states(row, real)[0]
            return embeddings
        return states_before(
            self.model,
            blocks(self.model)[self.sender_blocks],
            inputs_embeds=embeddings.to(self.model.dtype),
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            use_cache=False,
        ).float()

    @contextmanager
    def _entered(
        self, states: Float[Tensor, "batch seq hidden"], ids: Int[Tensor, "batch seq"] | None
    ) -> Iterator[Float[Tensor, "batch seq hidden"]]:
        """The embeddings to run the model on so that it reads `states`, which are embeddings unless there are sender blocks.

        Sender blocks run on the tokens `ids`, so their keys and values are the original ones; the block after them reads
        `states`. Without `ids`, `states` are embeddings in any case.
        """
        if ids is None or not self.sender_blocks:
            yield states
            return
        with replaced(blocks(self.model)[self.sender_blocks], states):
            yield self.embed(ids)

    @cached_property
    def vocabulary(self) -> Float[Tensor, "vocab hidden"]:
        """The embedding of every token of the tokenizer."""
        return self.embed(torch.arange(len(self.tokenizer)))

    @cached_property
    def nearest(self) -> NearestTokens:
        """The search for the token whose embedding is nearest to a vector."""
        return NearestTokens(self.embed(torch.arange(len(self.tokenizer))))

    def logits(
        self, embeddings: Float[Tensor, "batch seq hidden"], mask: Bool[Tensor, "batch seq"], last: int
    ) -> Float[Tensor, "batch last vocab"]:
        """Next-token logits at the last `last` positions of left-padded rows, in float32.

        Positions count from each row's first real token, as `generate` counts them.
        """
        if self.batchable or len(mask) == 1:
            return self._logits(embeddings, mask, last)
        rows = [self._logits(*row, last)[0] for row in _rows(embeddings, mask)]
        return torch.stack([nn.functional.pad(row, (0, 0, last - len(row), 0)) for row in rows])

    def logits_at(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        wanted: Bool[Tensor, "batch last"],
        shared: tuple[int, ...] = (),
        ids: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "n vocab"]:
        """Next-token logits at those of the last positions that are `wanted`, row by row.

        The head is applied to these positions only: with a vocabulary of 262,144, the logits of one position take 1 MiB. All
        rows begin with the tokens `shared`, whose keys and values are computed once; no gradient reaches their embeddings.
        With `ids`, the rows' tokens, `embeddings` are what `states` returns or a codec makes of it.
        """
        if not self.batchable and len(mask) > 1:
            rows = zip(_rows(embeddings, mask), wanted, _each(ids, mask), strict=True)
            return torch.cat([self.logits_at(*row, on[None, -row[1].shape[1] :], (), own) for row, on, own in rows])

        def choose(head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0][wanted][None],)

        cache = self._read_before(mask, shared, FixedLayer)
        hook = cast(nn.Module, self.model.get_output_embeddings()).register_forward_pre_hook(choose)
        try:
            with self._entered(embeddings, ids) as entered:
                return self._logits(entered, mask, wanted.shape[1], cache)[0]
        finally:
            hook.remove()

    def _logits(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        last: int,
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "rows kept vocab"]:
        positions = _positions(mask)
        known = cache.get_seq_length() if cache is not None else 0
        output = self.model(
            inputs_embeds=embeddings[:, known:].to(self.model.dtype),
            attention_mask=mask.long(),
            position_ids=positions[:, known:],
            logits_to_keep=last,
            use_cache=cache is not None,
            past_key_values=cache,
        )
        return output.logits.float()

    def _read_before(
        self, mask: Bool[Tensor, "batch seq"], shared: tuple[int, ...], kind: type[DynamicLayer]
    ) -> DynamicCache | None:
        """Key-value cache of the first columns of left-padded rows that begin with `shared`; `None` if the model can't use it."""
        if not shared or not self.batchable:
            return None
        if shared not in self._prefixes:
            self._prefixes.clear()
            self._prefixes[shared] = shareable(self, shared)
        prefix = self._prefixes[shared]
        return prefix.cache(mask, kind) if prefix else None

    def continues(self, ids: Sequence[int]) -> bool:
        """Whether the model, in a test, goes on from keys and values of `ids` as from whole prompts; never from states."""
        if self.sender_blocks:
            return False
        asked = tuple(ids)
        if asked not in self._continues:
            self._continues[asked] = self.batchable and shareable(self, asked) is not None
        return self._continues[asked]

    def _read_once(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        shared: tuple[int, ...],
        alike: Sequence[int],
    ) -> DynamicCache | None:
        """As `_read_before`; what rows of the same number in `alike` begin with is read once, too."""
        if len(set(alike)) == len(alike):
            return self._read_before(mask, shared, DynamicLayer)
        beginnings = Beginnings.of(embeddings, mask, alike)
        columns = beginnings.places.shape[1]
        if columns <= len(shared):
            return self._read_before(mask, shared, DynamicLayer)
        leading, real = embeddings[beginnings.leaders, :columns], mask[beginnings.leaders, :columns]
        cache = self._read_before(real, shared, DynamicLayer)
        cache = DynamicCache() if cache is None else cache
        self._logits(leading, real, 1, cache)
        return beginnings.spread(cache)

    def checkpoint_gradients(self) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them (Chen et al. 2016, arXiv:1604.06174).

        transformers' own switch works only in training mode, which turns dropout on in some families.
        """
        for block in blocks(self.model):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    @torch.no_grad()
    def generate(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        max_new_tokens: int,
        stop: Stop = "line",
        shared: tuple[int, ...] = (),
        alike: Sequence[int] = (),
        ids: Int[Tensor, "batch seq"] | None = None,
    ) -> list[Reply]:
        """Greedy answers to left-padded prompts given as embeddings; `stop` says where an answer ends.

        All prompts begin with the tokens `shared`, whose keys and values are computed once if the model can continue from them.
        Prompts of the same number in `alike` have a context in common: the embeddings that they all begin with are read once. It
        must be empty unless the model `continues`.
        With `ids`, the prompts' tokens, `embeddings` are what `states` returns or a codec makes of it; new tokens run through
        all blocks.
        `generate(inputs_embeds=...)` returns new tokens only, so no prompt must be cut off its output.
        """
        if not self.batchable and len(mask) > 1:
            rows = zip(_rows(embeddings, mask), _each(ids, mask), strict=True)
            return [self.generate(*row, max_new_tokens, stop, ids=own)[0] for row, own in rows]
        cache = self._read_once(embeddings, mask, shared, alike)
        with self._entered(embeddings, ids) as entered:
            tokens = self.model.generate(  # type: ignore[operator]
                inputs_embeds=entered.to(self.model.dtype),
                attention_mask=mask.long(),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([TextEnd.of_answer(self.tokenizer, stop, 0)]),
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.pad_id,
                **({} if cache is None else {"past_key_values": cache}),
            )
        return self.replies(tokens, stop)

    @torch.no_grad()
    def sample(
        self,
        ids: Int[Tensor, "batch seq"],
        mask: Bool[Tensor, "batch seq"],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        stop_strings: Sequence[str],
    ) -> Int[Tensor, "batch new"]:
        """New tokens of left-padded prompts, each row up to EOS or a stop string, then filled with `pad_id`.

        Greedy at temperature 0; otherwise row `i` draws from a generator of its own, seeded with `seeds[i]`.
        """
        if not self.batchable and len(mask) > 1:
            rows = zip(_rows(ids, mask), seeds, strict=True)
            found = [self.sample(*row, max_new_tokens, temperature, [seed], stop_strings)[0] for row, seed in rows]
            return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=self.pad_id)
        noise = [SeededRows(temperature, seeds, self.device)] if temperature else []
        tokens = self.model.generate(  # type: ignore[operator]
            input_ids=ids.to(self.device),
            attention_mask=mask.long().to(self.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList(noise),
            stopping_criteria=StoppingCriteriaList([TextEnd.at_strings(self.tokenizer, stop_strings, ids.shape[1])]),
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.pad_id,
        )
        return tokens[:, ids.shape[1] :]

    @torch.no_grad()
    def generate_from_ids(self, ids: Sequence[int], max_new_tokens: int, stop: Stop = "line") -> Reply:
        """The greedy answer to one prompt given as token ids.

        It involves neither embeddings nor padding, so `generate` should give the same answer from the original embeddings.
        """
        prompt = torch.tensor([ids], device=self.device)
        tokens = self.model.generate(  # type: ignore[operator]
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([TextEnd.of_answer(self.tokenizer, stop, len(ids))]),
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.pad_id,
        )
        return self.replies(tokens[:, len(ids) :], stop)[0]

    def replies(self, tokens: Int[Tensor, "batch new"], stop: Stop) -> list[Reply]:
        """The answers in rows of generated tokens, which end at EOS or where `stop` says."""
        found = []
        for text, ids in zip(decode_rows(self.tokenizer, tokens), tokens.tolist(), strict=True):
            answer, ended = until_end(text, stop)
            found.append(Reply(answer, cut=not ended and self.tokenizer.eos_token_id not in ids))
        return found


def _read_weights(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    source = locate(name)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.name,
            revision=source.revision,
            config=config,
            dtype=best_dtype(),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # any exception, from libraries for many formats
        raise refusal(name, error) from None
    model, report = loaded
    if lost := report["missing_keys"]:
        raise InputError(
            f"base_model {name} lacks {len(lost)} of its weights, {min(lost)} among them; download or save it again"
        )
    return cast(PreTrainedModel, model)


def _rows(padded: Tensor, mask: Bool[Tensor, "batch seq"]) -> Iterator[tuple[Tensor, Bool[Tensor, "1 length"]]]:
    """Each row of a left-padded batch by itself, without its padding, and its mask."""
    for row, real in zip(padded, mask, strict=True):
        yield row[real][None], real[real][None]


def _each(ids: Tensor | None, mask: Bool[Tensor, "batch seq"]) -> Sequence[Tensor | None]:
    """Each row of `ids` by itself, without its padding, if there are `ids`."""
    return [None] * len(mask) if ids is None else [row for row, _ in _rows(ids.to(mask.device), mask)]


def _positions(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions in left-padded rows, counted from each row's first real token."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
