from __future__ import annotations

import numpy as np

from auditor.report.curves import training_curves
from tests.report.builders import EPOCHS, STEPS_PER_EPOCH


def test_step_curves_average_the_micro_batches_of_a_step(written):
    _, _, run = written
    training = training_curves(run)
    ledger = run.read_table("trajectory/batches").to_pandas()
    expected = ledger.groupby("step")[["loss", "lr", "grad_norm"]].mean()
    steps, loss = training.curves["train_loss"]
    np.testing.assert_array_equal(steps, np.arange(1, EPOCHS * STEPS_PER_EPOCH + 1))
    np.testing.assert_allclose(loss, expected["loss"])
    np.testing.assert_allclose(training.curves["learning_rate"][1], expected["lr"])
    np.testing.assert_allclose(training.curves["grad_norm"][1], expected["grad_norm"])


def test_a_long_curve_becomes_means_over_bins(written):
    _, _, run = written
    steps, loss = training_curves(run, points=4).curves["train_loss"]
    every = training_curves(run).curves["train_loss"][1]
    np.testing.assert_array_equal(steps, [5, 10, 15, 20])
    np.testing.assert_allclose(loss, every.reshape(4, 5).mean(1))


def test_epoch_curves_are_means_over_samples(written):
    _, _, run = written
    training = training_curves(run)
    signals = run.read_table("trajectory/signals").to_pandas()
    for name, column in (("epoch_loss", "loss"), ("epoch_loss_perturbed", "loss_perturbed")):
        steps, values = training.curves[name]
        np.testing.assert_array_equal(steps, STEPS_PER_EPOCH * np.arange(1, EPOCHS + 1))
        np.testing.assert_allclose(values, signals.groupby("epoch")[column].mean(), rtol=1e-5)
    correct = (signals["margin"] > 0).groupby(signals["epoch"]).mean()
    np.testing.assert_allclose(training.curves["epoch_accuracy"][1], correct)


def test_validation_curves_stand_at_the_checkpoints_that_were_evaluated(written):
    _, _, run = written
    evaluation = run.read_json("evaluation.json")
    evaluation["checkpoints"][1]["validation_loss"] = None
    run.write_json("evaluation.json", evaluation)
    steps, values = training_curves(run).curves["validation_loss"]
    kept = [evaluation["checkpoints"][index] for index in (0, 2)]
    np.testing.assert_array_equal(steps, [entry["step"] for entry in kept])
    np.testing.assert_array_equal(values, [entry["validation_loss"] for entry in kept])


def test_a_trajectory_without_signals_has_no_epoch_curves(written):
    _, _, run = written
    manifest = run.read_json("trajectory/manifest.json")
    for segment in manifest["segments"]:
        segment["signals"] = []
    run.write_json("trajectory/manifest.json", manifest)
    assert set(training_curves(run).curves) == {
        "train_loss",
        "learning_rate",
        "grad_norm",
        "validation_loss",
        "validation_accuracy",
    }
