from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from auditor.report.curves import training_curves
from auditor.report.detection import detect
from auditor.report.figures import draw_figures
from auditor.report.ranking import rank_samples
from tests.report.builders import Audit


def _pictures(path, **settings):
    config, run = Audit(**settings).write(path)
    ranking = rank_samples(config, run)
    return {picture.name: picture for picture in draw_figures(ranking, detect(ranking), training_curves(run))}


def test_figures_are_images_with_something_on_them_and_leave_no_global_state(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    pictures = _pictures(tmp_path)
    assert dict(mpl.rcParams) == before
    assert list(pictures) == ["training", "scores", "flagged", "detection"]
    for picture in pictures.values():
        image = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))
        assert image.shape[1] >= picture.width
        assert 0.02 < np.mean(image < 250) < 0.7


def test_no_detection_without_truth_and_no_flagged_figure_without_flagged(tmp_path):
    audit = Audit(truth=False)
    audit.scores["gif"] = abs(audit.scores["gif"])
    config, run = audit.write(tmp_path)
    ranking = rank_samples(config, run)
    assert [picture.name for picture in draw_figures(ranking, {}, training_curves(run))] == ["training", "scores"]


@pytest.mark.parametrize("classes", [2, 1000])
def test_any_number_of_classes_with_any_names_draws_without_a_warning(tmp_path, classes):
    names = [f"$\\frac{index} <b>_^ 猫 {'long ' * 20}{index}" for index in range(classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = _pictures(tmp_path, rows=300, class_names=names, methods=("gif",), truth=False)
    assert list(pictures) == ["training", "scores", "flagged"]


def test_equal_scores_draw(tmp_path):
    audit = Audit(methods=("gif", "loss"))
    audit.scores |= {"gif": np.full(40, -1e-9), "loss": np.zeros(40)}
    config, run = audit.write(tmp_path)
    ranking = rank_samples(config, run)
    assert len(draw_figures(ranking, detect(ranking), training_curves(run))) == 4
