"""Write the three QA splits, and the SFT records that the base model generates."""

from narrowband.runtime import paths
from narrowband.runtime.entry import run, set_up_torch
from narrowband.runtime.fingerprint import stage_fingerprint
from narrowband.runtime.parameters import load_params

READINGS = 2  # training questions set aside for each SFT record


def main() -> None:
    """Write the splits to data/qa, records and their provenance to data/sft, figures to metrics/data.json."""
    params = load_params()

    from narrowband.data.questions import write_questions
    from narrowband.runtime.files import write_json, write_text
    from narrowband.runtime.rounding import rounded
    from narrowband.sft.journal import Journal
    from narrowband.sft.model import Limits
    from narrowband.sft.rounds import read_inputs
    from narrowband.sft.write import Settings, headline, write_sft

    set_up_torch()
    data = params.data
    questions = write_questions(params, READINGS * data.sft_records)
    if not data.sft_records:
        write_text(paths.SFT / "train.jsonl", "")
        write_json(paths.METRICS / "data.json", {})
        write_json(paths.RESULTS / "data.json", rounded({"prompt": questions.decided}))
        return
    recorded = params.model_dump(
        include={"seed", "base_model", "dataset", "test_dataset", "prompt", "generation", "data"}
    )
    limits = Limits(params.generation.batch_size, params.prompt.max_length)
    settings = Settings(params.base_model, params.generation.backend, limits, params.seed, data, recorded)
    journal = Journal(paths.CHECKPOINTS / "sft.jsonl", stage_fingerprint("generate_data"))
    figures = write_sft(settings, read_inputs(data, questions.apart, questions.test), paths.SFT, journal)
    write_json(paths.METRICS / "data.json", rounded(headline(figures)))
    write_json(paths.RESULTS / "data.json", rounded({"prompt": questions.decided, **figures}))


if __name__ == "__main__":
    run(main)
