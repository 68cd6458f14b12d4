"""Rounds in which instructions become prompts, completions and records, until there are as many as asked for."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from narrowband.data.squad import Example
from narrowband.lm.sampling import Sampling
from narrowband.params import Data, InputError
from narrowband.sft.backend import Continuation
from narrowband.sft.counts import Counts
from narrowband.sft.critic import Critic, Reliability
from narrowband.sft.filters import BLANK_LINE, STOP_STRINGS, Contamination, Distinct, clean
from narrowband.sft.instructions import (
    Instruction,
    Supply,
    list_prompt,
    read_instructions,
    read_list,
    reading,
    shuffled,
    well_formed,
)
from narrowband.sft.model import PlainModel
from narrowband.sft.nonsense import Nonsense
from narrowband.sft.pool import CompletionPrompts, FewShotExample, read_pool
from narrowband.sft.records import Candidate, Margins, make_record

LISTS = Sampling(temperature=1.0, max_new_tokens=64, stop_strings=(BLANK_LINE,))
PER_LIST = 8
"""Candidates in a round per list that the model is asked to continue."""

GIVE_UP = 1000
"""A run ends after this many candidates in a row without one that is kept."""

ROUND_BATCHES = 4
"""Maximum number of batches in a round; the candidates of a round are filtered and written together."""


class Inputs(NamedTuple):
    """What records are made from: few-shot examples, the pool's instructions, training questions, and the test split."""

    pool: Sequence[FewShotExample]
    instructions: Sequence[Instruction]
    reading: Sequence[Instruction]
    test: Contamination


def read_inputs(data: Data, readings: Sequence[Example], test: Sequence[Example]) -> Inputs:
    """The pools that `data` names, training questions to ask, and the test split that no record may overlap.

    Raises:
        InputError: a pool can't be used.
    """
    pool, instructions = read_pool(Path(data.few_shot_pool)), read_instructions(Path(data.instruction_pool))
    return Inputs(pool, instructions, reading(readings), Contamination(test))


