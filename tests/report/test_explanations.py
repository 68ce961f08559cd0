from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pytest

from auditor.report.explanations import PAGE, read_explanations, write_explanations
from auditor.storage import RunFolder
from tests.report.builders import Audit

HOSTILE = ("<script>document.title='run'</script>", '"><b>', "plain", "</style>")


def explained(tmp_path, lds=(0.5, 0.7), misclassified=9, **fields):
    """A run folder whose explanations were left by somebody."""
    audit = Audit(**fields)
    config, run = audit.write(tmp_path / "run")
    table = audit.training_table()
    run.write_table("dataset/validation/part-00000.parquet", table)
    ids = table["sample_id"].to_pylist()
    count = len(lds)
    images = {
        "sample_id": ids[:count],
        "row": pa.array(range(count), pa.int32()),
        "label": pa.array([0, 1][:count], pa.int32()),
        "predicted": pa.array([1, 2][:count], pa.int32()),
        "probability": [0.9, 0.4][:count],
        "loss": [3.0, 1.0][:count],
        "lds": pa.array(lds, pa.float64()),
    }
    run.write_table("explain/images.parquet", pa.table(images))
    lines = [
        (ids[image], side, rank, ids[row], row, int(audit.label[row]), sign * (1.0 - 0.1 * rank))
        for image in range(count)
        for side, sign, first in (("helped", 1, 10), ("harmed", -1, 20))
        for rank, row in enumerate(range(first + 4 * image, first + 4 * image + 3), start=1)
    ]
    names = ("image", "side", "rank", "sample_id", "row", "label", "influence")
    columns = dict(zip(names, zip(*reversed(lines), strict=True), strict=True)) if lines else {n: [] for n in names}
    run.write_table("explain/influence.parquet", pa.table({name: list(values) for name, values in columns.items()}))
    settings = {"images": 12, "samples": 3, "method": "ekfac", "damping": 0.01}
    described = {"settings": settings, "misclassified": misclassified, "retrainings": 24, "subsets": 24}
    run.write_json("explain/explain.json", described | {"rounding": None})
    return audit, config, run


def test_each_image_has_its_samples_in_order_and_known_truths(tmp_path):
    audit, _, run = explained(tmp_path)
    found = read_explanations(run)
    first, second = found.images
    assert (first.label, first.predicted, first.loss) == ("zero", "one", 3.0)
    assert [cause.influence for cause in first.helped] == pytest.approx([0.9, 0.8, 0.7])
    assert [cause.influence for cause in second.harmed] == pytest.approx([-0.9, -0.8, -0.7])
    assert [cause.sample_id for cause in second.harmed] == [f"sample-{row:05d}" for row in (24, 25, 26)]
    for cause, row in zip(first.helped, (10, 11, 12), strict=True):
        wrong = audit.label[row] != audit.true[row]
        assert cause.true_label == (audit.class_names[audit.true[row]] if wrong else None)
        assert cause.picture.thumbnail is not None


def test_what_was_judged_by_retrainings_is_said_and_what_was_not_as_well(tmp_path):
    _, _, run = explained(tmp_path / "a")
    which, trust = read_explanations(run).sentences()
    assert which.startswith("9 validation images are misclassified; the 2 of the highest loss are explained by ekfac")
    assert "by 24 real retrainings" in trust
    assert "correlate 0.60 in rank" in trust
    _, _, run = explained(tmp_path / "b", lds=(None, float("nan")), misclassified=2)
    which, trust = read_explanations(run).sentences()
    assert "all are explained" in which
    assert "have not been compared with real retrainings" in trust
    _, _, run = explained(tmp_path / "c", lds=(), misclassified=0)
    assert read_explanations(run).sentences() == [
        "The model classifies every validation image as it is labelled: there is nothing to explain."
    ]


def test_what_fewer_bits_cost_is_said(tmp_path):
    _, _, run = explained(tmp_path)
    before = read_explanations(run)
    lost = {"images": 2, "rows": 256, "largest": 0.02, "typical": 0.0134, "rank": 0.99871}
    run.write_json("explain/explain.json", run.read_json("explain/explain.json") | {"rounding": lost})
    found = read_explanations(run)
    assert found.sentences()[-1] == (
        "Computed in fewer bits than the parameters have: over 256 samples that moved the influence on an "
        "image by 1.3% at most (root mean square) and kept the ranks (correlation 0.99871 at least)."
    )
    assert found.sentences()[:-1] == before.sentences()
    assert found.to_json()["rounding"] == lost
    run.write_json("explain/explain.json", run.read_json("explain/explain.json") | {"rounding": lost | {"images": 1}})
    assert "have, 1 of the 2 images: over" in read_explanations(run).sentences()[-1]


def test_the_page_asks_nobody_for_anything_and_escapes_what_comes_from_the_data(tmp_path):
    ids = [f"sample <img src=x onerror=alert({row})>" for row in range(40)]
    _, config, run = explained(tmp_path, class_names=HOSTILE, sample_ids=ids)
    found = write_explanations(config, run)
    page = run.read_bytes(PAGE).decode()
    assert found.page.endswith(PAGE)
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count('class="image panel"') == 2
    assert page.count('class="cause"') == 12


def test_features_are_drawn_as_bars(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    _, config, run = explained(tmp_path, features=features)
    write_explanations(config, run)
    assert run.read_bytes(PAGE).decode().count("<svg") == 14


def test_plain_values_name_every_sample(tmp_path):
    _, _, run = explained(tmp_path)
    plain = read_explanations(run).to_json()
    assert plain["lds"] == pytest.approx(0.6)
    assert [len(image["helped"]) for image in plain["images"]] == [3, 3]
    assert plain["images"][0]["harmed"][0]["influence"] == pytest.approx(-0.9)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_the_page_and_runs_nothing_from_the_data(tmp_path):
    _, config, run = explained(tmp_path, class_names=HOSTILE)
    write_explanations(config, run)
    page = (RunFolder(run.path).local / PAGE).as_uri()
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=60, check=True)
    assert "<title>Explanations: run</title>" in done.stdout
    assert done.stdout.count('class="cause"') == 12
