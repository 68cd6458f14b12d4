"""Write the three QA splits, and the SFT records that the base model completes."""

import time
from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import console, run, set_up_torch

READINGS = 2  # training passages set aside for each SFT record asked for


def main(qa: Path, sft: Path, metrics: Path) -> None:
    """Write {train,validation,test}.json to the folder QA, records and provenance to SFT, their figures to METRICS."""
    params = load_params()

    from narrowband.data.splits import make_splits
    from narrowband.data.squad import write_squad
    from narrowband.runtime.artifacts import write_config
    from narrowband.runtime.files import write_json, write_text
    from narrowband.sft.write import write_sft

    set_up_torch()
    apart = READINGS * params.data.sft_records
    more = params.data.model_copy(update={"train": params.data.train + apart})
    splits = make_splits(params.model_copy(update={"data": more}))
    readings, splits["train"] = splits["train"][-apart:], splits["train"][: params.data.train]
    for split, examples in splits.items():
        write_squad(qa / f"{split}.json", f"{params.dataset} {split}", examples)
        console.print(f"{split}: {len(examples)} questions")
    sizes = params.data.model_dump(include={"train", "validation", "test"})
    write_config(qa, {"seed": params.seed, "dataset": params.dataset, "data": sizes})
    if not params.data.sft_records:
        write_text(sft / "train.jsonl", "")
        write_json(metrics, {})
        return
    began = time.monotonic()
    write_json(metrics, write_sft(params, readings, splits["test"], sft, Path(".checkpoints") / "sft.jsonl", console))
    rate = params.data.sft_records / (time.monotonic() - began)
    console.print(f"{params.data.sft_records} SFT records, {rate:.1f} a second with loading and checks")


if __name__ == "__main__":
    run(main)
