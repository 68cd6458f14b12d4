"""When a row of the decision table applies: what the figures of a system show, and how sure that is."""

from typing import Literal, NamedTuple

from narrowband.diagnosis.figures import Figures, Form
from narrowband.diagnosis.replay import CallPath
from narrowband.evaluation.form import ALIKE
from narrowband.params import Params

Confidence = Literal["low", "medium", "high"]
NormStatus = Literal["TOO LOW", "OK", "TOO HIGH"]

NORM_LOW, NORM_HIGH = 0.8, 1.2  # the original run's bounds
TOKENS_MATCH, TOKENS_COLLAPSE = 90.0, 50.0  # percent of tokens
RETAINED = 0.9  # share of the uncompressed F1 that counts as kept
READS = 10.0  # F1 below which the uncompressed model can't do the task
MARGIN = 0.2  # difference of two shares that is more than rounding and ties
ONE_WAY = 0.9  # mean pairwise cosine of collapsed tokens, if that of the originals is at most half of it


class Case(NamedTuple):
    """What a row of the table is applied to."""

    system: str
    figures: Figures
    call_path: CallPath
    uncompressed_f1: float
    form: Form
    params: Params
    vector_dim: int

    @property
    def lost(self) -> bool:
        """Whether the codec loses more than 10% of the uncompressed F1."""
        return self.figures.f1 < RETAINED * self.uncompressed_f1


class Found(NamedTuple):
    """Why a row applies, and how sure that is."""

    evidence: str
    confidence: Confidence


def norm_status(ratio: float) -> NormStatus:
    """Whether a norm ratio is within the bounds of the original run's diagnosis."""
    return "TOO LOW" if ratio < NORM_LOW else "TOO HIGH" if ratio > NORM_HIGH else "OK"


def compared_f1(case: Case) -> str:
    """F1 beside that of the uncompressed model, and agreement with it."""
    figures = case.figures
    return f"F1 is {figures.f1:.1f} against {case.uncompressed_f1:.1f} uncompressed, agreement {figures.agreement:.1f}"


def attention_mask(case: Case) -> Found | None:
    """The saved answers are those to prompts whose padding is read."""
    path = case.call_path
    if path.without_mask - max(path.with_bos, path.without_bos) <= MARGIN:
        return None
    return Found(
        f"{path.without_mask:.0%} of the replayed uncompressed answers equal those to padded prompts with a mask of ones, "
        f"{max(path.with_bos, path.without_bos):.0%} those to the same prompts alone",
        "high" if path.without_mask > 1 - MARGIN else "medium",
    )


def bos(case: Case) -> Found | None:
    """The saved answers are those to prompts without BOS, and BOS makes them better."""
    path = case.call_path
    if path.without_bos - path.with_bos <= MARGIN or path.bos_gain_low <= 0:
        return None
    return Found(
        f"{path.without_bos:.0%} of the replayed uncompressed answers equal those to prompts without BOS, {path.with_bos:.0%} "
        f"those with BOS; BOS raises their F1 by at least {path.bos_gain_low:.1f}",
        "high" if path.without_bos > 1 - MARGIN else "medium",
    )


def decoding(case: Case) -> Found | None:
    """No call of the language model gives the saved answers."""
    path = case.call_path
    nearest = max(path.with_bos, path.without_bos, path.without_mask)
    if nearest >= ALIKE:
        return None
    return Found(f"no call of the model reproduces more than {nearest:.0%} of the saved uncompressed answers", "high")


def answer_form(case: Case) -> Found | None:
    """Many uncompressed answers are empty, or hold a right answer among too many other words."""
    empty, buried = case.form.empty, case.form.buried
    if empty + buried <= MARGIN:
        return None
    return Found(
        f"{empty:.0%} of the uncompressed answers are empty, {buried:.0%} hold a right answer among too many other words",
        "high" if empty + buried > ALIKE else "medium",
    )


def base_model(case: Case) -> Found | None:
    """F1 on the original embeddings is below `READS`."""
    if case.uncompressed_f1 >= READS:
        return None
    return Found(f"F1 on the original embeddings is {case.uncompressed_f1:.1f}", "high")


def rows(case: Case) -> Found | None:
    """A prompt's reconstructed tokens stand in another prompt of its batch rather than in its own."""
    rebuilt = case.figures.reconstruction
    if rebuilt.other_overlap - rebuilt.own_overlap <= MARGIN:
        return None
    return Found(
        f"{rebuilt.other_overlap:.0%} of a prompt's reconstructed tokens stand in another prompt of its batch, "
        f"{rebuilt.own_overlap:.0%} in its own",
        "high",
    )


