"""What scoring starts from, against the same numbers worked out from the files of the run folder by hand."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from auditor import counters
from auditor.distributed.loop import new_model
from auditor.distributed.scoring_inputs import _evenly, prepare_scoring
from auditor.distributed.trained_run import TrainedRun
from auditor.errors import StageError
from auditor.influence import Derivatives, Point, sample_logits
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from tests.distributed.builders import config, train_here

CPU = torch.device("cpu")
CHANGES = {
    "data": {"source": {"kind": "digits"}, "limit": {"train": 300, "validation": 60, "test": 60}, "label_noise": 0.1},
    "train": {
        "epochs": 3,
        "batch_size": 32,
        "micro_batch_size": 8,
        "checkpoints": 4,
        "precision": "float64",
        "optimizer": {"weight_decay": 0.01, "warmup_epochs": 0.5},
    },
    "model": {"name": "small_cnn", "args": {"widths": [4, 6]}},
    "evaluation": {"statistics_rows": 281, "batch_size": 32},
}
STEPS = (0, 9, 18, 27)
RUNNING = {**CHANGES, "evaluation": {"statistics": "running", "batch_size": 32}}


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return config(tmp_path_factory.mktemp("inputs") / "run", **CHANGES)


@pytest.fixture(scope="module")
def run(audit):
    return train_here(audit)


@pytest.fixture(scope="module")
def found(audit, run):
    return prepare_scoring(audit, run, CPU)


def scoring(audit, methods, seed=0, **changes):
    """The audit with other methods."""
    score, report = {"methods": methods, **changes}, {"rank_by": methods[0]}
    return config(audit.run, **CHANGES, seed=seed, score=score, report=report)


def scores_of(audit, run, inputs):
    """What the scoring actors make of the inputs, for all rows at once."""
    trained = TrainedRun(audit, run, CPU)
    derivatives = Derivatives(trained.network, inputs.directions)(*rows_of(run, "train")).numpy()
    return {column: (weights * derivatives).sum(1) for column, weights in inputs.weights.items()}


def rows_of(run, split):
    """Inputs and labels of a split, from its files."""
    table, described = run.read_table(f"dataset/{split}"), run.read_json("dataset.json")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()])
    mean, std = described["mean"][0], described["std"][0]
    inputs = torch.from_numpy((pixels[:, None] / 255.0 - mean) / std)
    return inputs, torch.tensor(table["label"].to_pylist())


def module_at(audit, run, parameters, buffers=None):
    """The network with some parameters; its BatchNorm statistics recomputed layer by layer, or those given."""
    model = new_model(audit, TrainedRun(audit, run, CPU).dataset)
    model.load_state_dict({**(buffers or {}), **parameters}, strict=buffers is not None)
    if buffers is None:
        inputs, _ = rows_of(run, "train")
        chosen = np.sort(counters.permutation("statistics", len(inputs), audit.seed)[:281])
        # 256 rows at most share one batch of statistics.
        chunks = [pass_through(model, inputs[half]) for half in (chosen[:141], chosen[141:])]
        for place, layer in enumerate(layer for layer in model if isinstance(layer, nn.BatchNorm2d)):
            layer.running_mean = torch.stack([chunk[place][0] for chunk in chunks]).mean(0)
            layer.running_var = torch.stack([chunk[place][1] for chunk in chunks]).mean(0)
    return model.eval()


def pass_through(model, values):
    """Mean and biased variance before each BatchNorm layer, each layer fed with what the batch itself normalises."""
    statistics = []
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.BatchNorm2d):
                mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
                statistics.append((mean, variance))
                centred = (values - mean[:, None, None]) / (variance[:, None, None] + layer.eps).sqrt()
                values = centred * layer.weight[:, None, None] + layer.bias[:, None, None]
            else:
                values = layer(values)
    return statistics


def measured(model, run, split):
    inputs, labels = rows_of(run, split)
    with torch.no_grad():
        logits = model(inputs)
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def test_evaluation_is_that_of_precise_statistics_at_every_checkpoint(audit, run, found):
    for step, entry in zip(STEPS, found.evaluation["checkpoints"], strict=True):
        loss, accuracy = measured(
            module_at(audit, run, TrajectoryReader(run).state(step).parameters), run, "validation"
        )
        assert (entry["step"], entry["epoch"]) == (step, step / 9)
        assert entry["validation_loss"] == pytest.approx(loss, rel=1e-9)
        assert entry["validation_accuracy"] == pytest.approx(accuracy)
    loss, accuracy = measured(module_at(audit, run, TrajectoryReader(run).state(27).parameters), run, "test")
    assert found.evaluation["test_loss"] == pytest.approx(loss, rel=1e-9)
    assert found.evaluation["test_accuracy"] == pytest.approx(accuracy)


def test_evaluation_has_the_contracts_fields_and_ends_with_the_final_state(found):
    evaluation = found.evaluation
    assert list(evaluation) == [
        "statistics",
        "query",
        "query_loss",
        "checkpoints",
        "validation_loss",
        "validation_accuracy",
        "test_loss",
        "test_accuracy",
        "rounding",
    ]
    assert evaluation["rounding"] == {}
    assert evaluation["statistics"] == "precise"
    assert evaluation["query"] == "validation loss"
    assert evaluation["query_loss"] == evaluation["validation_loss"]
    assert [set(entry) for entry in evaluation["checkpoints"]] == [
        {"step", "epoch", "validation_loss", "validation_accuracy"}
    ] * 4
    for measure in ("validation_loss", "validation_accuracy"):
        assert evaluation[measure] == evaluation["checkpoints"][-1][measure]
    assert all(isinstance(entry["epoch"], float) for entry in evaluation["checkpoints"])


def test_running_statistics_are_those_that_training_left(run, found, audit):
    running = config(audit.run, **RUNNING)
    inputs = prepare_scoring(running, run, CPU)
    assert inputs.final.statistics == {}
    assert inputs.evaluation["statistics"] == "running"
    for step, entry in zip(STEPS, inputs.evaluation["checkpoints"], strict=True):
        state = TrajectoryReader(run).state(step)
        loss, accuracy = measured(module_at(running, run, state.parameters, state.buffers), run, "validation")
        assert entry["validation_loss"] == pytest.approx(loss, rel=1e-9)
        assert entry["validation_accuracy"] == pytest.approx(accuracy)
    assert inputs.evaluation["validation_loss"] != pytest.approx(found.evaluation["validation_loss"], rel=1e-3)


@pytest.mark.parametrize("statistics", ["precise", "running"])
def test_the_logged_model_is_the_evaluated_one(audit, run, statistics):
    changed = config(audit.run, **(CHANGES if statistics == "precise" else RUNNING))
    model = TrainedRun(changed, run, CPU).model()
    assert not model.training
    evaluation = prepare_scoring(changed, run, CPU).evaluation
    assert measured(model, run, "validation")[0] == pytest.approx(evaluation["validation_loss"], rel=1e-9)
    assert measured(model, run, "test") == pytest.approx((evaluation["test_loss"], evaluation["test_accuracy"]))


def test_the_direction_is_the_gradient_of_validation_loss_statistics_included(audit, run, found):
    """Its square by a finite difference along it, the statistics recomputed at both ends."""
    gradient = found.directions[0][0].parameters
    state = TrajectoryReader(run).state(27)
    square = sum(value.square().sum().item() for value in gradient.values())
    step = 1e-4 / square**0.5
    ends = []
    for side in (1, -1):
        moved = {name: value + side * step * gradient[name] for name, value in state.parameters.items()}
        ends.append(measured(module_at(audit, run, moved), run, "validation")[0])
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(square, rel=1e-5)
    for direction in found.directions[1:]:
        assert all(torch.equal(direction[0].parameters[name], value) for name, value in gradient.items())


@pytest.mark.parametrize("index", range(4))
def test_each_checkpoint_is_perturbed_by_the_step_recorded_there(audit, run, found, index):
    """ε of the mean gradient of the step's micro-batches; the last step's where training has ended."""
    step = STEPS[index]
    inputs, labels = rows_of(run, "train")
    ledger = pa.concat_tables(TrajectoryReader(run).batches())
    state = TrajectoryReader(run).state(step)
    model = module_at(audit, run, state.parameters).train()
    for row in ledger.filter(pa.compute.equal(ledger["step"], min(step, 26))).to_pylist():
        (cross_entropy(model(inputs[row["samples"]]), labels[row["samples"]]) / 4).backward()
    gradient = {name: value.grad for name, value in model.named_parameters()}
    norm = torch.cat([value.flatten() for value in gradient.values()]).norm()
    for name, value in state.parameters.items():
        expected = value + audit.train.perturbation.rho * gradient[name] / norm
        torch.testing.assert_close(found.directions[index].point.parameters[name], expected, rtol=1e-9, atol=1e-12)


def effective_step(rates, step, momentum, weight_decay):
    """How far training by no other gradient than a one at this step moves a parameter down."""
    parameter = velocity = 0.0
    for now, rate in enumerate(rates):
        velocity = momentum * velocity + float(now == step) + weight_decay * parameter
        parameter -= rate * velocity
    return -parameter


def test_exposures_are_effective_steps_summed_over_the_ledger(run, found):
    ledger = pa.concat_tables(TrajectoryReader(run).batches()).to_pylist()
    rates = [row["lr"] for row in ledger if row["micro_batch"] == 0]
    expected = np.zeros((300, 4))
    for row in ledger:
        nearest = min(range(4), key=lambda index, middle=row["step"] + 0.5: abs(STEPS[index] - middle))
        expected[row["samples"], nearest] += effective_step(rates, row["step"], 0.9, 0.01) / 32
    np.testing.assert_allclose(found.weights["gif"], expected, rtol=1e-9, atol=1e-15)


def test_detectors_are_means_of_the_recorded_signals(audit, run):
    methods = ["aum", "aum_perturbed", "self_confidence", "aum_late", "random"]
    known = prepare_scoring(scoring(audit, methods), run, CPU).known
    assert set(known) == set(methods)
    signals = {}
    for row in pa.concat_tables(TrajectoryReader(run).signals()).to_pylist():
        values = (row["margin"], row["margin_perturbed"], np.exp(-row["loss"]))
        signals.setdefault(row["sample"], []).append(values)
    assert sorted(signals) == list(range(300))
    expected = np.array([np.mean(signals[sample], axis=0) for sample in range(300)])
    for column, name in enumerate(methods[:3]):
        np.testing.assert_allclose(known[name], expected[:, column], rtol=1e-6)
    late = TrajectoryReader(run).mean_signal("margin", since=audit.train.epochs // 2)
    np.testing.assert_allclose(known["aum_late"], late, rtol=1e-6)


def test_the_control_is_drawn_by_seed_and_spread_evenly(audit, run):
    first, again = (prepare_scoring(scoring(audit, ["random"]), run, CPU).known["random"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 300
    assert first.mean() == pytest.approx(0.5, abs=0.06)
    other = scoring(audit, ["random"], seed=1)
    assert np.corrcoef(first, prepare_scoring(other, run, CPU).known["random"])[0, 1] == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize(
    ("count", "steps"), [(1, [27]), (2, [0, 27]), (3, [0, 18, 27]), (4, [*STEPS]), (9, [*STEPS]), (None, [*STEPS])]
)
def test_as_many_checkpoints_are_used_as_asked_for_evenly(audit, run, found, count, steps):
    changed = config(audit.run, **CHANGES, score={"checkpoints": count})
    inputs = prepare_scoring(changed, run, CPU)
    assert len(inputs.directions) == inputs.weights["gif"].shape[1] == len(steps)
    for step, direction in zip(steps, inputs.directions, strict=True):
        same = found.directions[STEPS.index(step)].point.parameters
        assert all(torch.equal(direction.point.parameters[name], value) for name, value in same.items())
    # Every step's weight goes to one checkpoint, whichever there are.
    np.testing.assert_allclose(inputs.weights["gif"].sum(1), found.weights["gif"].sum(1), rtol=1e-12)
    assert len(inputs.evaluation["checkpoints"]) == 4


@given(st.integers(1, 40), st.integers(1, 50))
def test_checkpoints_are_spread_evenly(there, wanted):
    chosen = _evenly(np.arange(there), wanted)
    assert len(chosen) == min(there, wanted)
    assert chosen[-1] == there - 1
    gaps = {int(after - before) for before, after in itertools.pairwise(chosen)}
    assert len(chosen) == 1 or chosen[0] == 0
    assert len(gaps) <= 2
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_without_gif_there_are_no_directions(audit, run):
    changed = config(audit.run, **CHANGES, score={"methods": ["loss", "aum"]}, report={"rank_by": "loss"})
    inputs = prepare_scoring(changed, run, CPU)
    assert inputs.directions == ()
    assert inputs.weights == {}
    assert set(inputs.known) == {"aum"}


def test_a_training_that_has_not_ended_is_refused_with_its_step(audit, run, tmp_path):
    with pytest.raises(StageError, match="holds no trajectory; train first"):
        prepare_scoring(audit, RunFolder(tmp_path / "empty"), CPU)
    manifest = run.read_json("trajectory/manifest.json")
    half = RunFolder(tmp_path / "half")
    half.write_json("trajectory/manifest.json", {**manifest, "status": "running", "checkpoints": [0, 9]})
    with pytest.raises(StageError, match="training has reached step 9 of 27; let it end first"):
        prepare_scoring(audit, half, CPU)


def test_gif_with_fewer_checkpoints_is_gif_of_those_alone(audit, run, found):
    inputs = prepare_scoring(scoring(audit, ["gif"], ablation=True), run, CPU)
    # The run has 4 checkpoints: neither 5 nor 10 can be taken of them.
    assert list(inputs.weights) == ["gif", "gif@3"]
    assert len(inputs.directions) == 4
    np.testing.assert_array_equal(inputs.weights["gif"], found.weights["gif"])
    assert not inputs.weights["gif@3"][:, 1].any()
    alone = scoring(audit, ["gif"], checkpoints=3)
    expected = scores_of(alone, run, prepare_scoring(alone, run, CPU))["gif"]
    np.testing.assert_allclose(scores_of(audit, run, inputs)["gif@3"], expected, rtol=1e-10)


def test_columns_keep_their_directions_beside_those_of_other_methods(audit, run, found):
    together = prepare_scoring(scoring(audit, ["tracin", "trak", "gif"], trak_dimensions=3), run, CPU)
    assert len(together.directions) == 9
    assert all(weights.shape == (300, 9) for weights in together.weights.values())
    scores = scores_of(audit, run, together)
    np.testing.assert_allclose(scores["gif"], scores_of(audit, run, found)["gif"], rtol=1e-10)
    for name in ("tracin", "trak"):
        alone = scoring(audit, [name], trak_dimensions=3)
        expected = scores_of(alone, run, prepare_scoring(alone, run, CPU))[name]
        np.testing.assert_allclose(scores[name], expected, rtol=1e-10)


def test_tracin_is_the_product_of_gradients_at_each_checkpoint_by_autograd(audit, run):
    inputs = prepare_scoring(scoring(audit, ["tracin"]), run, CPU)
    trained = TrainedRun(audit, run, CPU)
    ledger = pa.concat_tables(TrajectoryReader(run).batches()).to_pylist()
    rows, expected = [0, 17, 250], np.zeros(3)
    for index, step in enumerate(STEPS):
        state = trained.reader.state(step)

        def gradient(batch_inputs, batch_labels, state=state):
            leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
            parts = [trained.precise._of_chunk(leaves, state.buffers, chunk) for chunk in trained.precise.chunks]
            statistics = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
            logits = sample_logits(trained.network, Point(leaves, state.buffers, statistics), batch_inputs)
            found = torch.autograd.grad(cross_entropy(logits, batch_labels), list(leaves.values()))
            return torch.cat([value.flatten() for value in found])

        query = gradient(*rows_of(run, "validation"))
        images, labels = rows_of(run, "train")
        for place, row in enumerate(rows):
            used = [
                entry["lr"] / 32
                for entry in ledger
                if row in entry["samples"]
                and min(range(4), key=lambda other, at=entry["step"] + 0.5: abs(STEPS[other] - at)) == index
            ]
            if used:
                product = query @ gradient(images[row : row + 1], labels[row : row + 1])
                expected[place] += sum(used) * float(product)
    np.testing.assert_allclose(scores_of(audit, run, inputs)["tracin"][rows], expected, rtol=1e-8)


def test_trak_is_one_direction_at_the_end_of_training(audit, run):
    inputs = prepare_scoring(scoring(audit, ["trak"], trak_dimensions=5), run, CPU)
    [direction] = inputs.directions
    assert all(torch.equal(direction.point.parameters[name], value) for name, value in inputs.final.parameters.items())
    np.testing.assert_array_equal(inputs.weights["trak"], np.ones((300, 1)))


@pytest.mark.parametrize("query", [{"class_name": "7"}, {"sample_ids": ["digits-0000"]}])
def test_influence_is_measured_on_the_query_and_evaluation_on_the_validation_set(audit, run, found, query):
    table = run.read_table("dataset/validation")
    if "sample_ids" in query:
        query = {"sample_ids": [table["sample_id"][3].as_py()]}
        chosen = np.array([3])
    else:
        chosen = np.flatnonzero(np.asarray(table["label"]) == 7)
    asked = config(audit.run, **CHANGES, query=query, score={"methods": ["gif"], "checkpoints": 1})
    inputs = prepare_scoring(asked, run, CPU)
    images, labels = rows_of(run, "validation")
    state = TrajectoryReader(run).state(27)

    def query_loss(parameters):
        with torch.no_grad():
            return cross_entropy(module_at(audit, run, parameters)(images[chosen]), labels[chosen]).item()

    assert inputs.evaluation["query_loss"] == pytest.approx(query_loss(state.parameters), rel=1e-9)
    assert inputs.evaluation["query"].startswith("the loss on validation sample")
    assert inputs.evaluation["validation_loss"] == found.evaluation["validation_loss"]
    gradient = inputs.directions[0][0].parameters
    square = sum(value.square().sum().item() for value in gradient.values())
    step = 1e-4 / square**0.5
    ends = [
        query_loss({name: value + side * step * gradient[name] for name, value in state.parameters.items()})
        for side in (1, -1)
    ]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(square, rel=1e-5)
