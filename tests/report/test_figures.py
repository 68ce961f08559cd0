from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from auditor.fidelity.verification import read_effects
from auditor.report import plots
from auditor.report.curves import training_curves
from auditor.report.detection import detect
from auditor.report.figures import draw_figures
from auditor.report.ranking import rank_samples
from auditor.storage import RunFolder
from tests.report.builders import Audit, write_verification


def _pictures(path, **settings):
    config, run = Audit(**settings).write(path)
    ranking = rank_samples(config, run)
    return {picture.name: picture for picture in draw_figures(ranking, detect(ranking), training_curves(run))}


def test_figures_are_images_with_something_on_them_and_leave_no_global_state(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    pictures = _pictures(tmp_path)
    assert dict(mpl.rcParams) == before
    assert list(pictures) == ["training", "scores", "detection"]
    for picture in pictures.values():
        image = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))
        assert image.shape[1] >= picture.width
        assert 0.02 < np.mean(image < 250) < 0.7


def test_no_detection_without_truth(tmp_path):
    assert list(_pictures(tmp_path, truth=False)) == ["training", "scores"]


def test_the_priority_is_drawn_beside_the_methods_it_joins_in_a_colour_of_its_own(tmp_path):
    from matplotlib.figure import Figure

    ranking = rank_samples(*Audit().write(tmp_path))
    figure = Figure()
    plots.detection(figure, detect(ranking))
    lines = {str(line.get_label()).split("  ")[0]: line.get_color() for line in figure.axes[0].lines}
    assert set(lines) == {*ranking.methods, "priority", "random order"}
    assert len(set(lines.values())) == len(lines)


def test_equal_scores_draw(tmp_path):
    audit = Audit(methods=("gif", "loss"))
    audit.scores |= {"gif": np.full(40, -1e-9), "loss": np.zeros(40)}
    config, run = audit.write(tmp_path)
    ranking = rank_samples(config, run)
    assert len(draw_figures(ranking, detect(ranking), training_curves(run))) == 3


def _retrainings(path, effect=None, **wanted):
    """Figures of a run with retrainings, whose effects are gif's predictions unless something else is given."""
    audit = Audit(methods=("gif",), truth=False, variants={"gif@3": np.linspace(-1, 1, 40)})
    config, run = audit.write(path)
    write_verification(audit, run, audit.scores["gif"] if effect is None else effect, **wanted)
    ranking = rank_samples(config, run)
    return ranking, draw_figures(ranking, detect(ranking), training_curves(run), read_effects(run))


def test_retrainings_come_first_and_are_drawn_for_every_kind_of_removal(tmp_path):
    _, (first, *others) = _retrainings(tmp_path, drop_rates=(0.05, 0.1, 0.2))
    assert first.name == "retrainings"
    assert "real retraining" in first.caption
    assert [picture.name for picture in others] == ["training", "scores"]
    image = np.asarray(Image.open(io.BytesIO(first.png)).convert("L"))
    assert image.shape[1] >= first.width
    assert 0.02 < np.mean(image < 250) < 0.7


def test_points_are_predicted_and_measured_effects_of_the_column_that_stands_for_the_ranking(tmp_path):
    from matplotlib.figure import Figure

    ranking, _ = _retrainings(tmp_path, effect=np.linspace(-1, 1, 40), ones=16, subsets=8)
    column = ranking.standing["gif"]
    assert column == "gif@3"
    figure, effects = Figure(), read_effects(RunFolder(tmp_path))
    plots.retrainings(figure, effects, column)
    ones, subsets = figure.axes
    assert (ones.get_title(), subsets.get_title()) == ("leaving out one sample", "leaving out a random 5%")
    for axes, kind, count in ((ones, "one", 16), (subsets, "subset", 8)):
        chosen = [row for row in effects.to_pylist() if row["kind"] == kind]
        points = np.asarray(axes.collections[0].get_offsets())
        assert len(points) == count
        np.testing.assert_allclose(points, [(row[column], row["measured"]) for row in chosen])
        np.testing.assert_allclose(points[:, 0], points[:, 1], atol=1e-12)


@pytest.mark.parametrize(("ones", "subsets", "panels"), [(1, 0, 1), (0, 3, 1), (0, 0, 0)])
def test_only_kinds_of_removal_that_were_tried_have_a_panel(tmp_path, ones, subsets, panels):
    _, pictures = _retrainings(tmp_path, ones=ones, subsets=subsets)
    assert ("retrainings" in [picture.name for picture in pictures]) == bool(panels)
    if panels:
        from matplotlib.figure import Figure

        figure = Figure()
        plots.retrainings(figure, read_effects(RunFolder(tmp_path)), "gif")
        assert len(figure.axes) == panels


def test_effects_that_are_all_equal_draw(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, (first, *_) = _retrainings(tmp_path, effect=np.zeros(40))
    assert first.name == "retrainings"
