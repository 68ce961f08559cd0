from __future__ import annotations

import numpy as np
import pytest

from auditor.report.classes import HEATS, MATRIX_CLASSES, by_class
from auditor.report.ranking import rank_samples
from tests.report.builders import Audit


def _classes(path, **settings):
    audit = Audit(**settings)
    return audit, by_class(rank_samples(*audit.write(path)))


def test_a_line_sums_up_its_class(tmp_path):
    audit, classes = _classes(tmp_path, rows=200)
    assert [line.name for line in classes.lines] == list(audit.class_names)
    flagged = [row for row in np.argsort(audit.scores["gif"])[:40] if audit.scores["gif"][row] < 0]
    for line in classes.lines:
        own = audit.label == line.index
        assert line.rows == own.sum()
        assert line.flagged == np.isin(np.flatnonzero(own), flagged).sum()
        assert line.elsewhere == (own & (audit.scores["suggested_label"] != audit.label)).sum()
        assert line.mean_harm == pytest.approx(-audit.scores["gif"][own].mean())
        assert line.wrong == audit.wrong[own].sum()


def test_without_truth_no_label_is_called_wrong_and_a_class_without_rows_has_no_mean(tmp_path):
    audit = Audit(truth=False)
    audit.label = np.where(audit.label == 3, 0, audit.label).astype(np.int32)
    classes = by_class(rank_samples(*audit.write(tmp_path)))
    assert [line.wrong for line in classes.lines] == [None] * 4
    assert (classes.lines[3].rows, classes.lines[3].mean_harm) == (0, None)


def test_the_matrix_counts_every_row_once_by_given_and_suggested_label(tmp_path):
    audit, classes = _classes(tmp_path, rows=200)
    assert classes.shown == (0, 1, 2, 3)
    assert classes.counts.sum() == 200
    for row in range(4):
        for column in range(4):
            both = (audit.label == row) & (audit.scores["suggested_label"] == column)
            assert classes.counts[row, column] == both.sum()


def test_shades_leave_the_diagonal_out_and_reach_the_most_frequent_pair(tmp_path):
    _, classes = _classes(tmp_path, rows=200)
    others = classes.counts * (1 - np.eye(4, dtype=int))
    assert (classes.heats.diagonal() == 0).all()
    assert (classes.heats[others == others.max()] == HEATS).all()
    assert ((classes.heats > 0) == (others > 0)).all()


def test_of_many_classes_the_matrix_shows_those_with_most_suggestions_of_another_label(tmp_path):
    audit = Audit(rows=400, class_names=[f"class {index}" for index in range(50)], wrong_share=0)
    audit.scores["suggested_label"] = audit.label.copy()
    moved = np.isin(audit.label, [7, 31])
    audit.scores["suggested_label"][moved] = 44
    classes = by_class(rank_samples(*audit.write(tmp_path)))
    assert len(classes.lines) == 50
    assert len(classes.shown) == MATRIX_CLASSES
    assert {7, 31, 44} < set(classes.shown)
    assert classes.shown == tuple(sorted(classes.shown))
    place = {index: at for at, index in enumerate(classes.shown)}
    assert classes.counts[place[7], place[44]] == (audit.label == 7).sum()
