from __future__ import annotations

import os
import shutil
import signal
import threading
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.distributed.score import score_on_ray
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.trained_run import TrainedRun
from auditor.errors import StageError
from auditor.influence import Derivatives
from auditor.storage import RunFolder
from tests.distributed.builders import config, train_here

pytestmark = pytest.mark.ray

ROWS = 200
CNN = {"widths": [8]}
TRAIN = {"epochs": 3, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 4, "precision": "float64"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with a finished training."""
    return train_here(config(tmp_path_factory.mktemp("score") / "run", train=TRAIN))


@pytest.fixture(scope="module")
def expected(trained):
    """Scores of all rows at once in this process, in the order of the rows."""
    audit = config(trained.path, train=TRAIN)
    found, run = prepare_scoring(audit, trained, torch.device("cpu")), TrainedRun(audit, trained, torch.device("cpu"))
    inputs, labels = run.train.inputs(np.arange(ROWS)), run.train.labels
    derivatives = Derivatives(run.network, found.directions)(inputs, labels).numpy()
    gif = (found.weights["gif"] * derivatives).sum(1)
    with torch.no_grad():
        logits = run.model()(inputs)
    own = logits[torch.arange(ROWS), labels]
    others = torch.stack([row[torch.arange(10) != label].max() for row, label in zip(logits, labels, strict=True)])
    return {
        "sample_id": run.train.sample_ids,
        "label": labels.numpy(),
        "gif": gif,
        "loss": cross_entropy(logits, labels, reduction="none").numpy(),
        "margin": (own - others).numpy(),
        "aum": found.known["aum"],
        "suggested_label": logits.argmax(1).numpy(),
        "suggested_probability": logits.softmax(1).amax(1).numpy(),
        "evaluation": found.evaluation,
    }


def copied(trained, path):
    """The trained run again, to be scored another time."""
    shutil.copytree(trained.path, path)
    return RunFolder(path)


def assert_scored(run, expected):
    scores = run.read_table("scores")
    assert sorted(scores["sample_id"].to_pylist()) == sorted(expected["sample_id"])
    place = {sample_id: row for row, sample_id in enumerate(expected["sample_id"])}
    rows = [place[sample_id] for sample_id in scores["sample_id"].to_pylist()]
    for name in ("label", "suggested_label"):
        assert scores[name].to_pylist() == expected[name][rows].tolist()
    np.testing.assert_allclose(scores["gif"].to_numpy(), expected["gif"][rows], rtol=1e-6)
    for name in ("loss", "margin", "aum", "suggested_probability"):
        np.testing.assert_allclose(scores[name].to_numpy(), expected[name][rows], rtol=1e-5, atol=1e-6)
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]


@pytest.mark.parametrize(("actors", "batch_size"), [(1, 64), (2, 7)])
def test_scores_are_those_of_all_rows_at_once_whoever_scores_them(
    trained, expected, ray_cluster, tmp_path, actors, batch_size
):
    run = copied(trained, tmp_path / "run")
    run.write_table(".scores/left-behind.parquet", pa.table({"sample_id": expected["sample_id"][:5]}))
    audit = config(run.path, train=TRAIN, resources={"score_actors": actors}, score={"batch_size": batch_size})
    assert score_on_ray(audit, run) == ROWS
    assert_scored(run, expected)
    assert run.read_json("evaluation.json") == {"format_version": 1, **expected["evaluation"]}
    assert run.read_table("scores").schema.remove_metadata() == pa.schema(
        [
            ("sample_id", pa.string()),
            ("label", pa.int32()),
            ("gif", pa.float64()),
            ("loss", pa.float32()),
            ("margin", pa.float32()),
            ("aum", pa.float32()),
            ("suggested_label", pa.int32()),
            ("suggested_probability", pa.float32()),
        ]
    )
    for name in run.names("scores"):
        assert pq.read_schema(run.full(f"scores/{name}")).metadata[b"auditor.format_version"] == b"1"
    # What is scored stays as it is.
    files = {name: run.read_bytes(f"scores/{name}") for name in run.names("scores")}
    assert score_on_ray(audit, run) == ROWS
    assert files == {name: run.read_bytes(f"scores/{name}") for name in run.names("scores")}


def scoring_actors():
    """Scoring actors among the processes that this test started."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and any("MapWorker" in part for part in process.cmdline())
    ]


