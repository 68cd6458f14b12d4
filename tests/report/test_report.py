"""The report, made by the real functions on a tiny random model, and used in a headless Chromium."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from making import answerer_of, codec_of
from playwright.sync_api import Page, sync_playwright

from narrowband.codec.pca import PCA
from narrowband.codec.spectrum import prompt_spectrum
from narrowband.data.prompts import encode_prompts
from narrowband.data.splits import world_example
from narrowband.diagnosis.figures import diagnose
from narrowband.diagnosis.reconstructions import histogram
from narrowband.diagnosis.verdicts import summary, verdicts
from narrowband.evaluation.answer import QuestionSet
from narrowband.evaluation.compare import compare
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.report.examples import first_examples
from narrowband.report.page import Diagnosed, Results, render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TRAINING = [{"step": 0, "cosine": 0.5, "f1": 10.0}, {"step": 9, "cosine": 0.8, "f1": 20.0}]

Inputs = tuple[Params, Results, Diagnosed]


def baseline(system: str, bits: float, f1: float) -> dict:
    return {
        "system": system,
        "bits_per_token": bits,
        "f1": f1,
        "f1_interval": {"low": f1 - 2, "high": f1 + 2},
        "agreement": f1 + 1,
        "agreement_interval": {"low": f1 - 1, "high": f1 + 3},
        "cosine": 0.9,
    }


BASELINES = [baseline("truncation", 256, 50), baseline("truncation", 512, 60), baseline("token <id>", 11, 90)]


@pytest.fixture(scope="module")
def inputs(lm: FrozenLM, tiny_model: Path) -> Inputs:
    content = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    content |= {"base_model": str(tiny_model), "window": 2, "compress_dim": 20}
    content["adapter"]["detectors"] = 128
    content["generation"] |= {"max_new_tokens": 4, "batch_size": 8}
    params = Params.model_validate(content)
    pca = PCA.fit(lm.vocabulary.view(-1, 64), 20)
    lossless = PCA(torch.eye(64), torch.zeros(64), torch.ones(64), torch.full((1,), 64.0))
    systems = {
        "uncompressed": None,
        "pca": codec_of(pca, params, pca_only=True),
        "phase1": codec_of(pca, params),
        "phase2": codec_of(lossless, params),
    }
    examples = [world_example(0, "test", i) for i in range(12)]
    questions = QuestionSet(examples, params.seed)
    answerer = answerer_of(lm, params)
    own = answerer.answer(None, examples)
    codecs = {name: codec for name, codec in systems.items() if codec}
    comparison = compare(answerer, codecs, own, questions)
    diagnosis = diagnose(answerer, systems, questions, comparison.predictions)
    figures = summary(diagnosis, verdicts(diagnosis, params, lm.hidden_size))
    shown = first_examples(answerer, systems, examples, comparison.predictions)
    shown[0]["systems"]["phase2"]["em"] = 100.0  # one right answer, so that the filter has something to leave out
    spectrum = prompt_spectrum(lm, encode_prompts(lm.tokenizer, examples, params.prompt))
    evaluations = {"phase1": TRAINING, "phase2": TRAINING}
    return (
        params,
        Results(comparison.headline, comparison.details, BASELINES, evaluations),
        Diagnosed(figures, histogram(diagnosis.norms), shown, spectrum),
    )


@pytest.fixture(scope="module")
def report(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(*inputs), encoding="utf-8")
    return path


def test_the_same_input_gives_the_same_bytes_and_names_nothing_outside(report: Path, inputs: Inputs) -> None:
    text = report.read_text(encoding="utf-8")
    assert render(*inputs) == text
    assert "http" not in text.replace("http-equiv", "") and "src=" not in text.replace("default-src", "")
    assert "token &lt;id&gt;" in text and "token <id>" not in text


def test_ids_are_unique_and_every_reference_within_the_page_leads_to_one(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert len(named) > 10 and {one or other for one, other in named} <= set(ids)


def test_a_rate_quality_curve_is_drawn_only_where_there_are_baselines(inputs: Inputs) -> None:
    params, results, diagnosed = inputs
    assert 'id="chart-rate"' in render(*inputs)
    assert 'id="chart-rate"' not in render(params, results._replace(baselines=[]), diagnosed)


def test_the_page_tells_agreement_beside_the_f1_that_is_retained(report: Path, inputs: Inputs) -> None:
    agreement = inputs[1].headline["phase2"]["agreement"]
    known = inputs[1].headline
    headline = {**known, "uncompressed": {**known["uncompressed"], "f1": 80.0}, "f1_retained": 0.625}
    page = render(inputs[0], inputs[1]._replace(headline=headline), inputs[2])
    assert f"F1 retained 62.5%, agreement {agreement:.1f}</h1>" in page
    assert f"uncompressed F1 0, agreement {agreement:.1f}</h1>" in report.read_text(encoding="utf-8")


def test_the_page_has_the_row_of_a_reader(inputs: Inputs) -> None:
    params, results, diagnosed = inputs
    row = {"f1": 61.5, "em": 50.25, "agreement": 70.0, "positions_ratio": 1.9, "bits_per_token": 2048.0}
    with_reader = results._replace(
        headline={**results.headline, "reader": row},
        details={**results.details, "reader": {"f1_interval": {"low": 55.0, "high": 68.0}}},
    )
    page = render(params, with_reader, diagnosed)
    assert "Reader, 1.9x fewer positions" in page and "55.0 to 68.0" in page
    assert "Reader" not in render(*inputs)


def test_the_page_compares_the_spectrum_with_real_models(report: Path, inputs: Inputs) -> None:
    text = report.read_text(encoding="utf-8")
    assert f'<th scope="row">This model</th><td>4</td><td>{inputs[2].spectrum[4]:.4g}</td>' in text
    assert '<th scope="row">Gemma 3 270M</th><td>16</td><td>0.579</td>' in text


def test_histogram_holds_every_token_once(inputs: Inputs) -> None:
    norms = inputs[2].norms
    for name in ("original", "pca", "phase2"):
        assert sum(row[name] for row in norms) == pytest.approx(1, abs=1e-5)
    assert [row["original"] for row in norms] == pytest.approx([row["phase2"] for row in norms], abs=0.02)


@pytest.fixture(scope="module")
def page(report: Path) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.complaints = []  # type: ignore[attr-defined]
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: request.url == report.as_uri() or page.complaints.append(request.url))
        page.goto(report.as_uri())
        yield page
        browser.close()


def test_page_loads_without_complaint_or_request(page: Page) -> None:
    assert page.locator("h1").inner_text().startswith("3.2x fewer numbers, ")
    assert page.locator("svg[role=img]").count() == 4
    assert page.complaints == []


def test_examples_are_gone_through_by_keys_and_buttons(page: Page) -> None:
    page.select_option("#system", "phase2")
    page.select_option("#filter", "all")
    place, heading = page.locator("#place"), page.locator("article:visible h3")
    first = heading.inner_text()
    assert place.inner_text() == "1 of 10" and heading.count() == 1
    page.focus("#next")
    page.keyboard.press("Enter")
    assert place.inner_text() == "2 of 10" and heading.inner_text() != first
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "3 of 10"
    page.focus("#examples")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert place.inner_text() == "1 of 10" and heading.inner_text() == first


def test_filter_leaves_what_it_says(page: Page) -> None:
    page.select_option("#system", "phase2")
    page.select_option("#filter", "wrong")
    assert page.locator("#place").inner_text() == "1 of 9"
    page.select_option("#filter", "mismatch")
    assert page.locator("#place").inner_text() == "none" and page.locator("article:visible").count() == 0
    page.select_option("#system", "pca")
    assert page.locator("#place").inner_text() == "1 of 10"
    assert page.locator(".view:visible ins").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows_on_a_phone_or_a_desk(page: Page, width: int, scheme: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shot = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert int.from_bytes(shot[16:20], "big") == width  # the width in the PNG header
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (lightness == "rgb(255, 255, 255)") == (scheme == "light")
