from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from auditor.config import load_config
from auditor.errors import InputError
from auditor.parcel import COMMANDS, pack
from tests.distributed.builders import config

SECRET = "pass-word"  # noqa: S105


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working directory as a user has it, with much in it that is nobody else's business."""
    folder = tmp_path / "desk"
    (folder / "nets" / "deep").mkdir(parents=True)
    for name in ("own.py", "nets/__init__.py", "nets/deep/net.py", "nets/weights.bin", "other.py", ".env"):
        (folder / name).write_text(f"# {name}\n")
    raw = config("/shared/run").model_dump(mode="json")
    raw["mlflow"]["tracking_uri"] = "https://mlflow.example.org"
    (folder / "audit.yaml").write_text(f"# {SECRET}\n{yaml.safe_dump(raw)}")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def box(tmp_path):
    folder = tmp_path / "box"
    folder.mkdir()
    return folder


def inside(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        ("small_cnn", set()),
        ("own:make", {"own.py"}),
        ("nets.deep.net:make", {"nets/__init__.py", "nets/deep/net.py"}),
        ("installed_there:make", set()),
    ],
)
def test_the_configuration_and_the_models_own_code_go_along_and_nothing_else(desk, box, model, taken):
    parcel = pack("audit", "audit.yaml", [f"model.name={model}", "train.epochs=7"], "/shared/other", box)
    assert inside(box) == {"audit.yaml", *taken}
    assert (parcel.entrypoint, parcel.run) == ("python -m auditor run audit.yaml", "/shared/other")
    there = load_config(box / "audit.yaml")
    assert (there.run, there.train.epochs, there.model.name) == ("/shared/other", 7, model)
    assert SECRET not in (box / "audit.yaml").read_text()


def test_a_script_of_ones_own_goes_along_and_is_what_runs(desk, box):
    assert pack("other.py", "audit.yaml", [], None, box).entrypoint == "python other.py audit.yaml"
    assert inside(box) == {"audit.yaml", "other.py"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_job_by_name_is_a_file_of_jobs_and_a_command(name):
    from auditor.cli import cli

    assert (Path(__file__).parents[1] / "jobs" / f"{name}.py").is_file()
    assert COMMANDS[name] in cli.commands


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("run=runs/a", "run runs/a"),
        ("data.source={kind: folder, train: photos}", "data.source.train photos"),
        ("review.predecessor=runs/b", "review.predecessor runs/b"),
        ("model.weights=net.safetensors", "model.weights net.safetensors"),
        ("mlflow.tracking_uri=sqlite:///mlflow.db", "mlflow.tracking_uri mlflow.db"),
    ],
)
def test_a_place_that_only_this_machine_knows_is_refused(desk, box, change, place):
    with pytest.raises(InputError, match=f"a job would look for {place} in a working directory of its own"):
        pack("audit", "audit.yaml", [change], None, box)


def test_absolute_paths_and_addresses_are_places_that_all_machines_know(desk, box):
    for change in ("run=s3://audits/a", "mlflow.tracking_uri=sqlite:////shared/mlflow.db", "model.weights=predecessor"):
        pack("audit", "audit.yaml", [change], None, box)


@pytest.mark.parametrize("key", ["mlflow.tracking_uri", "run", "review.predecessor", "model.weights"])
def test_credentials_do_not_go_along(desk, box, key):
    with pytest.raises(InputError, match=f"could read the credentials in {key}; set them in") as refused:
        pack("audit", "audit.yaml", [f"{key}=https://me:{SECRET}@example.org/a"], None, box)
    assert SECRET not in str(refused.value)
    assert not inside(box)


def test_a_job_that_is_none_is_refused(desk, box):
    with pytest.raises(InputError, match=r"job trane: is not one of audit, train, replay, verify, review and not"):
        pack("trane", "audit.yaml", [], None, box)
    with pytest.raises(InputError, match=r"job none\.py: cannot be read"):
        pack("none.py", "audit.yaml", [], None, box)
