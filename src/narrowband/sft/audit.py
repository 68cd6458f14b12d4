"""Checks the written records against the claims made about them."""

import json
from collections.abc import Mapping
from pathlib import Path

from narrowband.sft.filters import Contamination, has_residue
from narrowband.sft.pool import FewShotExample, few_shot, formatted_text, zero_shot


def audit(path: Path, pool: Mapping[str, FewShotExample], test: Contamination) -> dict[str, int]:
    """Number of records that break each claim; all 0 if all is well.

    `prompts`: does not follow from few-shot ids, type and instruction. `formatted_texts`: does not follow from type,
    instruction and response. `delimiters`: some are left in the response. `test_overlaps`: shares eight words in a row
    with the test split, as `Contamination` counts them. `duplicates`: repeats an earlier record.
    """
    broken = dict.fromkeys(("prompts", "formatted_texts", "delimiters", "test_overlaps", "duplicates"), 0)
    seen: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            kind, instruction, response = (record[key] for key in ("instruction_type", "instruction", "response"))
            examples = [pool[id] for id in record["few_shot_ids"]]
            prompt = few_shot(examples, instruction) if examples else zero_shot(kind, instruction)
            text = formatted_text(kind, instruction, response)
            broken["prompts"] += record["prompt"] != prompt
            broken["formatted_texts"] += record["formatted_text"] != text
            broken["delimiters"] += has_residue(response)
            broken["test_overlaps"] += test.overlaps(f"{instruction} {response}")
            broken["duplicates"] += text in seen
            seen.add(text)
    return broken
