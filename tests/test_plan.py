from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from auditor.config import load_config
from auditor.data import prepare
from auditor.distributed.loop import load_samples, new_model, run_training
from auditor.errors import InputError
from auditor.plan import _stage_seconds, plan
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from tests.distributed.builders import config

DIGITS = "docs/examples/digits.yaml"


def bytes_in(run, folder):
    return sum(path.stat().st_size for path in (run.local / folder).rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def happened(tmp_path_factory):
    """A plan, and a real training of the same configuration."""
    torch.set_num_threads(1)
    audit = config(
        tmp_path_factory.mktemp("plan") / "run", data={"source": {"kind": "digits"}, "limit": {"train": 300}}
    )
    expected = plan(audit)
    run = RunFolder(audit.run)
    dataset = prepare(audit, run)
    assert run_training(audit, run, torch.device("cpu")) is None
    return SimpleNamespace(config=audit, plan=expected, run=run, dataset=dataset, reader=TrajectoryReader(run))


def test_the_plan_of_the_quickstart_is_exact(request):
    found = plan(load_config(request.config.rootpath / DIGITS))
    assert found.rows == {"train": 1045, "validation": 375, "test": 377}
    assert (found.classes, found.input_shape) == (10, (1, 8, 8))
    assert (found.steps, found.steps_per_epoch, found.micro_batches, found.checkpoints) == (160, 8, 2, 10)
    assert (found.train_workers, found.score_actors) == (2, 2)
    assert set(found.seconds) == {"train", "replay", "score", "verify"}
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_the_plan_is_what_happens(happened):
    expected, manifest = happened.plan, happened.reader.manifest
    assert expected.rows == {split: facts.rows for split, facts in happened.dataset.splits.items()}
    assert (expected.steps, expected.steps_per_epoch) == (manifest.steps, manifest.steps_per_epoch)
    assert expected.micro_batches == manifest.micro_batches
    assert expected.checkpoints == len(manifest.checkpoints)
    assert expected.input_shape == happened.dataset.input_shape
    model = new_model(happened.config, happened.dataset)
    assert expected.parameters == sum(value.numel() for value in model.parameters())


def test_stages_that_are_not_asked_for_cost_nothing(tmp_path):
    few = plan(config(tmp_path, score={"methods": ["gif"]})).seconds
    assert set(few) == {"train", "score"}
    many = config(
        tmp_path,
        score={"methods": ["hif", "hif_fast", "gif_step", "replay", "out_of_sample"], "folds": 5},
        verify={"leave_one_out": 10, "subsets": 5, "drop_rates": [0.05, 0.1]},
        resources={"retrainers": 2},
    )
    found = plan(many).seconds
    assert set(found) == {"train", "score", "replay", "hif", "gif_step", "out_of_sample", "verify"}
    # 22 retrainings, two at a time, each a training on one worker.
    assert found["verify"] == pytest.approx(11 * found["train"])
    assert found["out_of_sample"] == pytest.approx(3 * found["train"])
    assert found["replay"] == pytest.approx(4.5 * found["train"])


def test_passes_that_training_takes_in_fewer_bits_are_priced_apart_from_those_that_others_take_in_full(tmp_path):
    audit = config(
        tmp_path,
        train={"batch_size": 128, "micro_batch_size": 64},
        score={"methods": ["replay", "gif_step", "hif_fast", "loss"]},
        verify={"during_run": True, "leave_one_out": 1, "subsets": 0},
        resources={"train_workers": 1, "retrainers": 1},
    )
    seconds = {"micro_batch": 1.0, "full_micro_batch": 10.0, "score_row": 0.0, "forward_row": 0.0}
    found = _stage_seconds(audit, rows=640, steps=50, checkpoints=10, seconds=seconds)
    assert found["train"] == 100
    assert found["verify"] == 300
    assert found["replay"] == pytest.approx(100 + 3.5 * 1000)
    assert found["gif_step"] == pytest.approx(100 + 1.5 * 1000)
    assert found["hif"] == pytest.approx(audit.hif.iterations * 3.2 * 10 * 10)


@pytest.mark.parametrize("what", ["ledger", "signals", "checkpoints"])
def test_disk_is_bounded_by_the_plan_and_not_by_far(happened, what):
    folder = {"ledger": "batches"}.get(what, what)
    real = bytes_in(happened.run, f"trajectory/{folder}")
    assert real <= happened.plan.disk[what] <= 4 * real


def test_the_memory_of_images_is_that_of_the_decoded_rows(happened):
    samples = load_samples(happened.config, happened.run, happened.dataset, "train")
    assert happened.plan.memory["images"] == samples._content.nbytes


def test_activations_grow_with_the_micro_batch(tmp_path):
    small, large = (
        plan(config(tmp_path, train={"batch_size": 64, "micro_batch_size": size})).memory["activations"]
        for size in (16, 64)
    )
    assert small < large <= 4.5 * small


def test_what_training_keeps_grows_with_the_optimizer_and_the_variant_and_is_shared_out_where_it_is_sharded(tmp_path):
    def held(sharded=False, **train):
        resources = {"train_workers": 2, "sharded": sharded}
        found = plan(config(tmp_path, model={"name": "mlp"}, train=train, resources=resources))
        return found.memory["parameters"], found.disk["checkpoints"]

    sgd, adamw = held(), held(optimizer={"name": "adamw"})
    friendly = held(perturbation={"name": "friendly_sam"})
    assert adamw[0] == friendly[0] == pytest.approx(8 / 7 * sgd[0])
    assert adamw[1] == friendly[1] == pytest.approx(3 / 2 * sgd[1], rel=0.1)
    assert held(sharded=True)[0] == sgd[0] // 2


def test_a_plan_writes_nothing_and_leaves_threads_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    plan(config("run", resources={"cpus_per_worker": 1}))
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == 2


def test_images_that_do_not_fit_into_the_cache_take_no_memory(tmp_path):
    data = {"source": {"kind": "digits"}, "cache_gib": 1e-6}
    assert plan(config(tmp_path, data=data)).memory["images"] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_time_on_a_device_that_is_not_here_is_not_guessed(tmp_path):
    assert plan(config(tmp_path, resources={"gpus_per_worker": 1})).seconds == {}


def test_a_batch_larger_than_the_training_rows_is_refused(tmp_path):
    train = {"batch_size": 256, "micro_batch_size": 8}
    with pytest.raises(InputError, match=r"train\.batch_size is 256, but there are only 200 training rows"):
        plan(config(tmp_path, train=train))


def test_weights_to_start_from_take_the_room_of_a_checkpoint_without_momentum(tmp_path):
    model = {"name": "mlp", "args": {"hidden": [200]}}
    disk = [plan(config(tmp_path, model={**model, "weights": weights})).disk for weights in (None, "predecessor")]
    assert "initial" not in disk[0]
    assert 4 * (64 * 200 + 200 * 10) < disk[1]["initial"] < disk[0]["checkpoints"] / 4
    assert disk[1] == {**disk[0], "initial": disk[1]["initial"]}


def test_a_plan_refuses_the_models_that_a_run_refuses(tmp_path):
    with pytest.raises(InputError, match=r"fails on inputs \[1, 8, 8\]"):
        plan(config(tmp_path, model={"name": "small_cnn", "args": {"widths": [4, 4, 4, 4, 4]}}))
    with pytest.raises(InputError, match="vgg"):
        plan(config(tmp_path, model={"name": "vgg"}))
