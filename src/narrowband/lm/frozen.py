"""The frozen language model: embeddings or states in, logits and greedy answers out."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from narrowband.lm.base_model import id_count, load_tokenizer, model_config, require_embeddings
from narrowband.lm.loading import load_frozen
from narrowband.lm.nearest import NearestTokens
from narrowband.lm.prefill import prefill, prefix_cache
from narrowband.lm.prefix import FixedLayer, Prefix
from narrowband.lm.probe import batchable
from narrowband.lm.rows import UNKNOWN, KnownTokens, ids_of_rows, positions, single_rows
from narrowband.lm.split import blocks, entered, require_source, states_before
from narrowband.lm.stop import Reply, TextEnd, decode_rows, until_end
from narrowband.params import EMBEDDINGS, InputError, Stop
from narrowband.runtime import distributed


@dataclass
class FrozenLM:
    """A causal LM whose weights never change, on the best device there is, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batchable: bool = True
    """Whether prompts may be left-padded to a batch; a model whose answers change with padding gets one prompt at a time."""
    sender_blocks: int = 0
    """Blocks that run before the codec, which gets the states after them; with 0 it gets token embeddings."""
    prefix: tuple[tuple[int, ...], Prefix | None] = field(default=((), None), init=False, repr=False)
    """The last shared first tokens with their keys and values, which are `None` if the model can't continue from them."""
    continued: dict[tuple[int, ...], bool] = field(default_factory=dict, init=False, repr=False)
    """Whether the model goes on from keys and values of these tokens, for all that were tested; see `prefill.continues`."""

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
        model = load_frozen(name, config)
        lm = cls(model, tokenizer, sender_blocks=require_source(model, source))
        if lm.sender_blocks and distributed.sharded():
            raise InputError(f"source {source} can't be used with --use_fsdp; start the stage without it")
        require_embeddings(name, tokenizer, lm.embedding.num_embeddings)
        lm.batchable = batchable(name, lm)
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
            for i, (row, real) in enumerate(single_rows(ids.to(self.device), mask)):
                embeddings[i, mask[i]] = self.states(row, real)[0]
            return embeddings
        return states_before(
            self.model,
            blocks(self.model)[self.sender_blocks],
            inputs_embeds=embeddings.to(self.model.dtype),
            attention_mask=mask.long(),
            use_cache=False,
            **self._places(mask),
        ).float()

    @cached_property
    def vocabulary(self) -> Float[Tensor, "vocab hidden"]:
        """The embedding of every id up to the highest of the tokenizer."""
        return self.embed(torch.arange(id_count(self.tokenizer)))

    @cached_property
    def nearest(self) -> NearestTokens:
        """The search for the token whose embedding is nearest to a vector."""
        return NearestTokens(self.vocabulary)

    def logits(
        self, embeddings: Float[Tensor, "batch seq hidden"], mask: Bool[Tensor, "batch seq"], last: int
    ) -> Float[Tensor, "batch last vocab"]:
        """Next-token logits at the last `last` positions of left-padded rows, in float32.

        Positions count from each row's first real token, as `generate` counts them.
        """
        if self.batchable or len(mask) == 1:
            return self.forward(embeddings, mask, last)
        rows = [self.forward(*row, last)[0] for row in single_rows(embeddings, mask)]
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
            rows = zip(single_rows(embeddings, mask), wanted, ids_of_rows(ids, mask), strict=True)
            return torch.cat([self.logits_at(*row, on[None, -row[1].shape[1] :], (), own) for row, on, own in rows])

        def choose(head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0][wanted][None],)

        cache = prefix_cache(self, mask, shared, FixedLayer)
        hook = cast(nn.Module, self.model.get_output_embeddings()).register_forward_pre_hook(choose)
        try:
            with entered(self, embeddings, ids) as given:
                return self.forward(given, mask, wanted.shape[1], cache)[0]
        finally:
            hook.remove()

    def forward(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        last: int,
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "rows kept vocab"]:
        """As `logits`, in one call of the model; a key-value `cache` holds the first columns, and is extended."""
        known = cache.get_seq_length() if cache is not None else 0
        output = self.model(
            inputs_embeds=embeddings[:, known:].to(self.model.dtype),
            attention_mask=mask.long(),
            logits_to_keep=last,
            use_cache=cache is not None,
            past_key_values=cache,
            **self._places(mask, known),
        )
        return output.logits.float()

    def _places(self, mask: Bool[Tensor, "batch seq"], known: int = 0) -> dict[str, Tensor]:
        """Positions of all columns but the first `known`, for a model that is told them (Bloom, MPT and Mamba are not)."""
        told = "position_ids" in inspect.signature(self.model.forward).parameters
        return {"position_ids": positions(mask)[:, known:]} if told else {}

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
        known: KnownTokens = UNKNOWN,
    ) -> list[Reply]:
        """Greedy answers to left-padded prompts given as embeddings; `stop` says where an answer ends.

        Keys and values of `known.shared` are computed once if the model can continue from them; of prompts of the same number in
        `known.alike`, the embeddings that they all begin with are read once. With `known.ids`, `embeddings` are what `states`
        returns or a codec makes of it; new tokens run through all blocks.
        """
        if not self.batchable and len(mask) > 1:
            rows = zip(single_rows(embeddings, mask), ids_of_rows(known.ids, mask), strict=True)
            return [self.generate(*row, max_new_tokens, stop, KnownTokens(ids=own))[0] for row, own in rows]
        cache = prefill(self, embeddings, mask, known)
        with entered(self, embeddings, known.ids) as given:
            tokens = self.greedy(
                TextEnd.of_answer(self.tokenizer, stop, 0),
                max_new_tokens,
                inputs_embeds=given.to(self.model.dtype),
                attention_mask=mask.long(),
                **({} if cache is None else {"past_key_values": cache}),
            )
        return self.replies(tokens, stop)

    @torch.no_grad()
    def generate_from_ids(self, ids: Sequence[int], max_new_tokens: int, stop: Stop = "line") -> Reply:
        """The greedy answer to one prompt given as token ids.

        It involves neither embeddings nor padding, so `generate` should give the same answer from the original embeddings.
        """
        prompt = torch.tensor([ids], device=self.device)
        end = TextEnd.of_answer(self.tokenizer, stop, len(ids))
        tokens = self.greedy(end, max_new_tokens, input_ids=prompt, attention_mask=torch.ones_like(prompt))
        return self.replies(tokens[:, len(ids) :], stop)[0]

    @torch.no_grad()
    def greedy(self, end: TextEnd, max_new_tokens: int, **prompt: Any) -> Int[Tensor, "batch seq"]:
        """Continue left-padded prompts greedily, each row up to EOS or its `end`; then it is filled with `pad_id`.

        The rows are those of transformers' `generate`: with `input_ids` they begin with the prompt, with `inputs_embeds` they
        hold new tokens only, so no prompt must be cut off.
        """
        tokens: Tensor = self.model.generate(  # type: ignore[operator]
            **prompt,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([end]),
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.pad_id,
        )
        return tokens

    def replies(self, tokens: Int[Tensor, "batch new"], stop: Stop) -> list[Reply]:
        """The answers in rows of generated tokens, which end at EOS or where `stop` says."""
        found = []
        for text, ids in zip(decode_rows(self.tokenizer, tokens), tokens.tolist(), strict=True):
            answer, ended = until_end(text, stop)
            found.append(Reply(answer, cut=not ended and self.tokenizer.eos_token_id not in ids))
        return found
