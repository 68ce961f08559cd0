from __future__ import annotations

import math

import numpy as np
import pytest
import ray
import torch
from torch import nn

from auditor.distributed.remarks import REMARKS
from auditor.distributed.rounding import Rounding
from auditor.distributed.score import Scorer, score_on_ray
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import Derivatives
from auditor.storage import RunFolder
from tests.distributed.builders import config, train_here

CPU = torch.device("cpu")
ROWS = 200


class Stubborn(nn.Module):
    """Computes in 32 bits or not at all."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, values):
        if values.dtype == torch.bfloat16:
            raise TypeError("no bfloat16 here")
        return self.layer(values.flatten(1))


class Cancelling(nn.Module):
    """What it computes is lost where numbers have eight digits."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, values):
        return ((self.layer(values.flatten(1)).sin() + 512.0) - 512.0).sin()


def stubborn(input_shape, num_classes):
    return Stubborn(math.prod(input_shape), num_classes)


def cancelling(input_shape, num_classes):
    return Cancelling(math.prod(input_shape), num_classes)


def scored(folder, model, methods=("gif", "tracin", "trak")):
    """An audit in bfloat16, trained, and what its scoring starts from."""
    score = {"methods": list(methods), "precision": "bfloat16", "trak_dimensions": 16}
    audit = config(folder / "run", model=model, score=score, report={"rank_by": methods[0]})
    run = train_here(audit)
    return audit, run, prepare_scoring(audit, run, CPU)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    return scored(tmp_path_factory.mktemp("rounding"), {"name": "small_cnn", "args": {"widths": [8]}})


def test_equal_influence_loses_nothing():
    values = np.array([3.0, -1.0, 2.0, 0.5])
    assert Rounding.between(values, values) == Rounding(4, 0.0, 0.0, 1.0)


def test_what_is_lost_is_a_share_of_the_influence_in_full():
    found = Rounding.between(np.array([3.0, 1.0]), np.array([4.0, 3.0]))
    assert found == Rounding(2, 2 / 4, math.sqrt((1 + 4) / (16 + 9)), 1.0)
    assert found.good_enough


@pytest.mark.parametrize("found", [[1.0, 2.0, 3.0], [np.nan, 2.0, 3.0], [1.0, 1.0, 1.0]])
def test_ranks_that_change_and_numbers_that_are_none_are_not_good_enough(found):
    assert not Rounding.between(np.array(found), np.array([3.0, 2.0, 1.0])).good_enough


def test_what_fewer_bits_cost_is_what_all_samples_differ_by(rounded):
    """With fewer rows than are tried, all of them are."""
    audit, run, inputs = rounded
    assert inputs.dtype == torch.bfloat16
    trained = TrainedRun(audit, run, CPU)
    given = trained.train.inputs(np.arange(ROWS)), trained.train.labels
    found, expected = (
        Derivatives(trained.network, inputs.directions, dtype=dtype)(*given).numpy()
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert set(inputs.evaluation["rounding"]) == {"gif", "tracin", "trak"}
    for column, lost in inputs.evaluation["rounding"].items():
        left, right = ((inputs.weights[column] * each).sum(1) for each in (found, expected))
        assert lost["rows"] == ROWS
        assert lost["largest"] == pytest.approx(np.abs(left - right).max() / np.abs(right).max(), rel=1e-6)
        assert 0 < lost["typical"] < 0.05
        assert 0.99 < lost["rank"] < 1


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("stubborn", "the network cannot compute in bfloat16 (no bfloat16 here)"),
        ("cancelling", "bfloat16 changes ranks ("),
    ],
)
def test_where_fewer_bits_will_not_do_scores_are_in_full_and_a_remark_says_why(tmp_path, model, words):
    _, run, inputs = scored(tmp_path, {"name": f"{__name__}:{model}"}, ["gif"])
    assert inputs.dtype is None
    assert inputs.evaluation["rounding"] == {}
    [remark] = [run.read_json(f"{REMARKS}/{name}")["sentence"] for name in run.names(REMARKS)]
    assert remark.startswith(words)
    assert remark.endswith("; influence is computed with the parameters' own")


@pytest.mark.ray
def test_actors_compute_in_fewer_bits_what_needs_no_more(rounded, ray_cluster):
    audit, run, inputs = rounded
    assert score_on_ray(audit, RunFolder(run.path)) == ROWS
    scores = run.read_table("scores").sort_by("sample_id")
    scorer = Scorer(audit.model_dump(mode="json"), run.uri, ray.put(inputs))
    table = run.read_table("dataset/train", columns=["row", "sample_id", "image", "label"])
    expected = scorer(table).sort_by("sample_id")
    for column in ("gif", "tracin", "trak"):
        # Batches of other sizes are rounded in other places.
        scale = np.abs(expected[column].to_numpy()).max()
        np.testing.assert_allclose(scores[column].to_numpy(), expected[column].to_numpy(), atol=0.02 * scale)
    assert run.read_json("evaluation.json")["rounding"] == inputs.evaluation["rounding"]
