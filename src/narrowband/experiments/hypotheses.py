"""The original run's hypotheses: which experiments settle them, and what follows from the results."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from narrowband.evaluation.headline import TITLES
from narrowband.experiments.queue import Experiments, Overrides, Runs, command
from narrowband.params import InputError, Natural, Section
from narrowband.runtime.files import read_yaml

RULE = """F1 is 0 to 100 on the test questions, with its 95% interval. The difference is F1 minus that of the system in the column
"against", whose experiment `hypotheses.yaml` names. Its interval combines the two intervals as if they were independent
(Zou & Donner 2008, doi:10.1002/sim.3095), so it is too wide rather than too narrow for systems that answered the same
questions. Intervals cover the choice of questions, not that of the random seed; with several random seeds, which change
data and training, all figures are means. A claim **holds** if the difference has the claimed sign with every random seed
and its interval excludes zero; the **opposite** holds if the same is true with the other sign; otherwise the claim is **not
shown**. Of as many claims as here, one may hold by chance; those with one random seed were not repeated."""

COLUMNS = (
    *("hypothesis", "what the diagnosis expected", "command", "random seeds", "F1", "against", "difference"),
    *("cosine", "norm ratio", "outcome"),
)


class Arm(NamedTuple):
    """One side of a comparison."""

    experiment: str
    system: Literal["pca", "phase1", "phase2"]


class Experiment(Section):
    """Parameters that differ from `params.yaml`, and the seeds to run with."""

    set: Overrides = Field(default_factory=dict)
    seeds: tuple[Natural, ...] = (0,)


class Hypothesis(Section):
    """A claim that holds if the F1 of `test` is higher, or lower, than that of `against`; `expected`: what the diagnosis said."""

    claim: str
    expected: str
    test: Arm
    against: Arm
    holds_if: Literal["higher", "lower"]


class Table(Section):
    """All of `docs/hypotheses.yaml`."""

    experiments: dict[str, Experiment]
    hypotheses: tuple[Hypothesis, ...]

    @model_validator(mode="after")
    def _every_arm_is_an_experiment(self) -> Self:
        for hypothesis in self.hypotheses:
            for arm in (hypothesis.test, hypothesis.against):
                if arm.experiment not in self.experiments:
                    raise ValueError(
                        f"there is no experiment {arm.experiment}; name one of {', '.join(self.experiments)}"
                    )
        return self

    def runs(self) -> Runs:
        """Name and overrides of every experiment to run, one for each seed."""
        return {
            run_name(name, seed): {**experiment.set, "seed": seed}
            for name, experiment in self.experiments.items()
            for seed in experiment.seeds
        }


class Result(NamedTuple):
    """F1 (0 to 100) with the ends of its 95% interval, cosine and norm ratio."""

    f1: float
    low: float
    high: float
    cosine: float
    norm_ratio: float


class Difference(NamedTuple):
    """Difference of two F1 with the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def run_name(experiment: str, seed: int) -> str:
    """The name under which DVC keeps an experiment with a seed."""
    return f"{experiment}-seed{seed}"


def load_table(path: Path) -> Table:
    """Read `docs/hypotheses.yaml`.

    Raises:
        InputError: it is missing, not YAML or not such a table.
    """
    try:
        return Table.model_validate(read_yaml(path))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} can't be read ({' '.join(str(error).split())}); restore it from Git") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the table"
        value = ":" if isinstance(problem["input"], dict) else f" is {problem['input']!r}, which"
        reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise InputError(f"{path}: {where}{value} {reason}; fix it or restore it from Git") from None


def result(metrics: Mapping[str, Any], system: str) -> Result:
    """A system's figures, from metrics that `with_details` merged."""
    row = metrics[system]
    interval = row["f1_interval"]
    return Result(row["f1"], interval["low"], interval["high"], row["cosine"], row["norm_ratio"])


