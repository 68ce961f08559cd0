from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from auditor.distributed.retrain import Retrainer, retrain_on_ray
from auditor.distributed.retraining import Retraining
from auditor.distributed.trained_run import TrainedRun
from auditor.fidelity.removals import Removal
from auditor.fidelity.verification import losses_file, planned, read_effects, result_file, verified
from auditor.influence import Point, evaluate
from auditor.sections.scoring import Query
from auditor.storage import RunFolder
from tests.distributed.builders import config, equal_states, train_here

CPU = torch.device("cpu")
VERIFY = {"verify": {"leave_one_out": 3, "subsets": 2, "drop_rates": [0.1]}, "resources": {"retrainers": 2}}


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return config(tmp_path_factory.mktemp("verify") / "run", **VERIFY)


@pytest.fixture(scope="module")
def run(audit):
    """Trained and scored; what the scores are does not matter here."""
    run = train_here(audit)
    train = run.read_table("dataset/train", columns=["sample_id", "label"])
    scores = np.random.default_rng(0).normal(size=(2, len(train)))
    run.write_table("scores/part.parquet", train.append_column("gif", [scores[0]]).append_column("loss", [scores[1]]))
    trained = TrainedRun(audit, run, CPU)
    found = evaluate(trained.network, trained.point(trained.manifest.steps), trained.chunks("validation"))
    run.write_json("evaluation.json", {"query_loss": found.loss})
    return run


def test_the_recorded_training_run_again_is_the_recorded_one_bit_for_bit(audit, run):
    trained = TrainedRun(audit, run, CPU)
    assert equal_states(Retraining(trained).run(), trained.reader.state(trained.manifest.steps))


def test_a_masked_sample_has_no_say_but_keeps_its_place(audit, run):
    """A masked sample's label does not matter; another sample's does."""
    trained = TrainedRun(audit, run, CPU)
    weights = np.ones(trained.manifest.rows)
    weights[7] = 0.0
    masked = Retraining(trained, weights).run()
    trained.train.labels[7] = (trained.train.labels[7] + 1) % 10
    assert equal_states(Retraining(trained, weights).run(), masked)
    trained.train.labels[8] = (trained.train.labels[8] + 1) % 10
    assert not equal_states(Retraining(trained, weights).run(), masked)


@pytest.mark.ray
def test_a_killed_retrainer_costs_its_retraining_and_what_is_done_is_kept(audit, run, ray_cluster):
    removals = planned(audit, run)
    assert [removal.kind for removal in removals] == ["none", "harmful", *["one"] * 3, *["subset"] * 2]
    kept = {"rows": list(removals[1].rows), "loss": 0.123, "seconds": 1.0}
    run.write_table(
        losses_file(removals[1]), pa.table({"loss": np.full(len(run.read_table("dataset/validation")), 0.123)})
    )
    run.write_json(result_file(removals[1]), kept)
    # Half of what a retraining leaves is nothing: it is done again.
    run.write_json(result_file(removals[3]), {"rows": [], "loss": 0.0, "seconds": 0.0})

    killed = []

    def kill() -> None:
        while not killed:
            for process in psutil.process_iter(["cmdline"]):
                if any("Retrainer" in word for word in process.info["cmdline"] or ()):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    retrain_on_ray(audit, run, removals)
    thread.join()
    assert killed

    # What was there is left alone; the rest is what one process finds.
    assert run.read_json(result_file(removals[1]))["loss"] == 0.123
    trained = TrainedRun(audit, run, CPU)
    for removal in (removals[0], removals[2], removals[3], removals[-1]):
        weights = np.ones(trained.manifest.rows)
        weights[list(removal.rows)] = 0.0
        state = Retraining(trained, weights).run()
        point = Point.at(trained.precise, state.parameters, state.buffers)
        expected = evaluate(trained.network, point, trained.chunks("validation"))
        found = run.read_json(result_file(removal))
        assert found["loss"] == pytest.approx(expected.loss, rel=1e-4)
        assert found["rows"] == list(removal.rows)

    fidelity = verified(run, removals)
    assert fidelity.baseline_loss == pytest.approx(fidelity.recorded_loss, rel=1e-4)
    assert fidelity.harmful.measured == pytest.approx(0.123 - fidelity.baseline_loss)
    assert (fidelity.ones, fidelity.subsets) == (3, {"0.1": 2})
    effects = read_effects(run)
    assert effects["kind"].to_pylist() == [removal.kind for removal in removals]
    assert effects["measured"][0].as_py() == 0.0
    scores = run.read_table("scores")
    row = removals[2].rows[0]
    sample = run.read_table("dataset/train")["sample_id"][row].as_py()
    [score] = [line["gif"] for line in scores.to_pylist() if line["sample_id"] == sample]
    assert effects["gif"][2].as_py() == pytest.approx(score)


def test_a_retraining_is_judged_by_the_query(audit, run):
    asked = audit.model_copy(update={"query": Query(class_name="7")})
    found, losses = Retrainer(asked.model_dump(mode="json"), run.uri).without(Removal("none", ()))
    trained = TrainedRun(asked, run, CPU)
    of_class = [
        (inputs[labels == 7], labels[labels == 7])
        for inputs, labels in trained.chunks("validation")
        if bool((labels == 7).any())
    ]
    expected = evaluate(trained.network, trained.point(trained.manifest.steps), of_class).loss
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    # Other questions can be asked of the same retraining later.
    assert losses[trained.validation.labels.numpy() == 7].mean() == pytest.approx(expected, rel=1e-5)
    assert len(losses) == 60
    assert expected != pytest.approx(evaluate(trained.network, trained.point(0), trained.chunks("validation")).loss)


def test_a_relabelled_sample_is_trained_with_its_new_label_and_keeps_the_old_one_afterwards(audit, run):
    actor = Retrainer(audit.model_dump(mode="json"), run.uri)
    given = actor.trained.train.labels.clone()
    wanted = (int(given[11]) + 1) % 10
    removal = Removal("verdicts", (7,), relabelled=((11, wanted),))
    found, _ = actor.without(removal)
    assert torch.equal(actor.trained.train.labels, given)
    assert (found["rows"], found["relabelled"]) == ([7], ((11, wanted),))
    trained = TrainedRun(audit, run, CPU)
    trained.train.labels[11] = wanted
    weights = np.ones(trained.manifest.rows)
    weights[7] = 0.0
    state = Retraining(trained, weights).run()
    expected = evaluate(
        trained.network, Point.at(trained.precise, state.parameters, state.buffers), trained.chunks("validation")
    )
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert found["accuracy"] == expected.accuracy
    tested = evaluate(
        trained.network, Point.at(trained.precise, state.parameters, state.buffers), trained.chunks("test")
    )
    assert found["test_accuracy"] == tested.accuracy


def test_a_diverged_retraining_is_left_out_and_said(audit, run, tmp_path, caplog):
    folder = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, folder.path, dirs_exist_ok=True)
    removals = [Removal("none", ()), Removal("one", (1,)), Removal("one", (2,))]
    for removal, loss in zip(removals, (0.5, None, 0.4), strict=True):
        folder.write_json(result_file(removal), {"rows": list(removal.rows), "loss": loss})
    found = verified(folder, removals)
    assert found.ones == 1
    assert "1 of 3 retrainings ended without a finite loss" in caplog.text
