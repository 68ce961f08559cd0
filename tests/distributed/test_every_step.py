from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

from auditor.distributed.every_step import gif_at_every_step
from auditor.distributed.retraining import Retraining
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import Derivatives
from auditor.report.ranking import harm
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import load_checkpoint, save_checkpoint
from tests.distributed.builders import config, in_processes, train_here

CPU = torch.device("cpu")
CHANGES = {
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": 50, "validation": 40, "test": 20},
        "label_noise": 0.1,
        "augmentation": {"crop_padding": 1},
    },
    "model": {"name": "small_cnn", "args": {"widths": [4]}},
    "train": {
        "epochs": 3,
        "batch_size": 16,
        "micro_batch_size": 8,
        "checkpoints": 3,
        "precision": "float64",
        "optimizer": {"learning_rate": 0.1, "weight_decay": 0.01},
    },
    "evaluation": {"statistics_rows": 32, "batch_size": 16},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    audit = config(tmp_path_factory.mktemp("every") / "run", **CHANGES)
    train_here(audit)
    return audit


def effective_step(rates, step):
    """How far training by no other gradient than a one at this step moves a parameter down: momentum, decay 0.01."""
    parameter = velocity = 0.0
    for now, rate in enumerate(rates):
        velocity = 0.9 * velocity + float(now == step) + 0.01 * parameter
        parameter -= rate * velocity
    return -parameter


def test_influence_is_the_sum_over_the_recorded_steps_of_gradient_products_by_autograd(trained):
    run = TrainedRun(trained, RunFolder(trained.run), CPU)
    query = torch.cat([value.flatten() for value in run.validation_gradient().values()])
    training, rates = Retraining(run), run.reader.learning_rates()
    expected = np.zeros(50)
    state = run.reader.state(0)
    for _, steps in run.reader.recorded_steps():
        for step in steps:
            for index, batch in training.micro_batches(step):
                leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
                logits, _ = run.network.train(leaves, state.buffers, batch.inputs, batch.seed)
                first = torch.autograd.grad(cross_entropy(logits, batch.labels), list(leaves.values()))
                radius = 0.05 / torch.cat([value.flatten() for value in first]).norm()
                at = {
                    name: (value + radius * ascent).detach().requires_grad_()
                    for (name, value), ascent in zip(state.parameters.items(), first, strict=True)
                }
                logits, _ = run.network.train(at, state.buffers, batch.inputs, batch.seed)
                losses = cross_entropy(logits, batch.labels, reduction="none")
                for row, loss in zip(step.micro_batches[index], losses, strict=True):
                    found = torch.autograd.grad(loss, list(at.values()), retain_graph=True)
                    product = float(query @ torch.cat([value.flatten() for value in found]))
                    expected[row] += effective_step(rates, step.index) / 16 * product
            state = training.forward(state, step)
    found = gif_at_every_step(trained, RunFolder(trained.run), CPU)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12 * np.abs(expected).max())


def test_under_adamw_each_step_is_scaled_by_its_own_second_moment(tmp_path):
    """With ε so large that nothing else counts in the denominator, it is the sum for SGD of β₁ and other numbers."""
    optimizer = {"name": "adamw", "learning_rate": 0.1, "beta1": 0.0, "epsilon": 1e6, "weight_decay": 0.0}
    changes = {**CHANGES, "train": {**CHANGES["train"], "optimizer": optimizer}}
    adamw = config(tmp_path / "adamw", **changes)
    train_here(adamw)
    plain = {"learning_rate": 0.1 / 1e6, "momentum": 0.0, "weight_decay": 0.0}
    sgd = config(tmp_path / "sgd", **{**CHANGES, "train": {**CHANGES["train"], "optimizer": plain}})
    train_here(sgd)
    found, expected = (gif_at_every_step(audit, RunFolder(audit.run), CPU) for audit in (adamw, sgd))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def _rank(rank, audit, folder):
    np.save(f"{folder}/{rank}.npy", gif_at_every_step(audit, RunFolder(audit.run), CPU))


def test_any_number_of_workers_finds_the_same_influence(trained, tmp_path):
    in_processes(_rank, 2, trained, str(tmp_path))
    alone = gif_at_every_step(trained, RunFolder(trained.run), CPU)
    for rank in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), alone, rtol=1e-7, atol=1e-12)


def test_progress_is_told_in_steps(trained):
    told = []
    gif_at_every_step(trained, RunFolder(trained.run), CPU, told.append)
    assert told == list(range(1, 10))


def test_a_ledger_that_does_not_lead_to_its_checkpoints_is_refused(tmp_path):
    audit = config(tmp_path, **CHANGES)
    run = train_here(audit)
    tampered = load_checkpoint(run, 4)
    for value in tampered.parameters.values():
        value.add_(0.01)
    run.remove("trajectory/checkpoints/step-00000004")
    save_checkpoint(run, 4, tampered)
    assert "gif_step stopped at step 4: training run again differs" in gif_at_every_step(audit, run, CPU)


def test_labels_changed_by_hand_are_worse_than_the_others_under_every_baseline(tmp_path):
    influences, detectors = ["gif", "tracin", "trak"], ["aum", "aum_perturbed", "self_confidence"]
    audit = config(
        tmp_path,
        data={"source": {"kind": "digits"}, "limit": {"train": 200, "validation": 200, "test": 60}},
        model={"name": "mlp"},
        train={"epochs": 6, "batch_size": 32, "micro_batch_size": 16, "checkpoints": 11},
        score={"methods": [*influences, *detectors], "ablation": True, "trak_dimensions": 40},
    )
    wrong = range(5, 200, 10)
    run = train_here(audit, wrong)
    inputs, trained = prepare_scoring(audit, run, CPU), TrainedRun(audit, run, CPU)
    rows = trained.train.inputs(np.arange(200))
    derivatives = Derivatives(trained.network, inputs.directions)(rows, trained.train.labels).numpy()
    scores = {column: (weights * derivatives).sum(1) for column, weights in inputs.weights.items()}
    scores |= {**inputs.known, "gif_step": gif_at_every_step(audit, run, CPU)}
    variants = ["gif@3", "gif@5", "gif@10", "gif_step"]
    assert set(scores) == {*influences, *detectors, *variants}
    labels_are_wrong = np.isin(np.arange(200), wrong)
    for column, values in scores.items():
        # A score of the wrong sign would come out below 0.5.
        assert roc_auc_score(labels_are_wrong, harm(column, values)) > 0.65, column
