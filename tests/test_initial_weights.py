from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file

from auditor.data import Dataset, prepare
from auditor.distributed.loop import new_model, run_training
from auditor.distributed.retraining import Retraining
from auditor.distributed.trained_run import TrainedRun
from auditor.errors import InputError
from auditor.initial_weights import settle_weights
from auditor.reuse import reuse_training
from auditor.sam import State
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from auditor.trajectory.initial import load_initial, read_initial
from auditor.trajectory.manifest import checkpoint_folder
from tests.distributed.builders import config, equal_states, train_here

CPU = torch.device("cpu")
SMALL = {"epochs": 2, "batch_size": 50, "micro_batch_size": 25, "checkpoints": 3}
MODEL = {"name": "small_cnn", "args": {"widths": [4]}}


def settings(path, weights=None, frozen=(), **changes):
    model = {**MODEL, "weights": None if weights is None else str(weights), "frozen": list(frozen)}
    return config(path, **{"train": SMALL, "model": model, **changes})


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """An audit whose training has ended."""
    audit = settings(tmp_path_factory.mktemp("before") / "run")
    run = train_here(audit)
    run.write_bytes("config.yaml", yaml.safe_dump(audit.model_dump(mode="json")).encode())
    return run


def final(run):
    reader = TrajectoryReader(run)
    return reader.state(reader.manifest.steps)


def prepared(path, weights, **changes):
    audit = settings(path, weights, **changes)
    run = RunFolder(audit.run)
    prepare(audit, run)
    return audit, run


def state_dict(state):
    return {**state.parameters, **state.buffers}


def without_momentum(state):
    return State(
        state.parameters, {name: torch.zeros_like(value) for name, value in state.parameters.items()}, state.buffers
    )


@pytest.mark.parametrize("frozen", [(), ("0.*", "1.*")])
def test_training_from_an_audits_weights_is_its_continuation_by_hand_without_momentum(before, tmp_path, frozen):
    audit, run = prepared(tmp_path / "run", before.uri, frozen=frozen)
    initial = settle_weights(audit, run)
    assert initial.source == before.full(checkpoint_folder(8))
    assert initial.sentences == [f"starts from the weights in {before.full(checkpoint_folder(8))}"]
    assert run_training(audit, run, CPU) is None
    trained = TrainedRun(audit, run, CPU)
    given = without_momentum(final(before))
    still = {
        name: value for name, value in given.parameters.items() if name.startswith(tuple(p[0] for p in frozen) or "x")
    }
    expected = State(
        *(
            {name: value for name, value in part.items() if name not in still}
            for part in (given.parameters, given.momentum)
        ),
        {**given.buffers, **still},
    )
    assert equal_states(trained.reader.state(0), expected)
    state, training = expected, Retraining(trained)
    for _, steps in trained.reader.recorded_steps():
        for step in steps:
            state = training.forward(state, step)
    assert equal_states(trained.reader.state(8), state)
    assert state.buffers.keys() == trained.reader.state(8).buffers.keys()
    assert all(torch.equal(trained.reader.state(8).buffers[name], value) for name, value in still.items())


def test_run_folder_checkpoint_and_file_of_one_state_are_one_start(before, tmp_path):
    save_file(state_dict(final(before)), tmp_path / "net.safetensors")
    named = [before.uri, before.full(checkpoint_folder(8)), tmp_path / "net.safetensors"]
    prints = set()
    for place, weights in enumerate(named):
        prints.add(settle_weights(*prepared(tmp_path / str(place), weights)).fingerprint)
    assert len(prints) == 1
    other = settle_weights(*prepared(tmp_path / "other", before.full(checkpoint_folder(4))))
    assert {other.fingerprint} != prints


