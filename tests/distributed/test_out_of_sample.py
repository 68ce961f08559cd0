from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor import Audit
from auditor.distributed.out_of_sample import folds, out_of_sample_on_ray
from auditor.distributed.retrain import Retrainer
from auditor.distributed.retraining import Retraining
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.trained_run import TrainedRun
from auditor.errors import StageError
from auditor.fidelity.removals import Removal
from auditor.influence import Point, sample_logits
from auditor.report.ranking import rank_samples
from tests.distributed.builders import config, train_here

CPU = torch.device("cpu")
ASKED = {
    "score": {"methods": ["out_of_sample", "loss"], "folds": 3},
    "report": {"rank_by": "out_of_sample", "neighbours": 0, "harmed": 0},
    "resources": {"retrainers": 2},
}


def probabilities(trained, without):
    """Of every class for the rows left out, [rows, classes], from a training that is run again here."""
    weights = np.ones(trained.manifest.rows)
    weights[list(without)] = 0.0
    state = Retraining(trained, weights).run()
    point = Point.at(trained.precise, state.parameters, state.buffers)
    with torch.no_grad():
        return sample_logits(trained.network, point, trained.train.inputs(np.array(without))).softmax(dim=1)


def test_folds_share_no_row_hold_every_row_and_have_each_class_alike():
    labels = np.repeat([0, 1, 2], [31, 7, 12])[np.random.default_rng(0).permutation(50)]
    found = folds(labels, 5, seed=3)
    assert sorted(row for fold in found for row in fold.rows) == list(range(50))
    for fold in found:
        assert list(fold.rows) == sorted(fold.rows)
        counts = np.bincount(labels[list(fold.rows)], minlength=3)
        assert np.abs(counts - np.array([31, 7, 12]) / 5).max() < 1
    assert sum(fold.share for fold in found) == pytest.approx(1.0)
    assert folds(labels, 5, seed=3) == found
    assert folds(labels, 5, seed=4) != found
    assert [fold.rows for fold in folds(labels[:2], 5, seed=3)] in ([(0,), (1,)], [(1,), (0,)])


def test_a_label_has_no_say_in_the_confidence_that_it_gets(tmp_path):
    audit = config(tmp_path / "run", **ASKED)
    run = train_here(audit)
    rows = (3, 50, 51, 120)
    actor = Retrainer(audit.model_dump(mode="json"), run.uri)
    given = actor.trained.train.labels[list(rows)]
    expected = probabilities(TrainedRun(audit, run, CPU), rows)
    found = actor.confidence(Removal("fold", rows))
    np.testing.assert_allclose(found, expected[range(4), given], rtol=1e-5)
    other = (given + 1) % 10
    actor.trained.train.labels[list(rows)] = other
    np.testing.assert_allclose(actor.confidence(Removal("fold", rows)), expected[range(4), other], rtol=1e-5)


@pytest.mark.ray
def test_every_row_is_judged_by_the_training_without_its_fold_and_done_folds_are_kept(tmp_path, ray_cluster):
    audit = config(tmp_path / "run", **ASKED)
    run = train_here(audit)
    trained = TrainedRun(audit, run, CPU)
    labels = trained.train.labels
    expected = np.zeros(len(labels))
    for fold in folds(labels.numpy(), 3, audit.seed):
        rows = list(fold.rows)
        expected[rows] = probabilities(trained, rows)[range(len(rows)), labels[rows]]

    assert Audit(audit).score() == len(labels)
    found = read_row_scores(run)["out_of_sample"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    ranking = rank_samples(audit, run)
    np.testing.assert_allclose(ranking.table["harm"], 0.5 - np.sort(found), rtol=1e-6, atol=1e-7)

    # What an earlier attempt left is taken as it is; only what is missing is trained.
    kept, lost, third = run.names("out_of_sample/folds")
    marked = run.read_table(f"out_of_sample/folds/{kept}")
    run.write_table(f"out_of_sample/folds/{kept}", marked.set_column(1, "probability", [np.full(len(marked), 0.25)]))
    before = (run.local / "out_of_sample/folds" / third).stat().st_mtime_ns
    run.remove(f"out_of_sample/folds/{lost}")
    run.remove("out_of_sample/influence.parquet")
    out_of_sample_on_ray(audit, run)
    again = read_row_scores(run)["out_of_sample"]
    places = marked["row"].to_numpy()
    assert (again[places] == 0.25).all()
    np.testing.assert_allclose(np.delete(again, places), np.delete(found, places), rtol=1e-6)
    assert (run.local / "out_of_sample/folds" / third).stat().st_mtime_ns == before


@pytest.mark.ray
def test_a_retraining_without_sound_numbers_is_no_confidence(tmp_path, ray_cluster):
    audit = config(tmp_path / "run", **ASKED)
    run = train_here(audit)
    for name in run.names("trajectory/batches"):
        part = run.read_table(f"trajectory/batches/{name}")
        place = part.column_names.index("lr")
        field = part.schema.field(place)
        run.write_table(
            f"trajectory/batches/{name}",
            part.set_column(place, field, [np.full(len(part), 1e30).astype(field.type.to_pandas_dtype())]),
        )
    with pytest.raises(StageError, match="out_of_sample: a training without"):
        out_of_sample_on_ray(audit, run)
    assert not run.exists("out_of_sample/influence.parquet")
