from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import save_state
from auditor.trajectory.given import read_weights
from auditor.trajectory.manifest import checkpoint_folder
from tests.stores import BUCKET
from tests.trajectory.builders import manifest, record, state

LAST = checkpoint_folder(8)


@pytest.fixture
def run(tmp_path):
    """Eight steps, the classes known."""
    run = RunFolder(tmp_path / "run")
    record(run, manifest())
    run.write_json("dataset.json", {"class_names": ["cat", "dog"]})
    return run


def holds(found, step):
    """Whether these are the parameters and buffers of a step, and nothing else."""
    expected = {**state(step).parameters, **state(step).buffers}
    assert found.tensors.keys() == expected.keys()
    return all(torch.equal(found.tensors[name], value) for name, value in expected.items())


def test_of_a_run_folder_they_are_the_final_ones(run):
    found = read_weights(run.uri)
    assert holds(found, 8)
    assert (found.address, found.class_names) == (run.full(LAST), ("cat", "dog"))


@pytest.mark.parametrize("end", ["", "/"])
def test_a_checkpoint_is_named_by_its_folder_and_knows_its_audits_classes(run, end):
    found = read_weights(run.full(checkpoint_folder(4)) + end)
    assert holds(found, 4)
    assert found.class_names == ("cat", "dog")
    save_state(run, "edits/key/gif", state(5))
    assert read_weights(run.full("edits/key/gif")).class_names == ("cat", "dog")


def test_a_checkpoint_somewhere_else_is_of_unknown_classes(run, tmp_path):
    shutil.copytree(run.full(LAST), tmp_path / "kept")
    found = read_weights(f"file://{tmp_path}/kept")
    assert holds(found, 8)
    assert found.class_names is None


def test_a_file_is_a_state_dict(tmp_path, monkeypatch):
    save_file({"a.weight": torch.eye(2)}, tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    for named in ("net.safetensors", f"{tmp_path}/net.safetensors", f"file://{tmp_path}/net.safetensors"):
        found = read_weights(named)
        assert torch.equal(found.tensors["a.weight"], torch.eye(2))
        assert found.address.endswith("/net.safetensors")


def test_an_object_store_serves_all_three(in_store, request, tmp_path):
    run = RunFolder(f"s3://{BUCKET}/{request.node.name}/run?region=us-east-1")
    record(run, manifest())
    assert holds(read_weights(run.uri), 8)
    assert holds(read_weights(run.address(checkpoint_folder(4))), 4)
    save_file({"a": torch.ones(1)}, tmp_path / "net.safetensors")
    run.write_bytes("net.safetensors", (tmp_path / "net.safetensors").read_bytes())
    assert torch.equal(read_weights(run.address("net.safetensors")).tensors["a"], torch.ones(1))


def test_what_cannot_be_used_is_refused_in_one_sentence(run, tmp_path):
    record(RunFolder(tmp_path / "half"), manifest(), until=5)
    (tmp_path / "hub").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "hub" / "model.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "hub" / "model.safetensors").read_bytes()[:-2])
    (tmp_path / "weights.pt").write_bytes(b"a pickle")
    record(RunFolder(tmp_path / "thinned"), manifest())
    shutil.rmtree(tmp_path / "thinned" / LAST)
    (broken,) = (run.local / LAST).iterdir()
    broken.write_bytes(broken.read_bytes()[:50])
    for name, message in {
        "thinned": "its last checkpoint, trajectory/checkpoints/step-00000008, is gone",
        "half": "its training has not ended",
        "hub": "is no checkpoint of an audit; a .safetensors file in it can be named by itself",
        "none.safetensors": "does not exist",
        "cut.safetensors": "cannot be read",
        "weights.pt": "is no run folder with a training, no checkpoint of one and no .safetensors file",
        "nowhere": "is no run folder with a training, no checkpoint of one and no .safetensors file",
        "run": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message) as refused:
            read_weights(str(tmp_path / name))
        assert "\n" not in str(refused.value)
