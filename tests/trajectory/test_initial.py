from __future__ import annotations

import pytest
import torch

from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory.initial import Initial, fingerprint, load_initial, read_initial, write_initial
from tests.stores import BUCKET
from tests.trajectory.builders import state

FOUND = Initial("predecessor", "runs/week-1", ("6.weight",), "the classes are others", "abc")


def test_weights_and_where_they_came_from_are_read_back_without_momentum(tmp_path):
    run = RunFolder(tmp_path)
    assert read_initial(run) is None
    with pytest.raises(InputError, match=r"holds no initial weights, which model\.weights asks for"):
        load_initial(run)
    write_initial(run, state(3), FOUND)
    assert read_initial(run) == FOUND
    found = load_initial(run)
    assert torch.equal(found.parameters["w"], state(3).parameters["w"])
    assert torch.equal(found.buffers["norm.running_mean"], state(3).buffers["norm.running_mean"])
    assert found.momentum.keys() == found.parameters.keys()
    assert not any(value.any() for value in found.momentum.values())
    assert run.names("", hidden=True) == ["initial"]


@pytest.mark.parametrize("step", ["make", "write_json", "replace"])
def test_one_that_was_killed_on_the_way_left_nothing_and_the_next_is_whole(tmp_path, monkeypatch, step):
    class KilledError(Exception):
        pass

    def kill(*_):
        raise KilledError

    run = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        if step == "replace":  # of the folder, not of the weights in it
            whole = run.replace
            patch.setattr(
                run, "replace", lambda source, target: kill() if target == "initial" else whole(source, target)
            )
        else:
            patch.setattr(run, step, kill)
        with pytest.raises(KilledError):
            write_initial(run, state(3), FOUND)
    assert read_initial(run) is None
    write_initial(run, state(4), FOUND)
    assert torch.equal(load_initial(run).parameters["w"], state(4).parameters["w"])
    assert run.names("", hidden=True) == ["initial"]


def test_a_fingerprint_knows_names_types_shapes_and_values_but_no_order():
    tensors = {"a": torch.ones(2, 2), "b": torch.tensor(3)}
    same = fingerprint(dict(reversed(tensors.items())))
    assert fingerprint({**tensors, "a": torch.ones(2, 2).T}) == same == fingerprint(tensors)
    others = [{"a": torch.ones(4)}, {"a": torch.ones(2, 2).double()}, {"a": torch.eye(2)}, {"c": torch.ones(1)}]
    assert len({fingerprint({**tensors, **other}) for other in others} | {same}) == 5


def test_an_object_store_shows_all_of_it_or_nothing(in_store, request):
    """There a folder is copied file by file, and may be cut off between two of them."""
    run = RunFolder(f"s3://{BUCKET}/{request.node.name}/run")
    write_initial(run, state(3), FOUND)
    run.write_bytes(".initial.on-its-way", b"")  # the sign beside a folder that is still being copied
    assert read_initial(run) is None
    write_initial(run, state(4), FOUND)
    assert read_initial(run) == FOUND
    assert torch.equal(load_initial(run).parameters["w"], state(4).parameters["w"])