def test_a_resume_needs_the_source_no_more_and_changes_no_bit(before, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(before.local, source)
    audit, run = prepared(tmp_path / "run", source)
    settled = settle_weights(audit, run)
    undisturbed = RunFolder(tmp_path / "undisturbed")
    shutil.copytree(run.local, undisturbed.local)
    assert run_training(audit, undisturbed, CPU) is None
    shutil.rmtree(source)

    class KilledError(Exception):
        pass

    def kill(step):
        if step == kill.at:
            raise KilledError

    for kill.at in (1, 6):  # before the first checkpoint after the beginning, and after it
        assert settle_weights(audit, run) in (settled, None)
        with pytest.raises(KilledError):
            run_training(audit, run, CPU, kill)
    assert settle_weights(audit, run) is None  # training has begun
    assert run_training(audit, run, CPU) is None
    left, right = TrajectoryReader(run), TrajectoryReader(undisturbed)
    assert left.manifest.checkpoints == right.manifest.checkpoints == (0, 4, 8)
    assert all(equal_states(left.state(step), right.state(step)) for step in left.manifest.checkpoints)


def test_for_other_classes_the_last_layer_starts_from_seeded_values(before, tmp_path):
    """Of the same number, in another order: nothing but the names tells."""
    source = RunFolder(tmp_path / "source")
    shutil.copytree(before.local, source.local)
    described = source.read_json("dataset.json")
    described["class_names"] = described["class_names"][::-1]
    source.write_bytes("dataset.json", json.dumps(described).encode())
    audit, run = prepared(tmp_path / "run", source.uri)
    initial = settle_weights(audit, run)
    assert initial.sentences[1] == (
        "of the last layer 6.weight, 6.bias start from seeded values: the classes are others"
    )
    found, seeded = load_initial(run), State.initial(TrainedRun(settings(before.path), before, CPU).network)
    for name, value in found.parameters.items():
        assert torch.equal(value, (seeded if name.startswith("6.") else final(before)).parameters[name])


def test_for_another_number_of_classes_too(tmp_path):
    audit, run = prepared(tmp_path / "run", tmp_path / "net.safetensors")
    model = new_model(audit.model_copy(update={"seed": 9}), Dataset.load(run))
    given = {**model.state_dict(), "6.weight": torch.ones(3, 4), "6.bias": torch.ones(3)}
    save_file(given, tmp_path / "net.safetensors")
    assert settle_weights(audit, run).seeded == ("6.weight", "6.bias")
    assert torch.equal(load_initial(run).parameters["0.weight"], given["0.weight"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            "nowhere",
            "model.weights nowhere: is no run folder with a training, no checkpoint of one and no .safetensors",
        ),
        (
            "other.safetensors",
            "model.weights other.safetensors: lacks 0.weight, 1.weight, 1.bias and 3 more; has what ",
        ),
        ("https://me:secret@hub/net.safetensors", "model.weights https://***@hub/net.safetensors: https://***@hub"),
        ("run", "model.weights run: is this audit's own run folder"),
    ],
)
def test_weights_that_cannot_be_used_end_the_command_before_the_run_folder_belongs_to_them(
    command, tmp_path, weights, message
):
    save_file({"layer": torch.ones(1)}, tmp_path / "other.safetensors")
    audit = settings("run", weights).model_dump(mode="json")
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(audit))
    ended = command("train", "audit.yaml")
    assert ended.code == 2
    assert message in ended.err
    assert "secret" not in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run" / "dataset.json").exists()
    if weights != "run":
        assert message in command("plan", "audit.yaml").err


@pytest.mark.parametrize(
    ("predecessor", "message"),
    [
        (
            None,
            "model.weights is predecessor, but review.predecessor is null: auto looks for one, a run folder names it",
        ),
        ("auto", "model.weights is predecessor, which is looked for in MLflow, where this audit does not stand yet"),
        ("nowhere", "review.predecessor nowhere: is no run folder with a report"),
    ],
)
def test_where_it_cannot_be_known_which_audit_was_before_nothing_is_trained(command, tmp_path, predecessor, message):
    audit = settings("run", "predecessor", review={"predecessor": predecessor}).model_dump(mode="json")
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(audit))
    ended = command("train", "audit.yaml")
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "run" / "initial").exists()


@pytest.fixture
def reported(before, tmp_path):
    """The earlier audit with a report, which makes it one that can be named as the predecessor."""
    run = RunFolder(tmp_path / "reported")
    shutil.copytree(before.local, run.local)
    run.write_bytes("report/ranked.parquet", b"")
    return run


def test_of_a_predecessor_that_is_named_they_are_the_final_weights(reported, tmp_path):
    audit, run = prepared(tmp_path / "run", "predecessor", review={"predecessor": reported.uri})
    initial = settle_weights(audit, run)
    assert (initial.weights, initial.source) == ("predecessor", reported.full(checkpoint_folder(8)))
    assert equal_states(load_initial(run), without_momentum(final(reported)))


def test_a_predecessor_of_another_network_is_refused_by_key(reported, tmp_path):
    audit, run = prepared(
        tmp_path / "run",
        "predecessor",
        review={"predecessor": reported.uri},
        model={"name": "mlp", "weights": "predecessor"},
    )
    with pytest.raises(
        InputError, match=r"model\.weights predecessor \(.*step-00000008\): lacks 3\.weight, 3\.bias; has "
    ):
        settle_weights(audit, run)


def test_with_reuse_a_predecessor_of_unchanged_rows_and_settings_is_not_trained_any_further(before, tmp_path):
    """Its training and the weights that it started from are taken over; no second training is put on top."""
    first, earlier = prepared(tmp_path / "first", "predecessor", review={"predecessor": before.uri})
    before_it = RunFolder(before.uri)
    before_it.write_bytes("report/ranked.parquet", b"")
    settle_weights(first, earlier)
    assert run_training(first, earlier, CPU) is None
    earlier.write_bytes("config.yaml", yaml.safe_dump(first.model_dump(mode="json")).encode())
    second, later = prepared(tmp_path / "second", "predecessor", review={"predecessor": earlier.uri})
    assert reuse_training(second, earlier, later)
    assert read_initial(later) == read_initial(earlier)
    assert equal_states(final(later), final(earlier))
    assert settle_weights(second, later) is None


def test_with_reuse_a_place_has_to_hold_the_same_weights_as_before(before, tmp_path):
    place = tmp_path / "latest.safetensors"
    save_file(state_dict(final(before)), place)
    first, earlier = prepared(tmp_path / "first", place)
    settle_weights(first, earlier)
    assert run_training(first, earlier, CPU) is None
    earlier.write_bytes("config.yaml", yaml.safe_dump(first.model_dump(mode="json")).encode())
    for name, content, same in (("second", final(before), True), ("third", TrajectoryReader(before).state(4), False)):
        save_file(state_dict(content), place)
        audit, later = prepared(tmp_path / name, place)
        settle_weights(audit, later)
        assert reuse_training(audit, earlier, later) == same
        assert (Manifest.read(later) is not None) == same
