from __future__ import annotations

import numpy as np
import pytest

from auditor.errors import StageError
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from auditor.trajectory.order import steps_from
from tests.trajectory.builders import loss_of, manifest, record


@pytest.fixture
def recorded(tmp_path):
    plan = manifest()
    record(RunFolder(tmp_path), plan)
    return plan, TrajectoryReader(RunFolder(tmp_path))


def test_exposures_sum_the_weights_of_the_steps_that_used_a_sample(recorded):
    plan, reader = recorded
    weights = np.arange(1.0, plan.steps + 1)
    intervals = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    expected = np.zeros((plan.rows, 4))
    for step, _, micro_batches in steps_from(plan, 0):
        for row in np.concatenate(micro_batches):
            expected[row, intervals[step]] += weights[step]
    np.testing.assert_array_equal(reader.exposures(weights, intervals, 4), expected)


def test_learning_rates_come_from_the_ledger(recorded):
    plan, reader = recorded
    np.testing.assert_allclose(reader.learning_rates(), 0.1 / (1 + np.arange(plan.steps)))


def test_step_samples_are_the_batch_in_its_order(recorded):
    plan, reader = recorded
    for step, _, micro_batches in steps_from(plan, 0):
        np.testing.assert_array_equal(reader.step_samples(step), np.concatenate(micro_batches))
    with pytest.raises(StageError, match="no step 8"):
        reader.step_samples(plan.steps)


@pytest.mark.parametrize("name", ["margin", "loss", "margin_perturbed"])
def test_a_mean_signal_is_its_mean_over_the_epochs_that_saw_the_sample(recorded, name):
    plan, reader = recorded
    found = {row: [] for row in range(plan.rows)}
    for table in reader.signals():
        for row in table.select(["sample", name]).to_pylist():
            found[row["sample"]].append(row[name])
    np.testing.assert_allclose(reader.mean_signal(name), [np.mean(found[row]) for row in range(plan.rows)], rtol=1e-6)


def test_the_mean_margin_is_that_of_the_recorded_steps(recorded):
    plan, reader = recorded
    seen = [[] for _ in range(plan.rows)]
    for step, _, micro_batches in steps_from(plan, 0):
        for row in np.concatenate(micro_batches):
            seen[row].append(float(loss_of(step, row)) - 1)
    np.testing.assert_allclose(reader.mean_signal("margin"), [np.mean(margins) for margins in seen], rtol=1e-6)


@pytest.mark.parametrize("since", [0, 1, 2])
def test_a_late_mean_is_over_the_epochs_that_count(recorded, since):
    _, reader = recorded
    seen = {}
    for table in reader.signals():
        for row in table.to_pylist():
            if row["epoch"] >= since:
                seen.setdefault(row["sample"], []).append(row["margin"])
    expected = [np.mean(seen.get(row, [np.nan])) for row in range(reader.manifest.rows)]
    assert (len(seen) == 0) == (since >= reader.manifest.epochs)
    np.testing.assert_allclose(reader.mean_signal("margin", since=since), expected, rtol=1e-6)


def test_a_function_is_applied_before_the_mean(recorded):
    plan, reader = recorded
    seen = [[] for _ in range(plan.rows)]
    for step, _, micro_batches in steps_from(plan, 0):
        for row in np.concatenate(micro_batches):
            seen[row].append(np.exp(-float(loss_of(step, row))))
    found = reader.mean_signal("loss", lambda losses: np.exp(-losses))
    np.testing.assert_allclose(found, [np.mean(values) for values in seen], rtol=1e-6)


def test_a_mean_signal_is_nan_without_signals(tmp_path):
    record(RunFolder(tmp_path), manifest(), signals=False)
    assert np.isnan(TrajectoryReader(RunFolder(tmp_path)).mean_signal("margin")).all()


def test_a_training_that_has_not_ended_is_refused(tmp_path):
    with pytest.raises(StageError, match="no trajectory"):
        TrajectoryReader(RunFolder(tmp_path))
    record(RunFolder(tmp_path), manifest(), until=5)
    with pytest.raises(StageError, match="step 4 of 8"):
        TrajectoryReader(RunFolder(tmp_path))
