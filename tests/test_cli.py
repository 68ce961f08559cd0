from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from auditor.cli import cli
from auditor.fidelity import Fidelity
from tests.data.builders import images, table, three_tables
from tests.distributed.builders import auditor, config, train_here

STAGES = ["run", "train", "replay", "score", "verify", "report", "review", "export", "plan"]


def written(folder, **changes):
    """A configuration file of the bundled digits; `changes` are dotted keys."""
    raw = config("runs/a").model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = raw
        for key in parents:
            node = node[key]
        node[last] = value
    (folder / "audit.yaml").write_text(yaml.safe_dump(raw))
    return "audit.yaml"


def of_tables(folder, tables, **changes):
    """A configuration file of Parquet tables in the same folder."""
    for split, rows in tables.items():
        pq.write_table(rows, folder / f"{split}.parquet")
    source = {"kind": "parquet", **{split: f"{split}.parquet" for split in tables}}
    batches = {"train.batch_size": 4, "train.micro_batch_size": 4}
    return written(folder, **{"data.source": source, **batches, **changes})


def assert_refused(ended, message, code=2):
    """One clear sentence on standard error, nothing on standard output."""
    assert ended.code == code
    assert ended.out == ""
    assert "Traceback" not in ended.err
    [line] = ended.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_help_has_an_example(command, name):
    ended = command(*[name] * bool(name), "--help")
    assert ended.code == 0
    assert re.search(rf"Example: auditor {name or 'run'} ((audit )?\S+\.yaml|runs/\S+ runs/\S+)", ended.out)
    if name in STAGES:
        assert all(option in ended.out for option in ("--run", "--set", "--json"))


def test_every_stage_is_a_command():
    assert set(STAGES) <= set(cli.commands)


