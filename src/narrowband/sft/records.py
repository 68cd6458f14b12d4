"""What is stored for a completion, kept or rejected: everything needed to generate it again."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from narrowband.lm.sampling import Sampling
from narrowband.sft.backend import Continuation
from narrowband.sft.filters import clean
from narrowband.sft.instructions import Instruction
from narrowband.sft.pool import SftPrompt, formatted_text


class Candidate(NamedTuple):
    """An instruction and its prompt; `number` counts the candidates of a run, `seed` draws the completion."""

    number: int
    instruction: Instruction
    prompt: SftPrompt
    seed: int


class Margins(NamedTuple):
    """The critic's margins of the instruction and of the instruction with its response, in nats."""

    instruction: float
    pair: float


def make_record(
    candidate: Candidate, said: Continuation, margins: Margins | None, sampling: Sampling, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """One line of `train.jsonl` or `rejected.jsonl`; `provenance` names backend, prompt style, BOS and model.

    `prompt` is `few_shot` or `zero_shot` of the instruction, `response` is `clean(completion)`, and `formatted_text` is
    `formatted_text` of type, instruction and response. Candidates rejected before the critic have no margins.
    """
    text, kind = candidate.instruction.text, candidate.instruction.kind
    response = clean(said.text)
    return {
        "id": f"sft-{candidate.number:06d}",
        "instruction": text,
        "instruction_type": kind,
        "category": candidate.instruction.category,
        "instruction_source": candidate.instruction.asked_by,
        "prompt": candidate.prompt.text,
        "completion": said.text,
        "response": response,
        "formatted_text": formatted_text(kind, text, response),
        "few_shot_ids": [example.id for example in candidate.prompt.examples],
        "finish_reason": said.finish,
        "critic": (margins or Margins(None, None))._asdict(),  # type: ignore[arg-type]
        "seed": candidate.seed,
        "sampling": {**sampling._asdict(), "stop_strings": list(sampling.stop_strings)},
        **provenance,
    }
