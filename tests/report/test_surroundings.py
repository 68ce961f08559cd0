from __future__ import annotations

import numpy as np
import pytest

from auditor.influence.head import HeadCurvature
from auditor.report.surroundings import read_head, surroundings
from tests.report.builders import Audit, write_features

DECAY = 1e-3


@pytest.fixture
def run(tmp_path):
    audit = Audit()
    _, run = audit.write(tmp_path)
    return audit, run, write_features(audit, run)


def test_neighbours_are_the_nearest_by_cosine_and_never_the_sample_itself(run):
    _, folder, features = run
    rows = np.array([17, 3, 30])
    found = surroundings(folder, rows, 3, 2, DECAY)
    unit = features["train"] / np.linalg.norm(features["train"], axis=1, keepdims=True)
    for row, near in zip(rows, found.neighbours, strict=True):
        similarity = unit @ unit[row]
        similarity[row] = -np.inf
        best = np.argsort(-similarity)[:3]
        assert [number for number, _ in near] == best.tolist()
        np.testing.assert_allclose([value for _, value in near], similarity[best], rtol=1e-5)


def test_the_most_harmed_are_those_whose_loss_falls_most_without_the_sample(run):
    audit, folder, features = run
    rows = np.array([17, 3, 30])
    found = surroundings(folder, rows, 3, 2, DECAY)
    curvature = HeadCurvature(read_head(folder))
    curvature.add(features["train"])
    labels = folder.read_table("dataset/validation")["label"].to_numpy()
    influence = curvature.influence(DECAY)(features["train"][rows], audit.label[rows], features["validation"], labels)
    for row, hit in zip(influence, found.harmed, strict=True):
        worst = np.argsort(row)[:2]
        assert [number for number, _ in hit] == [number for number in worst.tolist() if row[number] < 0]
        np.testing.assert_allclose([value for _, value in hit], -row[worst][row[worst] < 0], rtol=1e-5)


def test_a_run_without_features_or_a_model_without_a_last_layer_has_none(tmp_path):
    _, folder = Audit().write(tmp_path)
    assert surroundings(folder, np.array([1]), 3, 2, DECAY) is None
    folder.write_json("features/features.json", {"head": None})
    assert surroundings(folder, np.array([1]), 3, 2, DECAY) is None


def test_either_may_be_left_out(run):
    _, folder, _ = run
    found = surroundings(folder, np.array([1, 2]), 0, 2, DECAY)
    assert found.neighbours == [[], []]
    assert surroundings(folder, np.array([1, 2]), 2, 0, DECAY).harmed == [[], []]


def test_through_a_frozen_layer_nothing_harms_but_neighbours_are_neighbours(run):
    _, folder, _ = run
    before = surroundings(folder, np.array([17, 3]), 3, 2, DECAY)
    folder.write_json("features/features.json", {"head": "fc", "trained": False})
    found = surroundings(folder, np.array([17, 3]), 3, 2, DECAY)
    assert any(before.harmed)
    assert found.harmed == [[], []]
    assert found.neighbours == before.neighbours
