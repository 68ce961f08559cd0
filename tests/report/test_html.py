from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from auditor.report.detection import detect
from auditor.report.figures import Picture
from auditor.report.gallery import gallery
from auditor.report.html import render
from auditor.report.ranking import rank_samples
from auditor.report.summary import Summary, summarise, verdict
from tests.report.builders import Audit, png, write_verification

NASTY = ["<script>alert(1)</script>", '"><img src=x onerror="document.title=\'owned\'">', "{{ 7 * 7 }}", "a & b"]


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def of(self, tag: str, name: str = "") -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.tags if found == tag and name in (attrs.get("class") or "")]


def _page(path, effect=None, **settings) -> tuple[Summary, _Page, str]:
    """The page without its figures, which have their own tests; verified by retrainings where an effect is given."""
    audit = Audit(**settings)
    config, run = audit.write(path)
    if effect is not None:
        write_verification(audit, run, effect, ones=12, drop_rates=(0.05, 0.2))
    ranking = rank_samples(config, run)
    detection = detect(ranking)
    summary = summarise(ranking, detection, run)
    pictures = [Picture("scores", "A caption.", 100, png(np.zeros((2, 2), dtype=np.uint8)))]
    text = render(config, run, summary, gallery(ranking, run, config.report.gallery), pictures)
    return summary, _Page(text), text


def test_it_shows_verdict_gallery_figures_detection_and_provenance(tmp_path):
    summary, page, text = _page(tmp_path)
    assert verdict(summary)[0] in page.text
    assert "removing this one sample is predicted to lower validation loss by x" in page.text
    assert "Trust the order, not the amounts" in page.text
    assert "93.8%" in page.text
    assert len(page.of("li", "card")) == 8
    assert len(page.of("figure")) == 1
    assert "AUROC" in page.text
    assert "train.perturbation.rho" in page.text
    assert "0123abc" in page.text
    assert "truth, kept aside" in page.text
    assert len(text) < 2_000_000


def test_it_shows_how_far_every_method_agreed_with_retrainings(tmp_path):
    effect = np.random.default_rng(3).normal(size=40)
    summary, page, _ = _page(tmp_path, effect, variants={"gif@3": effect})
    assert [attrs["id"] for attrs in page.of("section")][:3] == ["verdict", "fidelity", "gallery"]
    assert "60 times the model was trained again" in page.text
    assert "(12 single ones, 24 random 5% subsets, 24 random 20% subsets)" in page.text
    assert "LOO Pearson LOO Spearman slope LDS 5% LDS 20% judged on" in page.text
    exact = "1.000 (1.00 to 1.00)"
    assert f"gif (gif@3) {' '.join([exact] * 5)} 30" in page.text
    assert f"auto (gif@3) {' '.join([exact] * 5)} 30" in page.text
    loss = summary.fidelity.methods["loss"]
    assert f"loss {loss.loo_pearson.value:.3f} " in page.text
    assert f"{loss.lds['0.2'].high:.2f}) 60" in page.text
    assert "not been compared with real retrainings" not in page.text


def test_without_retrainings_it_claims_no_agreement(tmp_path):
    _, page, _ = _page(tmp_path)
    assert "fidelity" not in [attrs["id"] for attrs in page.of("section")]
    assert "LOO" not in page.text
    assert "not been compared with real retrainings" in page.text


def test_harm_is_said_to_be_that_of_the_query(tmp_path):
    _, page, text = _page(tmp_path, query="the loss on validation samples of class <b>")
    assert "predicted to lower the loss on validation samples of class <b> by x" in page.text
    assert "class <b>" not in text


def test_it_asks_no_host_for_anything_and_runs_nothing(tmp_path):
    _, page, text = _page(tmp_path)
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset", "action") if name in attrs]
    assert len(sources) == 9
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in text
    assert "@import" not in text
    assert not page.of("script")
    assert "default-src 'none'" in text


def test_text_from_the_data_is_shown_and_never_interpreted(tmp_path):
    ids = [f"\"quoted\" 'id' <b>{row}</b>" for row in range(40)]
    carried = {"<i>note</i>": pa.array(["<u>carried</u>"] * 40)}
    rows = [{"split": "train", "sample_id": "<b>q</b>", "row": 3, "kind": "corrupt_image", "detail": "<b>bad</b>"}]
    _, page, _ = _page(tmp_path, class_names=NASTY, sample_ids=ids, carried=carried, quarantine=rows)
    for tag in ("script", "b", "i", "u"):
        assert not [attrs for attrs in page.of(tag) if tag == "script" or "onerror" in attrs]
    cards = page.of("li", "card")
    assert {card["data-sample-id"] for card in cards} <= set(ids)
    assert {card["data-label"] for card in cards} <= set(NASTY)
    assert all("onerror" not in attrs for _, attrs in page.tags)
    for text in ("<i>note</i>", "<u>carried</u>", "<b>q</b>", "<b>bad</b>"):
        assert text in page.text
    shown = [name for name in NASTY if name in page.text]
    assert len(shown) >= 3
    assert "49" not in {text.strip() for text in page.texts}


def test_a_table_of_features_shows_bars(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    _, page, _ = _page(tmp_path, features=features, truth=False)
    assert len(page.of("svg")) == 8
    assert len(page.of("rect")) == 40
    assert "kept aside" not in page.text


def test_an_unreadable_image_shows_a_placeholder(tmp_path):
    _, page, _ = _page(tmp_path, images=[None] * 40, paths=["/nowhere.png"] * 40)
    assert page.text.count("image cannot be read") == 8


def test_a_detector_claims_no_effect(tmp_path):
    _, page, _ = _page(tmp_path, rank_by="loss")
    assert "Most suspicious samples" in page.text
    assert "lower validation loss" not in page.text
    assert "Trust the order" not in page.text


def test_credentials_of_the_configuration_do_not_appear(tmp_path):
    _, _, text = _page(tmp_path, tracking_uri="postgresql://me:hidden-secret@db/mlflow")
    assert "hidden-secret" not in text
    assert "postgresql://***@db/mlflow" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_nothing_from_the_data(tmp_path):
    _, _, text = _page(tmp_path / "run", class_names=NASTY)
    (tmp_path / "report.html").write_text(text)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "report.html").as_uri()
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=60, check=True)
    assert "<title>Data audit: run</title>" in done.stdout
    assert done.stdout.count('class="card"') == 8