class SftRun:
    """The writing of records; each repeats `provenance`, which says who wrote it and how it was prompted."""

    def __init__(self, model: PlainModel, data: Data, seed: int, inputs: Inputs, provenance: Mapping[str, Any]) -> None:
        self.model = model
        self.data = data
        self.seed = seed
        self.inputs = inputs
        self.provenance = provenance
        self.prompts = CompletionPrompts(data.prompt_style, inputs.pool)
        self.sampling = Sampling(data.sft_temperature, data.sft_max_new_tokens, STOP_STRINGS)
        self.critic = Critic(model, inputs.pool, seed)
        self.nonsense = Nonsense(inputs.pool)
        self.supply = Supply()
        self.supply.add(shuffled(inputs.instructions, seed))
        self.supply.add(inputs.reading)
        self.distinct = Distinct()
        self.counts = Counts()
        self.malformed = self.lossy = self.too_long = 0
        self._lists = self._candidates = 0
        self._model_has_more = True

    @cached_property
    def reliability(self) -> Reliability:
        """How well the critic judges the pool's own texts; it abstains where that is not well enough."""
        return self.critic.reliability()

    def write(self, train: TextIO, rejected: TextIO, advance: Callable[[int], None]) -> None:
        """Write `data.sft_records` records to `train`, and all other candidates to `rejected`.

        Raises:
            InputError: the pilot misses a gate, or the instructions run out.
        """
        gates = self.data.gates
        piloting, fertile = True, 0
        while (before := self.counts.kept.total()) < self.data.sft_records:
            if self._candidates - fertile >= GIVE_UP:
                raise self._ran_out()
            for record, reason in self._round(gates.pilot if piloting else self._size()):
                file, line = (rejected, {"reason": reason, **record}) if reason else (train, record)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self.counts.add(record, reason)
                advance(not reason)
            if piloting:
                self.counts.check(gates)
                piloting = False
            if self.counts.kept.total() > before:
                fertile = self._candidates

    def figures(self) -> dict[str, Any]:
        """The figures of `Counts`, with numbers of used and dropped instructions."""
        figures = self.counts.figures()
        taken = {who: self.supply.taken[who] for who in ("pool", "model", "reading")}
        dropped = {
            "duplicate": self.supply.duplicates,
            "malformed": self.malformed,
            "lossy": self.lossy,
            "too_long": self.too_long,
        }
        return {**figures, "counts": {**figures["counts"], "instructions": {**taken, **dropped}}}

    def _size(self) -> int:
        """Candidates that should yield the missing records, judging by the yield so far; at most a full round."""
        missing = self.data.sft_records - self.counts.kept.total()
        expected = -(-missing * self.counts.candidates // max(1, self.counts.kept.total()))
        batch = self.model.limits.batch_size
        return max(min(expected, ROUND_BATCHES * batch), batch // 4, 1)

    def _round(self, size: int) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Records of `size` candidates, each with the reason for its rejection, or None if it is kept."""
        self._ask_for_instructions(-(-size // PER_LIST))
        candidates = self._candidates_for(self.supply.take(self.counts.kept, size))
        said = self.model.complete([c.prompt.text for c in candidates], [c.seed for c in candidates], self.sampling)
        reasons = [self._fault(*pair) for pair in zip(candidates, said, strict=True)]
        good = [i for i, reason in enumerate(reasons) if not reason]
        margins = dict(zip(good, self._margins([candidates[i] for i in good], [said[i] for i in good]), strict=True))
        for i, candidate in enumerate(candidates):
            record = make_record(candidate, said[i], margins.get(i), self.sampling, self.provenance)
            yield record, reasons[i] or self._critics_reason(record, margins[i])

    def _ask_for_instructions(self, lists: int) -> None:
        """Let the model continue numbered lists of instructions, unless it added nothing new last time."""
        if not self._model_has_more:
            return
        seeds = [self._seed("list", self._lists + i) for i in range(lists)]
        self._lists += lists
        said = self.model.complete([list_prompt(self.inputs.pool, seed) for seed in seeds], seeds, LISTS)
        texts = [text for one in said for text in read_list(one)]
        fit = [text for text in texts if well_formed(text)]
        self.malformed += len(texts) - len(fit)
        self._model_has_more = self.supply.add(Instruction(text, "open", "model") for text in fit) > 0

    def _candidates_for(self, instructions: Sequence[Instruction]) -> list[Candidate]:
        """Candidates whose prompts the tokenizer does not change and which have at most `max_length` tokens.

        Raises:
            InputError: there are no instructions left, or the tokenizer changes one of the pool's.
        """
        if not instructions:
            raise self._ran_out()
        candidates = []
        for instruction in instructions:
            seed = self._seed("sft", self._candidates)
            prompt = self.prompts.build(instruction.kind, instruction.text, seed)
            candidates.append(Candidate(self._candidates, instruction, prompt, seed))
            self._candidates += 1
        exact = self._exact(candidates)
        rows = self.model.encode([candidate.prompt.text for candidate in exact])
        longest = self.model.limits.max_length
        fit = [candidate for candidate, ids in zip(exact, rows, strict=True) if len(ids) <= longest]
        self.too_long += len(exact) - len(fit)
        return fit

    def _exact(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates without those whose prompts the tokenizer changes; the pool's stay, so that their file gets fixed."""
        same = self.model.are_exact([candidate.prompt.text for candidate in candidates])
        exact = [
            one for one, alike in zip(candidates, same, strict=True) if alike or one.instruction.asked_by == "pool"
        ]
        self.lossy += len(candidates) - len(exact)
        return exact

    def _ran_out(self) -> InputError:
        kept = self.counts.kept.total()
        return InputError(
            f"data.sft_records {self.data.sft_records} is more than the {kept} clean, distinct records that these "
            f"instructions gave; lower it, or add to {self.data.instruction_pool}"
        )

    def _seed(self, purpose: str, index: int) -> int:
        return zlib.crc32(f"{self.seed}/{purpose}/{index}".encode())

    def _fault(self, candidate: Candidate, said: Continuation) -> str | None:
        text = candidate.instruction.text
        reason = self.nonsense.fault(said, text, candidate.prompt.examples)
        if reason:
            return reason
        pair = f"{text} {clean(said.text)}"
        if self.inputs.test.overlaps(pair):
            return "test_overlap"
        return None if all(self.model.are_exact([pair])) else "lossy"

    def _margins(self, candidates: Sequence[Candidate], said: Sequence[Continuation]) -> list[Margins]:
        texts = [candidate.instruction.text for candidate in candidates]
        pairs = self.critic.pair_margins(texts, [clean(one.text) for one in said])
        return [Margins(*both) for both in zip(self.critic.instruction_margins(texts), pairs, strict=True)]

    def _critics_reason(self, record: Mapping[str, Any], margins: Margins) -> str | None:
        """Why a well-formed response is rejected, or None."""
        minimum = self.data.critic
        if self.reliability.judges_instructions and margins.instruction < minimum.instruction:
            return "critic_instruction"
        if self.reliability.judges_pairs and margins.pair < minimum.pair:
            return "critic_pair"
        if self.counts.kept.total() >= self.data.sft_records:
            return "surplus"
        return None if self.distinct.add(f"{record['instruction']} {record['response']}") else "near_duplicate"
