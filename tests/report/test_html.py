from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa

from auditor.report.classes import by_class
from auditor.report.detection import detect
from auditor.report.figures import Picture
from auditor.report.gallery import gallery
from auditor.report.html import STATIC_CARDS, render
from auditor.report.ranking import rank_samples
from auditor.report.summary import Summary, summarise, verdict
from tests.report.builders import Audit, png, write_verification

NASTY = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=\"document.title='owned'\">",
    "<!-- {{ 7 * 7 }}",
    "a & b",
]


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem is None:  # neither style nor script
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
    samples = gallery(ranking, run, config.report, 0.0)
    text = render(config, run, summary, samples, by_class(ranking), pictures)
    return summary, _Page(text), text


def _data(text: str) -> dict:
    """What the page's script reads, cut out as a browser does: up to the first thing that ends a script element."""
    return json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script")[0])


def test_it_shows_verdict_gallery_figures_detection_and_provenance(tmp_path):
    summary, page, text = _page(tmp_path)
    assert verdict(summary)[0] in page.text
    assert "removing this one sample is predicted to lower validation loss by x" in page.text
    assert "Trust the order, not the amounts" in page.text
    assert "93.8%" in page.text
    assert len(page.of("li", "card")) == 8
    assert len(page.of("figure")) == 1
    found = summary.detection["priority"]
    assert f"priority {found.auroc:.3f} {found.average_precision:.3f}" in page.text
    assert "train.perturbation.rho" in page.text
    assert "0123abc" in page.text
    assert "truth: " in page.text
    assert len(text) < 2_000_000


def test_it_shows_how_far_every_method_agreed_with_retrainings(tmp_path):
    effect = np.random.default_rng(3).normal(size=40)
    summary, page, _ = _page(tmp_path, effect, variants={"gif@3": effect})
    assert [attrs["id"] for attrs in page.of("section")][:3] == ["verdict", "gallery", "classes"]
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


def test_it_asks_no_host_for_anything(tmp_path):
    _, page, text = _page(tmp_path)
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset", "action") if name in attrs]
    assert len([source for source in sources if source.startswith("data:image/")]) == 9
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "url(" not in text
    assert "@import" not in text


def test_its_policy_permits_its_own_style_and_script_and_nothing_else(tmp_path):
    _, page, text = _page(tmp_path)
    policy = next(
        attrs["content"] for attrs in page.of("meta") if "Content-Security" in (attrs.get("http-equiv") or "")
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def hashes(tag: str) -> list[str]:
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        return [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in inside]

    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": " ".join(hashes("style")),
        "script-src": " ".join(hashes("script")),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert [attrs.get("type") for attrs in page.of("script")] == ["application/json", None]
    assert not [attrs for _, attrs in page.tags if "style" in attrs or any(name.startswith("on") for name in attrs)]


def test_the_first_samples_stand_in_the_page_itself_and_all_in_its_data(tmp_path):
    _, page, text = _page(tmp_path, gallery=30)
    assert len(page.of("li", "card")) == STATIC_CARDS == 24
    assert "Without it, the first 24 samples stand here" in page.text
    samples = _data(text)["samples"]
    assert {len(column) for column in samples.values()} == {30}
    assert [attrs["aria-label"] for attrs in page.of("li", "card")] == samples["id"][:24]


def test_the_findings_in_words_come_before_everything_else(tmp_path):
    summary, page, _ = _page(tmp_path)
    places = [page.text.index(sentence) for sentence in verdict(summary)]
    assert places == sorted(places)
    assert places[-1] < page.text.index("training samples audited") < page.text.index("Samples to look at")


def test_classes_have_a_line_and_pairs_of_labels_a_cell_that_leads_to_their_samples(tmp_path):
    _, page, _ = _page(tmp_path, class_names=["cat", "dog"])
    buttons = [attrs for attrs in page.of("button") if "data-given" in attrs]
    assert [(attrs["data-given"], attrs["data-suggested"]) for attrs in buttons[:2]] == [("0", ""), ("1", "")]
    assert {attrs["aria-label"].partition(" ")[2] for attrs in buttons[2:]} >= {"given cat, suggested dog"}
    assert "class rows flagged suggested elsewhere mean harm labels wrong" in page.text
    _, page, _ = _page(tmp_path / "unknown", truth=False)
    assert "labels wrong" not in page.text


def test_text_from_the_data_is_shown_and_never_interpreted(tmp_path):
    ids = [f"\"quoted\" 'id' <b>{row}</b> </script>" for row in range(40)]
    carried = {"<i>note</i>": pa.array(["<u>carried</u> <!-- <script>"] * 40)}
    rows = [{"split": "train", "sample_id": "<b>q</b>", "row": 3, "kind": "corrupt_image", "detail": "<b>bad</b>"}]
    _, page, text = _page(tmp_path, class_names=NASTY, sample_ids=ids, carried=carried, quarantine=rows)
    assert not [tag for tag, attrs in page.tags if tag in ("i", "u") or any(name.startswith("on") for name in attrs)]
    assert len(page.of("script")) == 2
    assert all(not attrs for attrs in page.of("b"))
    for shown in ("<b>q</b>", "<b>bad</b>"):
        assert shown in page.text
    data = _data(text)
    assert data["classes"] == NASTY
    assert set(data["samples"]["id"]) <= set(ids)
    assert data["samples"]["carried"][0] == [["<i>note</i>", "<u>carried</u> <!-- <script>"]]
    assert {attrs["title"] for attrs in page.of("div", "id mono")} <= set(ids)
    assert len([name for name in NASTY if name in page.text]) >= 3
    assert "49" not in {text.strip() for text in page.texts}


def test_a_table_of_features_shows_bars(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    _, page, _ = _page(tmp_path, features=features, truth=False)
    assert len(page.of("svg")) == 8
    assert [attrs["d"].count("z") for attrs in page.of("path")] == [5] * 8
    assert "truth" not in page.text


def test_an_unreadable_image_shows_a_placeholder(tmp_path):
    _, page, _ = _page(tmp_path, images=[None] * 40, paths=["/nowhere.png"] * 40)
    assert page.text.count("image cannot be read") == 8


def test_a_detector_claims_no_effect(tmp_path):
    _, page, _ = _page(tmp_path, rank_by="loss")
    assert "how wrong the label looks, not what removing the sample does" in page.text
    assert "lower validation loss" not in page.text
    assert "without it" not in page.text
    assert "Trust the order" not in page.text


def test_credentials_of_the_configuration_do_not_appear(tmp_path):
    _, _, text = _page(tmp_path, tracking_uri="postgresql://me:hidden-secret@db/mlflow")
    assert "hidden-secret" not in text
    assert "postgresql://***@db/mlflow" in text
