"""An audit as a user runs it: the installed command on two workers, from data to the report in MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import mlflow
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from mlflow import MlflowClient
from torch.nn.functional import cross_entropy

from auditor import Audit, RunFolder, TrajectoryReader
from auditor.data import Dataset
from auditor.distributed.loop import load_samples
from auditor.distributed.replay_files import Replay
from auditor.fidelity import Fidelity
from auditor.trajectory import Manifest
from tests.distributed.builders import auditor, config, equal_states, start_auditor, train_here

pytestmark = pytest.mark.ray

OWN_MODEL = """
from torch import nn

def make(num_classes, input_shape, width):
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes),
    )
"""
AUDIT = """
run: runs/week-1
data:
  source: {kind: digits}
  limit: {train: 400, validation: 150, test: 150}
  label_noise: 0.1
model: {name: "own:make", args: {width: 12}}
train:
  epochs: 20
  batch_size: 64
  micro_batch_size: 16
  optimizer: {learning_rate: 0.1}
  checkpoints: 7
evaluation: {statistics_rows: 128}
verify: {leave_one_out: 4, subsets: 1}
report: {gallery: 12}
mlflow: {experiment: weekly}
resources: {train_workers: 2, score_actors: 2}
"""
STEPS = 120
CHECKPOINTS = list(range(0, 121, 20))
UNVERIFIED = ("--set", "verify.during_run=false")
NOWHERE = {"RAY_ADDRESS": "127.0.0.1:9"}
"""Who starts or looks for Ray with this fails."""
BATCHES = dict.fromkeys(("step", "epoch", "micro_batch", "rank"), "int32")
BATCHES |= {"samples": "list<element: int32>", **dict.fromkeys(("lr", "rho", "grad_norm", "loss"), "double")}
SIGNALS = {"epoch": "int32", "sample": "int32"}
SIGNALS |= {**dict.fromkeys(("loss", "margin", "loss_perturbed", "margin_perturbed"), "float"), "predicted": "int32"}
METHODS = ("replay", "gif", "loss", "margin", "aum")
REPLAY = dict.fromkeys(("replay", *(f"replay@{horizon}" for horizon in (0.75, 0.5, 0.25, 0.1))), "double")
SCORES = {"sample_id": "string", "label": "int32", "gif": "double", "loss": "float", "margin": "float", "aum": "float"}
SCORES |= {**REPLAY, "suggested_label": "int32", "suggested_probability": "float"}
EFFECTS = {"kind": "string", "share": "double", "rows": "list<element: int32>", "chooses": "bool", "measured": "double"}
EFFECTS |= {**REPLAY, **dict.fromkeys(("gif", "loss", "margin", "aum"), "double")}
SNAPSHOT = {"row": "int32", "sample_id": "string", "image": "struct<bytes: binary, path: string>"}
SNAPSHOT |= {"label": "int32", "true_label": "int32"}


def desk(folder):
    """A folder as a user has it: a configuration and a model of one's own beside it."""
    (folder / "audit.yaml").write_text(AUDIT)
    (folder / "own.py").write_text(OWN_MODEL)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One undisturbed audit, the plan that was made before it, and what it printed."""
    cwd = desk(tmp_path_factory.mktemp("desk"))
    planned = auditor(cwd, "plan", "audit.yaml", "--json", **NOWHERE)
    assert planned.returncode == 0, planned.stderr
    ended = auditor(cwd, "run", "audit.yaml")
    assert ended.returncode == 0, ended.stderr
    run = RunFolder(cwd / "runs/week-1")
    client = MlflowClient(f"sqlite:///{cwd}/mlflow.db")
    return SimpleNamespace(
        cwd=cwd,
        ended=ended,
        run=run,
        plan=json.loads(planned.stdout),
        client=client,
        logged=client.get_run(run.read_json("mlflow.json")["run_id"]),
    )


@pytest.fixture
def beside_own_model(finished, monkeypatch):
    monkeypatch.chdir(finished.cwd)
    monkeypatch.syspath_prepend(finished.cwd)


@pytest.fixture
def without_ray(command, beside_own_model, monkeypatch):
    """Runs the command in this process, beside the model of one's own; who starts or looks for Ray with this fails."""
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", NOWHERE["RAY_ADDRESS"])
    return command