def kill_one_actor_once_something_is_written(run, killed):
    while not run.names(".scores"):
        time.sleep(0.02)
    victim = scoring_actors()[-1]
    os.kill(victim.pid, signal.SIGKILL)
    killed.append((victim.pid, len(run.names(".scores"))))


def test_a_killed_actor_costs_no_sample_and_doubles_none(trained, expected, ray_cluster, tmp_path):
    run = copied(trained, tmp_path / "run")
    slow = {"name": "tests.distributed.builders:slow_cnn", "args": {**CNN, "seconds": 0.04}}
    audit = config(run.path, train=TRAIN, model=slow, resources={"score_actors": 2}, score={"batch_size": 8})
    killed: list[tuple[int, int]] = []
    killer = threading.Thread(target=kill_one_actor_once_something_is_written, args=(run, killed), daemon=True)
    killer.start()
    assert score_on_ray(audit, run) == ROWS
    killer.join(timeout=10)
    [(pid, files)] = killed
    assert not psutil.pid_exists(pid)
    assert files < len(run.names("scores")), "the actor died after the work was done"
    assert_scored(run, expected)


def test_blocks_that_a_stopped_attempt_has_written_are_not_scored_again(trained, expected, ray_cluster, tmp_path):
    run = copied(trained, tmp_path / "run")
    audit = config(run.path, train=TRAIN, score={"batch_size": 32})
    score_on_ray(audit, run)
    names = run.names("scores")
    whole, cut, gone = names[:-2], names[-2], names[-1]
    # As a kill leaves it: whole files, one that was being written, and some that were never begun.
    contents = {name: run.read_bytes(f"scores/{name}") for name in names}
    run.remove("scores")
    for name in whole:
        run.write_bytes(f".scores/{name}", contents[name])
    run.write_bytes(f".scores/{cut}", contents[cut][:-100])
    run.write_bytes(".scores/foreign.parquet", contents[gone][:-1])
    assert len(whole) >= 2
    assert score_on_ray(audit, run) == ROWS
    assert_scored(run, expected)
    assert {name: run.read_bytes(f"scores/{name}") for name in whole} == {name: contents[name] for name in whole}
    again = sum(len(run.read_table(f"scores/{name}")) for name in run.names("scores") if name not in whole)
    assert again == ROWS - sum(len(run.read_table(f"scores/{name}")) for name in whole)
    # Killed between the last block and the move into place: nothing is left to score.
    run.replace("scores", ".scores")
    assert score_on_ray(audit, run) == ROWS
    assert_scored(run, expected)


def test_a_score_that_is_no_number_stops_scoring_with_the_samples_name(trained, ray_cluster, tmp_path):
    run = copied(trained, tmp_path / "run")
    samples = TrainedRun(config(run.path, train=TRAIN), run, torch.device("cpu")).train
    sick = 123
    pixels = samples.inputs(np.array([sick])).flatten().tolist()
    model = {"name": "tests.distributed.builders:allergic_cnn", "args": {**CNN, "pixels": pixels}}
    with pytest.raises(StageError) as refused:
        score_on_ray(config(run.path, train=TRAIN, model=model), run)
    assert str(refused.value) == f"scoring gave up: the gif score of sample {samples.sample_ids[sick]!r} is not finite"
    assert not run.exists("scores")


def test_a_training_that_has_not_ended_is_not_scored(trained, tmp_path):
    run = copied(trained, tmp_path / "run")
    manifest = run.read_json("trajectory/manifest.json")
    run.write_json("trajectory/manifest.json", {**manifest, "status": "running"})
    with pytest.raises(StageError, match="let it end first"):
        score_on_ray(config(run.path, train=TRAIN), run)
    assert not run.exists("evaluation.json")
