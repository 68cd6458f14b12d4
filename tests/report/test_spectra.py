from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from narrowband.cli import app
from narrowband.codec.spectrum import SPECTRUM_RATIOS
from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad
from narrowband.report.spectra import real_spectra

ROOT = Path(__file__).parents[2]


def test_the_two_real_models_have_falling_shares_at_every_ratio() -> None:
    for shares in real_spectra().values():
        assert tuple(shares) == SPECTRUM_RATIOS and list(shares.values()) == sorted(shares.values(), reverse=True)
        assert all(0 < share < 1 for share in shares.values())
    assert real_spectra()["Gemma 3 270M"][16] == 0.579 and real_spectra()["SmolLM2 135M"][64] == 0.472


@pytest.fixture
def rows(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What `narrowband spectrum` prints of a model and data set that params.yaml does not name, by name of the row."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"] |= {"train": 20, "validation": 1, "test": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    write_squad(tmp_path / "qa.json", "qa", [world_example(0, "train", i) for i in range(60)])
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    words = ["spectrum", "--base-model", "./model", "--dataset", "qa.json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    return {name: shares for name, *shares in cells}


def test_the_command_prints_a_row_for_any_model_and_data_set_beside_the_real_ones(rows: dict[str, list[str]]) -> None:
    assert rows["SmolLM2 135M"] == ["0.896", "0.788", "0.699", "0.620", "0.543", "0.472"]
    *measured, none = rows["./model on qa.json"]  # a hidden size of 32 has no component at 64x
    assert none == "" and [float(share) for share in measured] == sorted(map(float, measured), reverse=True)