def test_the_version_is_told(command):
    assert re.fullmatch(r"auditor, version \d+\.\d+\.\d+\n", command("--version").out)


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "a.yaml", "--fast"], ["fly", "a.yaml"], ["ui", "a", "--port", "x"]]
)
def test_wrong_arguments_are_wrong_input(command, arguments):
    ended = command(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: auditor" in ended.err


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_an_unknown_key_before_it_writes(command, tmp_path, stage):
    path = written(tmp_path, **{"train.optimizer.lr": 0.1})
    assert_refused(command(stage, path), "audit.yaml: unknown key train.optimizer.lr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["audit.yaml"]


@pytest.mark.parametrize("name", [*STAGES, "ui"])
def test_a_missing_file_is_named(command, name):
    assert_refused(command(name, "none.yaml"), "none.yaml: cannot be read (No such file or directory)")


def test_broken_yaml_is_named(command, tmp_path):
    (tmp_path / "audit.yaml").write_text("run: [\n  a:\n")
    assert_refused(command("run", "audit.yaml"), "audit.yaml: is not YAML")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=none", "train.epochs is 'none': input should be a valid integer"),
        ("train.epochs", "--set train.epochs: expected key.path=value"),
        (
            "model.name=vgg",
            "model.name 'vgg' is not one of mlp, resnet, resnet18, ",
        ),
        ("model.name=nowhere:net", "model.name 'nowhere:net' cannot be imported"),
        ("model.args.widths=[4, 4, 4, 4, 4]", "model.name 'small_cnn' fails on inputs [1, 8, 8]"),
        ("data.source={kind: folder, train: none}", "none"),
        ("data.source={kind: torchvision, dataset: Nothing, train: {}}", "Nothing"),
        ("train.batch_size=4096", "train.batch_size is 4096, but there are only 200 training rows"),
        ("run=ftp://host/run", "ftp://host/run: is no path or URI that can be opened"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(command, tmp_path, override, message):
    assert_refused(command("run", written(tmp_path), "--set", override), message)


def test_corrupt_images_above_the_limit_are_counted_and_named(command, tmp_path):
    broken = three_tables(train=table([*images(36), *[b"no image"] * 4]))
    assert_refused(
        command("run", of_tables(tmp_path, broken)),
        "data.source.train train.parquet: 4 of 40 train rows cannot be used (4 corrupt_image), more than "
        "data.max_quarantined 0.01 allows; first: s036 (corrupt_image: ",
    )


def test_duplicate_ids_above_the_limit_are_counted_and_named(command, tmp_path):
    doubled = three_tables(train=table(images(40), ids=["s000", *[f"s{row:03d}" for row in range(39)]]))
    assert_refused(
        command("run", of_tables(tmp_path, doubled)),
        "1 of 40 train rows cannot be used (1 duplicate_sample_id), more than data.max_quarantined 0.01 allows; "
        "first: s000 (duplicate_sample_id: the same as row 0)",
    )


def test_a_missing_column_is_named_with_its_file(command, tmp_path):
    path = of_tables(tmp_path, three_tables(), **{"data.columns.label": "human"})
    assert_refused(command("run", path), "train.parquet: has no column human; its columns are sample_id, image, label")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("score", "runs/a: holds no trajectory; train first"),
        ("replay", "runs/a: holds no trajectory; train first"),
        ("verify", "runs/a: holds no trajectory; train first"),
        ("report", "runs/a: holds no scores; score first"),
    ],
)
def test_a_stage_that_comes_too_early_names_the_one_before(command, tmp_path, stage, message):
    assert_refused(command(stage, written(tmp_path)), message, code=1)


def test_credentials_in_an_address_are_not_repeated(command, tmp_path):
    ended = command("run", written(tmp_path), "--run", "ftp://me:pass-word@host/run")
    assert_refused(ended, "is no path or URI")
    assert "pass-word" not in ended.err


def test_a_plan_is_a_page_or_json_alone_and_writes_nothing(command, tmp_path):
    path = written(tmp_path)
    page = command("plan", path)
    assert page.code == 0
    assert "rows         200 train, 60 validation, 60 test; 10 classes; inputs [1, 8, 8]" in page.out
    assert "training     18 steps (6 an epoch), 4 micro-batches each, on 1 workers; 4 checkpoints" in page.out
    costs = ("model        178 parameters", r"time         train \d+ s, score", r"memory       \d", r"disk         \d")
    assert all(re.search(f"^{line}", page.out, re.MULTILINE) for line in costs)
    alone = command("plan", path, "--json", "--set", "train.epochs=4")
    assert json.loads(alone.out)["steps"] == 24
    assert alone.err == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["audit.yaml"]


def test_the_interface_of_a_server_is_where_the_server_is(command, tmp_path):
    path = written(tmp_path, **{"mlflow.tracking_uri": "https://mlflow.example.org"})
    assert command("ui", path).out == "MLflow is at https://mlflow.example.org\n"


def test_a_model_of_ones_own_is_found_beside_the_caller(tmp_path):
    """In a real process: exit code, streams, and the import path of the installed command."""
    (tmp_path / "own.py").write_text("from auditor.models.mlp import mlp as make\n")
    path = written(tmp_path, **{"model.name": "own:make", "model.args": {}})
    ended = auditor(tmp_path, "plan", path, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["parameters"] == (64 + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 10
    (tmp_path / "own.py").unlink()
    ended = auditor(tmp_path, "plan", path, "--json")
    refused = SimpleNamespace(code=ended.returncode, out=ended.stdout, err=ended.stderr)
    assert_refused(refused, "model.name 'own:make' cannot be imported: No module named 'own'")


@pytest.mark.ray
def test_verify_scores_trains_again_and_later_does_only_what_is_new(tmp_path, command, monkeypatch, running_cluster):
    path = written(tmp_path, **{"verify.leave_one_out": 1, "verify.subsets": 3})
    run = train_here(config("runs/a"))
    ray.shutdown()  # other tests may still be connected
    connections, connect = [], ray.init
    with monkeypatch.context() as counting:
        counting.setattr(ray, "init", lambda *where, **options: connections.append(where) or connect(*where, **options))
        ended = command("verify", path)
    assert ended.code == 0, ended.err
    assert len(connections) == 1, "features, scores and retrainings share a cluster"
    first = {name: run.read_bytes(f"verify/retrainings/{name}") for name in run.names("verify/retrainings")}
    assert len(first) == 1 + 1 + 1 + 3
    head, *lines = ended.out.splitlines()
    assert head.split("  ")[0] == "method"
    assert [line.split()[0] for line in lines] == ["gif", "loss", "margin", "aum", "auto"]
    assert "LDS 5%" in head

    with monkeypatch.context() as nowhere:
        nowhere.setenv("RAY_ADDRESS", "127.0.0.1:9")  # who starts or looks for Ray fails
        again = command("verify", path)
    assert (again.code, again.out) == (0, ended.out), again.err
    assert run.names("verify/retrainings") == sorted(first)

    more = auditor(tmp_path, "verify", path, "--json", "--set", "verify.subsets=4", **running_cluster)
    assert more.returncode == 0, more.stderr
    told = json.loads(more.stdout)
    assert (told["ones"], told["subsets"]) == (1, {"0.05": 4})
    assert told["methods"]["gif"]["lds"]["0.05"].keys() == {"value", "low", "high"}
    assert told == dataclasses.asdict(Fidelity.read(run))
    after = {name: run.read_bytes(f"verify/retrainings/{name}") for name in run.names("verify/retrainings")}
    assert len(after) == len(first) + 1
    assert first.items() <= after.items()


@pytest.mark.ray
def test_a_server_that_does_not_answer_is_named_before_any_training(tmp_path, running_cluster):
    path = written(tmp_path, **{"mlflow.tracking_uri": "http://127.0.0.1:9"})
    ended = auditor(tmp_path, "run", path, "--json", **running_cluster)
    refused = SimpleNamespace(code=ended.returncode, out=ended.stdout, err=ended.stderr)
    assert_refused(refused, "mlflow.tracking_uri http://127.0.0.1:9: no server answers there")
    assert not (tmp_path / "runs/a/trajectory").exists()


@pytest.mark.ray
def test_a_diverging_training_is_not_tried_again_and_exits_with_one_and_the_step(tmp_path, running_cluster):
    changes = {"model.name": "mlp", "model.args": {}, "train.optimizer.learning_rate": 1e12}
    path = written(tmp_path, **changes, **{"mlflow.tracking_uri": "sqlite:///mlflow.db"})
    ended = auditor(tmp_path, "run", path, "--json", **running_cluster)
    refused = SimpleNamespace(code=ended.returncode, out=ended.stdout, err=ended.stderr)
    assert_refused(refused, "training stopped at step ", code=1)
    assert re.search(r"step \d+: the loss is (nan|inf)", ended.stderr)

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [logged] = client.search_runs([client.get_experiment_by_name("auditor").experiment_id])
    assert logged.info.status == "FAILED"
    assert "training stopped at step" in logged.data.tags["auditor.failure"]
