"""The run: instructions to prompts to completions to records, in rounds, until there are as many as asked for."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from narrowband.params import InputError, Params
from narrowband.sft.backend import Continuation, Sampling
from narrowband.sft.critic import Critic
from narrowband.sft.filters import BLANK_LINE, STOP_STRINGS, Contamination, Distinct, clean, fault
from narrowband.sft.instructions import Instruction, Supply, list_prompt, read_list, shuffled, well_formed
from narrowband.sft.model import PlainModel
from narrowband.sft.prompts import CompletionPrompts, FewShotExample
from narrowband.sft.records import Candidate, Margins, make_record
from narrowband.sft.report import Report

LISTS = Sampling(temperature=1.0, max_new_tokens=64, stop_strings=(BLANK_LINE,))
PER_LIST = 8
"""Candidates of a round for each list that the model is asked for."""

GIVE_UP = 1000
"""Candidates in a row of which none is kept, after which a run ends."""

ROUND_BATCHES = 4
"""Batches a round, at the most; a round is what is journalled, filtered and written together."""


class Sources(NamedTuple):
    """What a run draws on: few-shot examples, instructions of the pool, training questions, and the test split to avoid."""

    pool: Sequence[FewShotExample]
    instructions: Sequence[Instruction]
    reading: Sequence[Instruction]
    test: Contamination


class Run:
    """A run in progress; `source` is what every record says of backend, prompt style and model."""

    def __init__(self, model: PlainModel, params: Params, sources: Sources, source: dict[str, Any]) -> None:
        self.model = model
        self.params = params
        self.sources = sources
        self.source = source
        self.prompts = CompletionPrompts(params.data.prompt_style, sources.pool)
        self.sampling = Sampling(params.data.sft_temperature, params.data.sft_max_new_tokens, STOP_STRINGS)
        self.critic = Critic(model, sources.pool, params.seed)
        self.supply = Supply()
        self.supply.add(shuffled(sources.instructions, params.seed))
        self.supply.add(sources.reading)
        self.distinct = Distinct()
        self.report = Report()
        self.malformed = self.too_long = 0
        self._lists = self._candidates = 0
        self._model_has_more = True

    def write(self, train: TextIO, rejected: TextIO, advance: Callable[[int], None]) -> None:
        """Write `data.sft_records` records to `train`, and whatever is no record to `rejected`.

        Raises:
            InputError: the pilot misses a gate, or the instructions run out.
        """
        gates = self.params.data.gates
        piloting, fertile = True, 0
        while (before := self.report.kept.total()) < self.params.data.sft_records:
            if self._candidates - fertile >= GIVE_UP:
                raise self._ran_out()
            for record, reason in self._round(gates.pilot if piloting else self._size()):
                file, line = (rejected, {"reason": reason, **record}) if reason else (train, record)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self.report.add(record, reason)
                advance(not reason)
            if piloting:
                self.report.check(gates)
                piloting = False
            if self.report.kept.total() > before:
                fertile = self._candidates

    def figures(self) -> dict[str, Any]:
        """The report's figures, with what became of instructions."""
        figures = self.report.figures()
        taken = {source: self.supply.taken[source] for source in ("pool", "model", "reading")}
        dropped = {"duplicate": self.supply.duplicates, "malformed": self.malformed, "too_long": self.too_long}
        return {**figures, "counts": {**figures["counts"], "instructions": {**taken, **dropped}}}

    def _size(self) -> int:
        """Candidates that should yield what is missing, going by the yield so far, but no more than a full round."""
        missing = self.params.data.sft_records - self.report.kept.total()
        expected = -(-missing * self.report.candidates // max(1, self.report.kept.total()))
        batch = self.params.generation.batch_size
        return max(min(expected, ROUND_BATCHES * batch), batch // 4, 1)

    def _round(self, size: int) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Records of `size` candidates, each with the reason why it is not kept, if it is not."""
        self._ask_for_instructions(-(-size // PER_LIST))
        candidates = self._candidates_for(self.supply.take(self.report.kept, size))
        said = self.model.complete([c.prompt.text for c in candidates], [c.seed for c in candidates], self.sampling)
        reasons = [self._fault(*pair) for pair in zip(candidates, said, strict=True)]
        good = [i for i, reason in enumerate(reasons) if not reason]
        margins = dict(zip(good, self._margins([candidates[i] for i in good], [said[i] for i in good]), strict=True))
        for i, candidate in enumerate(candidates):
            record = make_record(candidate, said[i], margins.get(i), self.sampling, self.source)
            yield record, reasons[i] or self._verdict(record, margins[i])

    def _ask_for_instructions(self, lists: int) -> None:
        """Let the model go on with numbered lists, until all that it adds is known."""
        if not self._model_has_more:
            return
        seeds = [self._seed("list", self._lists + i) for i in range(lists)]
        self._lists += lists
        said = self.model.complete([list_prompt(self.sources.pool, seed) for seed in seeds], seeds, LISTS)
        texts = [text for one in said for text in read_list(one)]
        fit = [text for text in texts if well_formed(text)]
        self.malformed += len(texts) - len(fit)
        self._model_has_more = self.supply.add(Instruction(text, "open", "model") for text in fit) > 0

    def _candidates_for(self, instructions: Sequence[Instruction]) -> list[Candidate]:
        """Candidates with prompts of at most `prompt.max_length` tokens.

        Raises:
            InputError: there are no instructions any more.
        """
        if not instructions:
            raise self._ran_out()
        candidates = []
        for instruction in instructions:
            seed = self._seed("sft", self._candidates)
            prompt = self.prompts.build(instruction.kind, instruction.text, seed)
            candidates.append(Candidate(self._candidates, instruction, prompt, seed))
            self._candidates += 1
        lengths = self.model.lengths([candidate.prompt.text for candidate in candidates])
        fit = [c for c, n in zip(candidates, lengths, strict=True) if n <= self.params.prompt.max_length]
        self.too_long += len(candidates) - len(fit)
        return fit

    def _ran_out(self) -> InputError:
        kept = self.report.kept.total()
        return InputError(
            f"data.sft_records {self.params.data.sft_records} is more than the {kept} clean, distinct records that these "
            f"instructions gave; lower it, or add to {self.params.data.instruction_pool}"
        )

    def _seed(self, purpose: str, index: int) -> int:
        return zlib.crc32(f"{self.params.seed}/{purpose}/{index}".encode())

    def _fault(self, candidate: Candidate, said: Continuation) -> str | None:
        text = candidate.instruction.text
        reason = fault(said, text, [example.completion for example in candidate.prompt.examples])
        if not reason and self.sources.test.overlaps(f"{text} {clean(said.text)}"):
            return "test_overlap"
        return reason

    def _margins(self, candidates: Sequence[Candidate], said: Sequence[Continuation]) -> list[Margins]:
        texts = [candidate.instruction.text for candidate in candidates]
        pairs = self.critic.pair_margins(texts, [clean(one.text) for one in said])
        return [Margins(*both) for both in zip(self.critic.instruction_margins(texts), pairs, strict=True)]

    def _verdict(self, record: dict[str, Any], margins: Margins) -> str | None:
        """What speaks against a response that is well formed, if anything."""
        least = self.params.data.critic
        if margins.instruction < least.instruction:
            return "critic_instruction"
        if margins.pair < least.pair:
            return "critic_pair"
        if self.report.kept.total() >= self.params.data.sft_records:
            return "surplus"
        return None if self.distinct.add(f"{record['instruction']} {record['response']}") else "near_duplicate"
