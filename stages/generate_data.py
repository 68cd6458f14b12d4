"""Write the three QA splits, and the SFT records that the base model generates."""

from narrowband.params import load_params
from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.fingerprint import stage_fingerprint

READINGS = 2  # training questions set aside for each SFT record


def main() -> None:
    """Write the splits to data/qa, records and their provenance to data/sft, figures to metrics/data.json."""
    params = load_params()

    from narrowband.data.prompts import check_questions
    from narrowband.data.settled import asked_for, draw_shots, require_bos, settle, write_settled
    from narrowband.data.splits import make_splits
    from narrowband.data.squad import write_squad
    from narrowband.lm.source import load_tokenizer
    from narrowband.runtime.artifacts import write_config
    from narrowband.runtime.files import write_json, write_text
    from narrowband.runtime.rounding import rounded
    from narrowband.sft.journal import Journal
    from narrowband.sft.model import Limits
    from narrowband.sft.run import read_sources
    from narrowband.sft.write import Settings, headline, write_sft

    set_up_torch()
    data, prompt = params.data, params.prompt
    apart = READINGS * data.sft_records
    wanted = {**data.sizes, "train": data.train + apart}
    splits = make_splits(params.dataset, wanted, params.seed, data.unanswerable, params.test_dataset)
    readings = splits["train"][data.train :]
    drawn = draw_shots(splits["train"][: data.train], prompt.shots, params.seed)
    splits["train"] = drawn.train
    tokenizer = load_tokenizer(params.base_model)
    require_bos(prompt, tokenizer)
    settled, decided = settle(prompt, drawn, params.base_model)
    for examples in splits.values():
        check_questions(tokenizer, examples, settled)
    console.print(f"prompts: BOS {settled.bos}, {len(drawn.shots)} worked examples")
    sources = dict.fromkeys(splits, params.dataset) | {"test": params.test_dataset or params.dataset}
    for split, examples in splits.items():
        write_squad(paths.QA / f"{split}.json", f"{sources[split]} {split}", examples)
        console.print(f"{split}: {len(examples)} questions")
    write_settled(settled)
    made_with = {"seed": params.seed, "dataset": params.dataset, "test_dataset": params.test_dataset}
    write_config(paths.QA, {**made_with, "data": data.sizes, **asked_for(prompt)})
    if not data.sft_records:
        write_text(paths.SFT / "train.jsonl", "")
        write_json(paths.METRICS / "data.json", {})
        write_json(paths.RESULTS / "data.json", rounded({"prompt": decided}))
        return
    recorded = params.model_dump(
        include={"seed", "base_model", "dataset", "test_dataset", "prompt", "generation", "data"}
    )
    limits = Limits(params.generation.batch_size, prompt.max_length)
    settings = Settings(params.base_model, params.generation.backend, limits, params.seed, data, recorded)
    journal = Journal(paths.CHECKPOINTS / "sft.jsonl", stage_fingerprint("generate_data"))
    figures = write_sft(settings, read_sources(data, readings, splits["test"]), paths.SFT, journal, console)
    write_json(paths.METRICS / "data.json", rounded(headline(figures)))
    write_json(paths.RESULTS / "data.json", rounded({"prompt": decided, **figures}))


if __name__ == "__main__":
    run(main)
