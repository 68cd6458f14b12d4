"""What is stored of a completion, kept or not: everything that one needs to make it again."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from narrowband.sft.backend import Continuation, Sampling
from narrowband.sft.filters import clean
from narrowband.sft.instructions import Instruction
from narrowband.sft.prompts import Prompt, formatted_text


class Candidate(NamedTuple):
    """An instruction with the prompt it is fed as; `number` counts the candidates of a run, `seed` draws its completion."""

    number: int
    instruction: Instruction
    prompt: Prompt
    seed: int


class Margins(NamedTuple):
    """What the critic made of the instruction and of the pair, in nats."""

    instruction: float
    pair: float


def make_record(
    candidate: Candidate, said: Continuation, margins: Margins | None, sampling: Sampling, source: Mapping[str, Any]
) -> dict[str, Any]:
    """One line of `train.jsonl` or `rejected.jsonl`; `source` names backend, prompt style and model.

    `prompt` is `few_shot` or `zero_shot` of the instruction, `response` is `clean(completion)`, and `formatted_text` is
    `formatted_text` of type, instruction and response. What never reached the critic has no margins.
    """
    text, kind = candidate.instruction.text, candidate.instruction.kind
    response = clean(said.text)
    return {
        "id": f"sft-{candidate.number:06d}",
        "instruction": text,
        "instruction_type": kind,
        "category": candidate.instruction.category,
        "instruction_source": candidate.instruction.source,
        "prompt": candidate.prompt.text,
        "completion": said.text,
        "response": response,
        "formatted_text": formatted_text(kind, text, response),
        "few_shot_ids": [example.id for example in candidate.prompt.examples],
        "finish_reason": said.finish,
        "critic": (margins or Margins(None, None))._asdict(),  # type: ignore[arg-type]
        "seed": candidate.seed,
        "sampling": {**sampling._asdict(), "stop_strings": list(sampling.stop_strings)},
        **source,
    }
