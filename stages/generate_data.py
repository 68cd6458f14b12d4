"""Write the three QA splits, and the SFT records that the base model completes."""

import json
from pathlib import Path

from narrowband.data.qa import make_splits
from narrowband.data.sft import generate_records, read_pool
from narrowband.data.squad import write_squad
from narrowband.files import write_text
from narrowband.lm import FrozenLM
from narrowband.params import load_params
from narrowband.progress import bar
from narrowband.stage import console, run, set_up_torch


def main(qa: Path, sft: Path) -> None:
    """Write {train,validation,test}.json to the folder QA and train.jsonl to the folder SFT."""
    set_up_torch()
    params = load_params()
    pool = read_pool(Path(params.data.few_shot_pool))
    for split, examples in make_splits(params).items():
        write_squad(qa / f"{split}.json", f"{params.dataset} {split}", examples)
        console.print(f"{split}: {len(examples)} questions")
    lm = FrozenLM.load(params.base_model)
    with bar("SFT records", params.data.sft_records, console) as advance:
        records = list(generate_records(lm, params, pool, advance))
    write_text(sft / "train.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    console.print(f"{len(records)} SFT records")


if __name__ == "__main__":
    run(main)