def pooled_results(results: Sequence[Result]) -> Result:
    """The mean over seeds; half-widths of independent intervals add in quadrature."""
    n = len(results)
    f1, cosine, norm_ratio = (
        sum(values) / n for values in zip(*((r.f1, r.cosine, r.norm_ratio) for r in results), strict=True)
    )
    below = math.hypot(*(r.f1 - r.low for r in results)) / n
    above = math.hypot(*(r.high - r.f1 for r in results)) / n
    return Result(f1, f1 - below, f1 + above, cosine, norm_ratio)


def difference(test: Result, against: Result) -> Difference:
    """F1 of `test` minus F1 of `against`, with the interval of Zou & Donner (2008) for independent means."""
    mean = test.f1 - against.f1
    low = mean - math.hypot(test.f1 - test.low, against.high - against.f1)
    high = mean + math.hypot(test.high - test.f1, against.f1 - against.low)
    return Difference(mean, low, high)


def outcome(test: Sequence[Result], against: Sequence[Result], holds_if: Literal["higher", "lower"]) -> str:
    """`holds`, `opposite` or `not shown`, by `RULE`; both sides list the same seeds."""
    whole = difference(pooled_results(test), pooled_results(against))
    each = [a.f1 - b.f1 for a, b in zip(test, against, strict=True)]
    if whole.low > 0 and min(each) > 0:
        found = "higher"
    elif whole.high < 0 and max(each) < 0:
        found = "lower"
    else:
        return "not shown"
    return "holds" if found == holds_if else "opposite"


def missing(table: Table, experiments: Experiments) -> list[str]:
    """Names of the runs that have not finished."""
    return [name for name in table.runs() if name not in experiments.finished]


def markdown(table: Table, experiments: Experiments) -> str:
    """`docs/hypotheses.md`: a row for each hypothesis, in the order of the table."""
    revisions = " ".join(f"--rev {commit[:12]}" for commit in experiments.commits)
    lines = [
        "# The original run's hypotheses",
        "",
        f"Written by `narrowband hypotheses {revisions}` from `hypotheses.yaml` and the DVC experiments that start there.",
        "`make hypotheses` runs them on the commit that is checked out.",
        "",
        RULE,
        "",
        _line(COLUMNS),
        _line(["---"] * len(COLUMNS)),
        *[_line(_cells(hypothesis, table, experiments)) for hypothesis in table.hypotheses],
        "",
    ]
    if names := missing(table, experiments):
        lines += [f"Not run yet: {', '.join(names)}.", ""]
    return "\n".join(lines)


def _cells(hypothesis: Hypothesis, table: Table, experiments: Experiments) -> list[str]:
    """A row of the table, from the seeds that both sides have finished with."""
    test, against = hypothesis.test, hypothesis.against
    asked = [hypothesis.claim, hypothesis.expected, f"`{command(table.experiments[test.experiment].set)}`"]
    seeds = [
        seed
        for seed in table.experiments[test.experiment].seeds
        if {run_name(test.experiment, seed), run_name(against.experiment, seed)} <= experiments.finished.keys()
    ]
    if not seeds:
        return [*asked, *["-"] * 6, "not run"]
    tested, others = (
        [result(experiments.finished[run_name(arm.experiment, seed)], arm.system) for seed in seeds]
        for arm in (test, against)
    )
    mean, other = pooled_results(tested), pooled_results(others)
    gap = difference(mean, other)
    return [
        *asked,
        ", ".join(map(str, seeds)),
        f"{TITLES[test.system]} {mean.f1:.1f} ({mean.low:.1f} to {mean.high:.1f})",
        f"{TITLES[against.system]} of {against.experiment} {other.f1:.1f} ({other.low:.1f} to {other.high:.1f})",
        f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})",
        f"{mean.cosine:.3f}",
        f"{mean.norm_ratio:.3f}",
        outcome(tested, others, hypothesis.holds_if),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
