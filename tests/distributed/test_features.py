from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from auditor.config import parse_config
from auditor.distributed.features import READ_FEATURES
from auditor.distributed.trained_run import TrainedRun
from auditor.report.surroundings import read_head
from auditor.storage import RunFolder
from tests.distributed.builders import config, in_processes, train_here

CPU = torch.device("cpu")


def without_head(input_shape, num_classes):
    """A network that ends in a convolution."""
    return nn.Sequential(nn.Conv2d(input_shape[0], num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def read(run, split):
    table = run.read_table(f"features/{split}").sort_by("row")
    return table["row"].to_numpy(), np.stack(table["features"].to_numpy(zero_copy_only=False))


def _work(rank, audit):
    assert READ_FEATURES.work(audit, RunFolder(audit.run), CPU, lambda _: None) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_the_last_layer_makes_the_models_logits_of_the_features_of_every_sample(tmp_path, workers):
    audit = config(tmp_path)
    run = train_here(audit)
    assert not READ_FEATURES.finished(run)
    (in_processes(_work, workers, audit) if workers > 1 else _work(0, audit))
    assert READ_FEATURES.finished(run)
    assert len(run.names("features/train")) == workers
    trained, head = TrainedRun(audit, run, CPU), read_head(run)
    for split, count in (("train", 200), ("validation", 60)):
        rows, features = read(run, split)
        assert rows.tolist() == list(range(count))
        logits = torch.cat([trained.model()(inputs) for inputs, _ in trained.chunks(split)]).detach()
        np.testing.assert_allclose(features @ head.weight.T + head.bias, logits.numpy(), rtol=1e-4, atol=1e-4)


def test_progress_reaches_the_extent_and_a_model_without_a_last_layer_leaves_only_that(tmp_path):
    audit = config(tmp_path)
    run = train_here(audit)
    told = []
    assert READ_FEATURES.work(audit, run, CPU, told.append) is None
    assert told[-1] == READ_FEATURES.extent(audit, run)[1] == 260
    assert told == sorted(told)
    other = tmp_path / "other"
    raw = audit.model_dump(mode="json")
    raw |= {"run": str(other), "model": {"name": "tests.distributed.test_features:without_head"}}
    bare = train_here(parse_config(raw))
    assert READ_FEATURES.work(parse_config(raw), bare, CPU, lambda _: None) is None
    assert bare.read_json("features/features.json")["head"] is None
    assert read_head(bare) is None
