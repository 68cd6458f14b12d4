"""The systems that are compared, read from the artifacts of a run."""

from pathlib import Path

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.embedded import CALIBRATION_PROMPTS, embedded
from narrowband.data.prompts import encode_prompt
from narrowband.data.squad import read_squad
from narrowband.lm import FrozenLM
from narrowband.params import Params


def load_systems(
    lm: FrozenLM, qa: Path, pca: Path, phase1: Path, phase2: Path, params: Params
) -> dict[str, Codec | None]:
    """`uncompressed` (no codec), `pca`, `phase1` and `phase2`; QA is read where PCA needs the scale of `calibrated`."""
    fitted = PCA.load(pca).to(lm.device)
    pca_only = Codec(fitted, lm.hidden_size, params, pca_only=True)
    if params.magnitude == "calibrated":
        train = read_squad(qa / "train.json")[:CALIBRATION_PROMPTS]
        prompts = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in train]
        pca_only.calibrate(embedded(lm, prompts, params.generation.batch_size))
    return {
        "uncompressed": None,
        "pca": pca_only,
        "phase1": Codec.load(phase1, fitted, lm.hidden_size, params),
        "phase2": Codec.load(phase2, fitted, lm.hidden_size, params),
    }
