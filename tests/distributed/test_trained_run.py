from __future__ import annotations

import pytest
import torch

from auditor.distributed.trained_run import TrainedRun
from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from tests.distributed.builders import config, equal_states, train_here

CPU = torch.device("cpu")
CHANGES = {
    "data": {"source": {"kind": "digits"}, "limit": {"train": 32, "validation": 20, "test": 20}},
    "model": {"name": "mlp", "args": {"hidden": [7, 5]}},
    "train": {"epochs": 1, "batch_size": 16, "micro_batch_size": 8, "checkpoints": 2},
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    found = config(tmp_path_factory.mktemp("trained") / "run", **CHANGES)
    train_here(found)
    return found


def test_a_recorded_state_is_what_the_checkpoint_holds(audit):
    run = RunFolder(audit.run)
    assert equal_states(TrainedRun(audit, run, CPU).state(2), TrajectoryReader(run).state(2))


@pytest.mark.parametrize(
    ("model", "difference"),
    [
        ({"name": "mlp", "args": {"hidden": [7, 6]}}, "has a parameter 3.bias of [6], .* has one of [5]"),
        ({"name": "mlp", "args": {"hidden": [7, 5, 4]}}, "has a parameter 5.bias of [4], .* has one of [10]"),
        ({"name": "small_cnn", "args": {}}, "has a parameter .* has no such parameter"),
    ],
)
def test_a_model_that_was_changed_after_training_is_named_and_nothing_is_computed_with_it(audit, model, difference):
    other = audit.model_copy(update={"model": audit.model.model_copy(update=model)})
    trained = TrainedRun(other, RunFolder(audit.run), CPU)
    for use in (lambda: trained.final, lambda: trained.state(0), trained.model, trained.validation_gradient):
        with pytest.raises(InputError, match=difference.replace("[", r"\[").replace("]", r"\]")):
            use()
