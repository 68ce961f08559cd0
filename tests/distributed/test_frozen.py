"""Training, and every kind of influence, with layers that are not trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from auditor.distributed.every_step import gif_at_every_step
from auditor.distributed.features import READ_FEATURES
from auditor.distributed.implicit import Implicit, implicit_influence
from auditor.distributed.retraining import Retraining
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.sweep import Sweep, sweep
from auditor.distributed.trained_run import TrainedRun
from auditor.fidelity.edit_files import weights_folder
from auditor.influence import Derivatives, sample_logits
from auditor.methods import HIF
from auditor.models.small_cnn import small_cnn
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import load_state
from tests.distributed.builders import config, equal_states, train_here
from tests.distributed.test_edit import edited, sums_of_scores
from tests.distributed.test_sweep import CHANGES, f_with_weight

CPU = torch.device("cpu")
FROZEN = ["0.*", "1.*"]
"""The first convolution of `small_cnn` and its BatchNorm layer."""
EVERY = {
    **CHANGES,
    "score": {"methods": [*HIF, "gif", "tracin", "trak"], "trak_dimensions": 4},
    "report": {"rank_by": "gif"},
    "hif": {"damping": 1.0, "iterations": 100, "tolerance": 1e-7},
}


class BodyApart(nn.Module):
    """A network whose body is none of its modules: nothing but its last layer can be trained."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self._body = [network[:-1].eval().requires_grad_(False)]
        self.add_module(str(len(network) - 1), network[-1])
        self._head = network[-1]

    def _apply(self, *arguments, **settings):
        self._body[0]._apply(*arguments, **settings)
        return super()._apply(*arguments, **settings)

    def forward(self, inputs):
        return self._head(self._body[0](inputs))


def body_apart(input_shape, num_classes, **args) -> nn.Module:
    return BodyApart(small_cnn(input_shape, num_classes, **args))


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """The first of two convolutions is frozen; the second and its BatchNorm layer are not."""
    model = {"name": "small_cnn", "args": {"widths": [3, 4]}, "frozen": FROZEN}
    audit = config(tmp_path_factory.mktemp("frozen") / "run", **{**EVERY, "model": model})
    train_here(audit)
    return audit


@pytest.fixture(scope="module")
def trained(audit):
    return TrainedRun(audit, RunFolder(audit.run), CPU)


def test_frozen_tensors_are_the_same_bits_in_every_checkpoint_and_stand_among_the_buffers(trained):
    states = [trained.reader.state(step) for step in trained.manifest.checkpoints]
    first = states[0]
    still = {name for name in first.buffers if name.startswith(("0.", "1."))}
    assert still == {"0.weight", *(f"1.{kind}" for kind in ("weight", "bias", "running_mean", "running_var"))} | {
        "1.num_batches_tracked"
    }
    assert not any(name.startswith(("0.", "1.")) for name in (*first.parameters, *first.momentum))
    for state in states[1:]:
        assert all(torch.equal(state.buffers[name], first.buffers[name]) for name in still)
        assert not torch.equal(state.buffers["5.running_mean"], first.buffers["5.running_mean"])
        assert not any(torch.equal(state.parameters[name], first.parameters[name]) for name in first.parameters)


def test_training_run_again_is_the_recorded_one_bit_for_bit(trained):
    assert equal_states(Retraining(trained).run(), trained.reader.state(trained.manifest.steps))


@pytest.mark.parametrize("row", [0, 17])
def test_replay_equals_finite_differences_of_whole_retrainings(audit, row):
    found = sweep(audit, RunFolder(audit.run), CPU)
    assert isinstance(found, Sweep)
    assert max(found.drift.values()) == 0.0
    numeric = (f_with_weight(audit, row, 1 + 1e-5) - f_with_weight(audit, row, 1 - 1e-5)) / 2e-5
    assert found.influence[row] == pytest.approx(-numeric, rel=1e-5, abs=1e-9)


def test_to_first_order_each_edit_of_the_trainable_parameters_does_what_its_scores_say(audit, trained):
    methods = ["hif_full", "ekfac", "gif"]
    asking = audit.model_copy(update={"score": audit.score.model_copy(update={"methods": methods})})
    expected = sums_of_scores(asking)
    run, asked = edited(asking, methods=methods, damping=1.0)
    gradient, recorded = trained.validation_gradient(), trained.reader.state(trained.manifest.steps)
    for method, value in expected.items():
        moved = load_state(run, weights_folder(asked.key, method))
        effect = sum(
            float(((moved.parameters[name] - recorded.parameters[name]) * gradient[name]).sum()) for name in gradient
        )
        assert effect == pytest.approx(value, rel=1e-4, abs=1e-10), method
        assert all(torch.equal(moved.buffers[name], value) for name, value in recorded.buffers.items())


def test_the_module_that_is_logged_gives_the_evaluated_logits(trained):
    inputs, _ = next(iter(trained.chunks("validation")))
    expected = sample_logits(trained.network, trained.point(trained.manifest.steps), inputs)
    torch.testing.assert_close(trained.model()(inputs), expected)


def found_by_every_method(audit):
    """Influence of every training row, by method."""
    run = RunFolder(audit.run)
    trained, inputs, rows = TrainedRun(audit, run, CPU), prepare_scoring(audit, run, CPU), np.arange(50)
    along = Derivatives(trained.network, inputs.directions)(trained.train.inputs(rows), trained.train.labels)
    found = {name: (weights * along.numpy()).sum(axis=1) for name, weights in inputs.weights.items()}
    solved = implicit_influence(audit, run, CPU)
    assert isinstance(solved, Implicit), solved
    swept = sweep(audit, run, CPU)
    assert isinstance(swept, Sweep), swept
    return {**found, **solved.influence, "replay": swept.influence, "gif_step": gif_at_every_step(audit, run, CPU)}


def test_by_every_method_a_frozen_body_is_a_body_that_the_network_has_not(tmp_path):
    """BatchNorm with running statistics in it; so none are needed that follow the parameters."""
    args = {"widths": [4]}
    models = {
        "frozen": {"name": "small_cnn", "args": args, "frozen": FROZEN},
        "apart": {"name": f"{__name__}:body_apart", "args": args},
    }
    audits = {name: config(tmp_path / name, **{**EVERY, "model": model}) for name, model in models.items()}
    for audit in audits.values():
        train_here(audit)
    frozen, apart = (found_by_every_method(audit) for audit in audits.values())
    assert set(frozen) == {*HIF, "gif", "tracin", "trak", "replay", "gif_step"}
    for method, values in apart.items():
        np.testing.assert_allclose(frozen[method], values, rtol=1e-6, atol=1e-9 * np.abs(values).max(), err_msg=method)


@pytest.mark.parametrize(("frozen", "trained"), [(["0.*"], True), (["6.bias"], False)])
def test_what_a_frozen_last_layer_reads_is_kept_but_nothing_has_influence_through_it(tmp_path, frozen, trained):
    train = {"epochs": 1, "batch_size": 50, "micro_batch_size": 50, "checkpoints": 2}
    model = {"name": "small_cnn", "args": {"widths": [4]}, "frozen": frozen}
    audit = config(tmp_path, train=train, model=model)
    run = train_here(audit)
    assert READ_FEATURES.work(audit, run, CPU, lambda _: None) is None
    assert run.read_json("features/features.json") == {"format_version": 1, "head": "6", "trained": trained}