def contents(folder):
    """A digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def schema(run, name):
    return {field.name: str(field.type) for field in pq.read_schema(run.full(name))}


def test_the_command_says_what_it_found_and_where(finished):
    out, err = finished.ended.stdout, finished.ended.stderr
    assert "Traceback" not in out + err
    assert f"Report: {finished.run}/report/report.html" in out
    assert "MLflow: experiment weekly in sqlite:///mlflow.db" in out
    assert "auditor ui audit.yaml opens it" in out
    top = re.findall(r"^ +(\d+)  (digits-\d{4}) ", out, re.MULTILINE)
    assert [int(rank) for rank, _ in top] == list(range(1, 11))
    ranked = finished.run.read_table("report/ranked.parquet")["sample_id"].to_pylist()
    assert [sample_id for _, sample_id in top] == ranked[:10]
    for method in METHODS:
        assert re.search(rf"^  {method} +\d+\.\d%  +\d+\.\d%  +\d+\.\d% +AUROC 0\.\d{{3}}", out, re.MULTILINE)
    said = ("data: 400 train, 150 validation, 150 test rows", f"train: {STEPS} steps", "replay: drift at most")
    for stage in (*said, "score: 400 samples by replay, gif", "verify: 6 retrainings without chosen samples"):
        assert stage in err


def test_every_file_of_the_contract_is_there_and_nothing_else(finished):
    run = finished.run
    files = {"config.yaml", "dataset.json", "evaluation.json", "mlflow.json", "stages.json"}
    folders = {"dataset", "features", "replay", "report", "scores", "trajectory", "verify"}
    assert set(run.names("", hidden=True)) == files | folders
    assert set(run.names("replay", hidden=True)) == {"influence.parquet", "replay.json"}
    assert set(run.names("features", hidden=True)) == {"features.json", "head.parquet", "train", "validation"}
    assert set(run.names("verify", hidden=True)) == {"effects.parquet", "fidelity.json", "losses", "retrainings"}
    assert set(run.names("dataset", hidden=True)) == {"train", "validation", "test"}
    assert set(run.names("trajectory", hidden=True)) == {"manifest.json", "batches", "signals", "checkpoints"}
    report = {"figures", "ranked.csv", "ranked.parquet", "report.html", "summary.json"}
    assert set(run.names("report", hidden=True)) == report
    assert not [name for name in contents(run.local) if "/." in f"/{name}"]


def test_parquet_files_have_the_columns_of_the_contract_and_a_version(finished):
    run = finished.run
    kinds = {"dataset/train": SNAPSHOT, "trajectory/batches": BATCHES, "trajectory/signals": SIGNALS, "scores": SCORES}
    for folder, columns in kinds.items():
        for name in run.names(folder):
            assert schema(run, f"{folder}/{name}") == columns
            metadata = pq.read_schema(run.full(f"{folder}/{name}")).metadata
            assert metadata[b"auditor.format_version"] == b"1"
    assert schema(run, "verify/effects.parquet") == EFFECTS
    snapshot = pq.read_schema(run.full("dataset/train/part-00000.parquet")).metadata
    assert json.loads(snapshot[b"class_names"]) == [str(digit) for digit in range(10)]
    ranked = schema(run, "report/ranked.parquet")
    assert {"rank", "sample_id", "label", "suggested_label", "harm", "flagged", "true_label"} < ranked.keys()
    header = run.read_bytes("report/ranked.csv").decode("utf-8-sig").splitlines()[0]
    assert set(header.replace('"', "").split(",")) >= ranked.keys()


def test_json_files_have_the_fields_of_the_contract(finished):
    run, read = finished.run, finished.run.read_json
    dataset, manifest, evaluation = read("dataset.json"), read("trajectory/manifest.json"), read("evaluation.json")
    assert {"splits", "class_names", "input_shape", "mean", "std", "fingerprint", "carried"} < set(dataset)
    assert {"true_labels", "flipped", "quarantine", "warnings"} < set(dataset)
    assert (dataset["splits"]["train"]["rows"], dataset["flipped"], dataset["true_labels"]) == (400, 40, True)
    assert (manifest["status"], manifest["steps"], manifest["world_size"]) == ("complete", STEPS, 2)
    assert manifest["checkpoints"] == manifest["checkpoint_steps"] == CHECKPOINTS
    assert {"optimizer", "perturbation", "seed", "epochs", "batch_size", "micro_batch_size", "seconds"} < set(manifest)
    assert [entry["step"] for entry in evaluation["checkpoints"]] == manifest["checkpoints"]
    assert evaluation["validation_accuracy"] > 0.8, "the model learned"
    stages = {"prepare", "train", "replay", "features", "score", "verify", "report", "track", "queue"}
    assert set(read("stages.json")["seconds"]) == stages
    assert set(read("mlflow.json")) == {"format_version", "tracking_uri", "experiment_id", "run_id"}
    summary = read("report/summary.json")
    assert {"rows", "flagged", "test_accuracy", "validation_loss", "seconds", "detection"} < set(summary)
    assert set(summary["detection"]) == {*METHODS, "priority"}
    assert set(summary["detection"]["gif"]["found"]) == {"0.01", "0.05", "0.1", "0.2", "0.4"}
    kept = yaml.safe_load(run.read_bytes("config.yaml"))
    assert {"auditor", "ray", "torch", "mlflow"} < set(kept["versions"])
    assert "revision" in kept


def test_the_audit_was_verified_by_retrainings_and_says_what_they_found(finished):
    run, fidelity = finished.run, Fidelity.read(finished.run)
    assert (fidelity.ones, fidelity.subsets) == (4, {"0.05": 1})
    assert fidelity.baseline_loss == pytest.approx(fidelity.recorded_loss, rel=1e-3)
    effects = run.read_table("verify/effects.parquet").to_pylist()
    assert [effect["kind"] for effect in effects] == ["none", "harmful", *["one"] * 4, "subset"]
    assert (effects[0]["measured"], len(effects[-1]["rows"])) == (0.0, 20)
    assert len(run.names("verify/retrainings")) == 7
    block = run.read_json("report/summary.json")["fidelity"]
    assert set(block) == {*METHODS, "auto"}
    judged = fidelity.methods["replay"].loo_pearson
    assert block["replay"]["loo_pearson"] == judged.value
    assert block["replay"]["intervals"]["loo_pearson"] == [judged.low, judged.high]
    assert "retrainings.png" in run.names("report/figures")
    said = finished.ended.stdout
    assert f"Checked by training again without the {fidelity.harmful.samples} samples that replay calls" in said
    assert "How far to trust the scores, by 5 real retrainings" in said


def test_the_ledger_holds_every_micro_batch_once_and_both_ranks_wrote(finished):
    ledger = pa.concat_tables(TrajectoryReader(finished.run).batches())
    places = list(zip(ledger["step"].to_pylist(), ledger["micro_batch"].to_pylist(), strict=True))
    assert places == [(step, index) for step in range(STEPS) for index in range(4)]
    assert ledger["rank"].to_pylist() == [0, 0, 1, 1] * STEPS
    for step in CHECKPOINTS:
        files = finished.run.names(f"trajectory/checkpoints/step-{step:08d}")
        assert len([name for name in files if name.endswith(".safetensors")]) == 2


def test_scores_cover_every_sample_once_and_wrong_labels_come_first(finished):
    scores, train = finished.run.read_table("scores"), finished.run.read_table("dataset/train")
    assert sorted(scores["sample_id"].to_pylist()) == sorted(train["sample_id"].to_pylist())
    assert finished.run.read_json("report/summary.json")["detection"]["aum"]["auroc"] > 0.9


@pytest.mark.parametrize(
    ("what", "folder"),
    [
        ("ledger", "trajectory/batches"),
        ("signals", "trajectory/signals"),
        ("checkpoints", "trajectory/checkpoints"),
        ("scores", "scores"),
        ("features", "features"),
    ],
)
def test_the_plan_before_it_was_an_upper_bound(finished, what, folder):
    size = sum(path.stat().st_size for path in (finished.run.local / folder).rglob("*") if path.is_file())
    assert size <= finished.plan["disk"][what]


def test_the_plan_before_it_was_right(finished):
    plan, manifest = finished.plan, finished.run.read_json("trajectory/manifest.json")
    rows = {split: facts["rows"] for split, facts in finished.run.read_json("dataset.json")["splits"].items()}
    assert (plan["rows"], plan["steps"], plan["checkpoints"]) == (rows, manifest["steps"], len(manifest["checkpoints"]))


def test_mlflow_holds_parameters_metrics_lineage_and_the_report(finished):
    logged = finished.logged
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "week-1")
    assert logged.data.params["train.perturbation.rho"] == "0.05"
    assert logged.data.params["model.args.width"] == "12"
    summary = finished.run.read_json("report/summary.json")
    assert logged.data.metrics["test_accuracy"] == summary["test_accuracy"]
    assert logged.data.metrics["detection.gif.auroc"] == summary["detection"]["gif"]["auroc"]
    assert logged.data.metrics["fidelity.replay.loo_pearson"] == summary["fidelity"]["replay"]["loo_pearson"]
    curve = next(name for name in logged.data.metrics if name.startswith("curves/") and "validation" in name)
    points = finished.client.get_metric_history(logged.info.run_id, curve)
    assert [point.step for point in points] == CHECKPOINTS
    inputs = {tag.value: entry.dataset for entry in logged.inputs.dataset_inputs for tag in entry.tags}
    fingerprint = finished.run.read_json("dataset.json")["fingerprint"]
    for context in ("training", "validation"):
        assert fingerprint.startswith(inputs[context].digest)
    artifacts = {entry.path for entry in finished.client.list_artifacts(logged.info.run_id)}
    assert {"report.html", "ranked.parquet", "ranked.csv", "summary.json", "figures", "config.yaml"} <= artifacts


def test_the_logged_model_loads_without_its_code_and_predicts_what_was_evaluated(finished, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.cwd}/mlflow.db")
    [output] = finished.logged.outputs.model_outputs
    model = mlflow.pytorch.load_model(f"models:/{output.model_id}")
    dataset, config = Dataset.load(finished.run), Audit.from_yaml(finished.cwd / "audit.yaml").config
    evaluation = finished.run.read_json("evaluation.json")
    for split in ("validation", "test"):
        samples = load_samples(config, finished.run, dataset, split)
        with torch.no_grad():
            logits = model(samples.inputs(np.arange(len(samples))))
        assert cross_entropy(logits, samples.labels).item() == pytest.approx(evaluation[f"{split}_loss"], rel=1e-4)
        accuracy = (logits.argmax(1) == samples.labels).double().mean().item()
        assert accuracy == pytest.approx(evaluation[f"{split}_accuracy"])


def test_a_second_run_says_that_all_is_done_and_starts_nothing(finished):
    before = contents(finished.cwd)
    again = auditor(finished.cwd, "run", "audit.yaml", **NOWHERE)
    assert again.returncode == 0, again.stderr
    assert "all of this audit is done" in again.stderr
    assert again.stdout == finished.ended.stdout
    assert contents(finished.cwd) == before


def test_another_configuration_on_the_same_folder_is_refused_with_the_difference(finished, without_ray):
    before = contents(finished.cwd)
    refused = without_ray("run", "audit.yaml", "--set", "train.epochs=9")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.count("\n") == 1
    assert "was made with another configuration (train.epochs: 20 → 9)" in refused.err
    assert contents(finished.cwd) == before


def test_the_report_can_be_written_again_from_what_is_there(finished, without_ray):
    before = contents(finished.run.local)
    again = without_ray("report", "audit.yaml", "--json")
    assert again.code == 0, again.err
    after = contents(finished.run.local)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"stages.json", "report/summary.json", "report/report.html"}
    assert json.loads(again.out).items() <= finished.run.read_json("report/summary.json").items()


def test_python_and_the_command_agree(finished, beside_own_model):
    """Every stage of a finished audit gives back what it found, in this process and without Ray."""
    audit = Audit.from_yaml("audit.yaml")
    before = contents(finished.run.local)
    assert audit.train() == Manifest.read(finished.run)
    assert audit.replay() == Replay.read(finished.run)
    assert audit.score() == 400
    assert audit.verify() == Fidelity.read(finished.run)
    summary = audit.run()
    assert contents(finished.run.local) == before
    assert [sample.sample_id for sample in summary.top] == re.findall(r"digits-\d{4}", finished.ended.stdout)
    assert summary.html == f"{finished.run}/report/report.html"


def test_misclassified_images_are_explained_once_and_stand_in_mlflow(finished, running_cluster, without_ray, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished.run.local, again)
    arguments = ("explain", "audit.yaml", "--run", str(again), "--set", "explain.images=3")
    done = auditor(finished.cwd, *arguments, **running_cluster)
    assert done.returncode == 0, done.stderr
    assert "validation images are misclassified; the 3 of the highest loss are explained by ekfac" in done.stdout
    assert f"Page: {again}/explain/explain.html" in done.stdout
    assert len(re.findall(r"^    harmed most: digits-\d{4} \(\d\) -", done.stdout, re.MULTILINE)) == 3
    stored = {file.path for file in finished.client.list_artifacts(finished.logged.info.run_id, "explain")}
    assert {"explain/explain.html", "explain/images.parquet", "explain/influence.parquet"} <= stored
    # Nothing is computed again, and no Ray is looked for.
    once_more = without_ray(*arguments, "--json")
    assert once_more.code == 0, once_more.err
    assert [image["sample_id"] for image in json.loads(once_more.out)["images"]] == re.findall(
        r"^  (digits-\d{4})  labelled", done.stdout, re.MULTILINE
    )


def test_an_edit_is_computed_once_judged_and_a_version_in_mlflow(finished, running_cluster, without_ray, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished.run.local, again)
    chosen = ("--set", "edit.remove=harmful", "--set", "edit.compare=true", "--set", "edit.methods=[gif, replay]")
    arguments = ("edit", "audit.yaml", "--run", str(again), *chosen)
    done = auditor(finished.cwd, *arguments, **running_cluster)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Without 20 of 400 training samples (harmful):" in lines
    start = next(place for place, line in enumerate(lines) if line.startswith("weights"))
    told = [line.split("  ")[0] for line in lines[start + 1 : start + 5]]
    assert told == ["trained with them", "trained without them", "gif", "replay"]
    key = re.search(r"^Weights: \S+/edits/(\w+)$", done.stdout, re.MULTILINE)[1]
    versions = finished.client.search_model_versions("name='weekly'")
    assert {version.tags.get("auditor.method") for version in versions} == {None, "gif", "replay"}
    once_more = without_ray(*arguments, "--json")
    assert once_more.code == 0, once_more.err
    found = json.loads(once_more.out)
    assert found["key"] == key
    assert found["methods"]["replay"]["distance"] < found["methods"]["recorded"]["distance"] == 1.0
    (tmp_path / "ids.txt").write_text("nobody\n")
    wrong = without_ray("edit", "audit.yaml", "--run", str(again), "--samples", str(tmp_path / "ids.txt"))
    assert wrong.code == 2
    assert wrong.err.strip().endswith(f"error: edit: nobody is no training sample of {again}")


def test_a_run_folders_own_configuration_is_the_same_audit(finished, beside_own_model):
    kept = Audit.from_yaml(finished.run.full("config.yaml"))
    assert kept.config == Audit.from_yaml("audit.yaml").config
    assert kept.score() == 400


def test_a_training_that_its_workers_ended_without_the_command_still_has_its_time(tmp_path):
    audit = config(tmp_path)
    run = train_here(audit)
    assert not run.exists("stages.json")
    manifest = Audit(audit).train()
    assert manifest.seconds > 0
    assert run.read_json("stages.json")["seconds"]["train"] == pytest.approx(manifest.seconds, abs=1e-3)


def wait_for(what, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


def test_an_audit_whose_driver_was_killed_ends_as_if_nothing_had_happened(finished, tmp_path):
    cwd = desk(tmp_path)
    run = RunFolder(cwd / "runs/week-1")
    process = start_auditor(cwd, "run", "audit.yaml", *UNVERIFIED)
    started = []
    try:
        wait_for(lambda: process.poll() is not None or ((found := Manifest.read(run)) and len(found.checkpoints) > 1))
        started = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    interrupted = Manifest.read(run)
    assert interrupted.status == "running"
    # Ray's processes end by themselves when their driver is gone.
    _, alive = psutil.wait_procs(started, timeout=60)
    for process in alive:
        process.kill()
    assert not alive
    client = MlflowClient(f"sqlite:///{cwd}/mlflow.db")
    experiment = client.get_experiment_by_name("weekly").experiment_id
    assert [logged.info.status for logged in client.search_runs([experiment])] == ["RUNNING"]

    ended = auditor(cwd, "run", "audit.yaml", "--json", *UNVERIFIED)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout).items() <= run.read_json("report/summary.json").items()
    assert "train:" not in ended.stderr
    assert "Traceback" not in ended.stderr
    before, after = TrajectoryReader(finished.run), TrajectoryReader(run)
    for step in after.manifest.checkpoints:
        assert equal_states(before.state(step), after.state(step))
    assert pa.concat_tables(after.batches()).equals(pa.concat_tables(before.batches()))
    order = "sample_id"
    assert run.read_table("scores").sort_by(order).equals(finished.run.read_table("scores").sort_by(order))
    assert not run.exists("verify")
    assert run.read_json("report/summary.json")["fidelity"] is None
    assert after.manifest.segments[: len(interrupted.segments)] == interrupted.segments
    [logged] = client.search_runs([experiment])
    assert logged.info.status == "FINISHED"
    of_verification = {
        name for name in finished.logged.data.metrics if name.startswith("fidelity.") or name == "seconds.verify"
    }
    assert logged.data.metrics.keys() == finished.logged.data.metrics.keys() - of_verification
    assert set(contents(run.local / "trajectory")) == set(contents(finished.run.local / "trajectory"))
