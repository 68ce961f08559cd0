from __future__ import annotations

import dataclasses
import json

import pytest

from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, spread_checkpoints
from auditor.trajectory.manifest import MANIFEST
from tests.trajectory.builders import manifest, record


def test_checkpoints_are_spread_evenly_from_the_initial_to_the_final_state():
    assert spread_checkpoints(90, 10) == tuple(range(0, 91, 10))
    assert spread_checkpoints(7, 3) == (0, 4, 7)
    assert spread_checkpoints(2, 10) == (0, 1, 2)


def test_what_is_written_is_read_back(tmp_path):
    run = RunFolder(tmp_path)
    assert Manifest.read(run) is None
    recorded = record(run, manifest()).manifest
    assert Manifest.read(run) == recorded
    assert recorded.complete


def test_same_training_ignores_progress_and_workers_but_no_number_of_the_objective():
    plan = manifest()
    assert plan.same_training(dataclasses.replace(plan, world_size=8, seconds=3.0, checkpoints=(0,)))
    assert not plan.same_training(dataclasses.replace(plan, micro_batch_size=4))
    assert not plan.same_training(dataclasses.replace(plan, seed=4))


def test_newer_format_is_refused_by_name(tmp_path):
    run = RunFolder(tmp_path)
    manifest().write(run)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(InputError, match=r"manifest\.json.*format version 99"):
        Manifest.read(run)