def mode_collapse(case: Case) -> Found | None:
    """Reconstructed tokens point one way, or predictions are the same."""
    rebuilt, answers = case.figures.reconstruction, case.figures.diversity
    one_way = rebuilt.pairwise_cosine > max(ONE_WAY, 2 * rebuilt.original_pairwise_cosine)
    alike = answers.commonest_prediction > max(ALIKE, 2 * answers.commonest_gold)
    if not one_way and not alike:
        return None
    return Found(
        f"reconstructed tokens have a mean pairwise cosine of {rebuilt.pairwise_cosine:.2f} (originals "
        f"{rebuilt.original_pairwise_cosine:.2f}) and an effective rank of {rebuilt.effective_rank:.0f} (originals "
        f"{rebuilt.original_effective_rank:.0f}); {answers.commonest_prediction:.0%} of all predictions are the same",
        "high",
    )


def magnitude(case: Case) -> Found | None:
    """F1 is lost, and norms are out of bounds or the originals' norms bring some of it back."""
    ratio, trial = case.figures.reconstruction.norm_ratio, case.figures.rescaled
    status = norm_status(ratio)
    if not case.lost or (status == "OK" and trial.gain_low <= 0):
        return None
    restored = trial.f1_after >= RETAINED * trial.f1_uncompressed
    return Found(
        f"norm ratio {ratio:.2f} is {status}; with the originals' norms F1 on a batch of at most "
        f"{case.params.generation.batch_size} questions goes from {trial.f1_before:.1f} to {trial.f1_after:.1f} "
        f"(uncompressed {trial.f1_uncompressed:.1f})",
        "low" if trial.gain_low <= 0 else "high" if restored else "medium",
    )


def unseen_tokens(case: Case) -> Found | None:
    """F1 is lost, and tokens that occur in no training prompt account for many of the wrong ones."""
    rebuilt = case.figures.reconstruction
    blamed = rebuilt.unseen_share * (100 - rebuilt.unseen_match) / max(1e-9, 100 - rebuilt.token_match)
    if not case.lost or rebuilt.seen_match - rebuilt.unseen_match <= 100 * MARGIN or blamed <= MARGIN:
        return None
    return Found(
        f"{rebuilt.unseen_share:.1%} of the tokens occur in no training prompt: {rebuilt.unseen_match:.1f}% of them are nearest "
        f"to the original token, {rebuilt.seen_match:.1f}% of the others; {compared_f1(case)}",
        "high" if blamed > ALIKE else "medium",
    )


def tokens_collapse(case: Case) -> Found | None:
    """Less than `TOKENS_COLLAPSE` of the reconstructed tokens are nearest to the original one, and F1 is lost."""
    match = case.figures.reconstruction.token_match
    if match >= TOKENS_COLLAPSE or not case.lost:
        return None
    return Found(f"{_tokens(case)}; {compared_f1(case)}", "high" if match < TOKENS_COLLAPSE / 2 else "medium")


def tokens_drift(case: Case) -> Found | None:
    """From `TOKENS_COLLAPSE` up to `TOKENS_MATCH` of the reconstructed tokens are nearest to the original one, and F1 is lost."""
    if not TOKENS_COLLAPSE <= case.figures.reconstruction.token_match < TOKENS_MATCH or not case.lost:
        return None
    return Found(f"{_tokens(case)}; {compared_f1(case)}", "medium")


def objective(case: Case) -> Found | None:
    """At least `TOKENS_MATCH` of the reconstructed tokens are nearest to the original one, yet F1 is lost."""
    if case.figures.reconstruction.token_match < TOKENS_MATCH or not case.lost:
        return None
    return Found(f"{_tokens(case)}, yet {compared_f1(case)}", "medium")


def learned_task(case: Case) -> Found | None:
    """Phase 2, trained with cross-entropy on gold answers, has more F1 than what it keeps of the input can give.

    Information kept gives at most the uncompressed model's F1. Below that, an answer that turns back into the uncompressed
    model's adds at least as much agreement as F1 (the triangle inequality, exact where answers are right or wrong). So F1 above
    Phase 1's is learned if agreement is not above Phase 1's, and gains less than F1. All of it beyond the paired 95% interval.
    """
    gains = case.figures.gains
    if gains is None or not case.params.loss.phase2.cross_entropy:
        return None
    if gains.f1_over_uncompressed > 0:
        above = gains.f1_over_uncompressed
        return Found(f"{compared_f1(case)}; F1 is at least {above:.1f} above the uncompressed model's", "high")
    if gains.f1_over_phase1 > 0 >= gains.agreement_over_phase1 and gains.excess_over_phase1 > 0:
        above = gains.f1_over_phase1
        return Found(f"{compared_f1(case)}; F1 is at least {above:.1f} above Phase 1's, and agreement is not", "medium")
    return None


def _tokens(case: Case) -> str:
    rebuilt = case.figures.reconstruction
    return (
        f"{rebuilt.token_match:.1f}% of the reconstructed tokens are nearest to the original token, "
        f"{rebuilt.commonest_token:.1%} to one and the same"
    )
