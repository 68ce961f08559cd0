from __future__ import annotations

import configparser
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.schemas import ROOT

DEPLOY = ROOT / "deploy"
FILES = sorted(DEPLOY.glob("compose*.yaml"))
EXAMPLE = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.M))
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)([^}]*)\}")
EXTRAS = [DEPLOY / "compose.auth.yaml", DEPLOY / "compose.gpu.yaml"]
CHOICES = [choice for count in range(3) for choice in itertools.combinations(EXTRAS, count)]


@pytest.fixture
def composed(tmp_path):
    """What docker compose makes of the files, with everything filled in."""
    program = Path(sys.executable).with_name("docker-compose")
    found = str(program) if program.exists() else shutil.which("docker-compose")
    if found is None:
        pytest.skip("there is no docker-compose for this machine")
    (tmp_path / "env").write_text("".join(f"{name}={value or 'filled'}\n" for name, value in EXAMPLE.items()))

    def compose(*extras, env=tmp_path / "env"):
        files = [part for path in (DEPLOY / "compose.yaml", *extras) for part in ("--file", str(path))]
        command = [found, "--env-file", str(env), *files, "config", "--format", "json"]
        return subprocess.run(command, check=False, capture_output=True, text=True, env={"PATH": "/usr/bin"})

    return compose


@pytest.mark.parametrize("extras", CHOICES, ids=lambda extras: "+".join(path.stem for path in extras) or "plain")
def test_docker_compose_takes_every_combination(composed, extras):
    made = composed(*extras)
    assert (made.returncode, made.stderr) == (0, "")
    services = json.loads(made.stdout)["services"]
    assert services.keys() == {"postgres", "minio", "buckets", "mlflow", "ray"}


def test_what_is_not_filled_in_is_asked_for(composed):
    made = composed(env=DEPLOY / ".env.example")
    assert made.returncode != 0
    assert "set it in .env" in made.stderr


def test_services_that_stay_are_watched_and_come_back(composed):
    services = json.loads(composed().stdout)["services"]
    for name, service in services.items():
        stays = name != "buckets"
        assert ("healthcheck" in service) == stays
        assert service["restart"] == ("unless-stopped" if stays else "no")
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == ("service_healthy" if needed != "buckets" else "service_completed_successfully")


def test_nothing_listens_beyond_this_machine_and_images_are_pinned(composed):
    services = json.loads(composed().stdout)["services"]
    assert {port["host_ip"] for service in services.values() for port in service.get("ports", ())} == {"127.0.0.1"}
    for service in services.values():
        assert re.search(r":.*\d", service["image"])
        assert not service["image"].endswith("latest")


def test_mlflow_has_users_where_it_is_asked_to(composed):
    mlflow = json.loads(composed(EXTRAS[0]).stdout)["services"]["mlflow"]
    assert mlflow["command"][-2:] == ["--app-name", "basic-auth"]
    [settings] = [volume for volume in mlflow["volumes"] if volume["type"] == "bind"]
    assert settings["target"] == mlflow["environment"]["MLFLOW_AUTH_CONFIG_PATH"]
    parsed = configparser.ConfigParser()
    parsed.read(settings["source"])
    assert "admin_password" not in parsed["mlflow"]
    [users] = [volume["target"] for volume in mlflow["volumes"] if volume["type"] == "volume"]
    assert parsed["mlflow"]["database_uri"].startswith(f"sqlite:///{users}/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variable_is_in_the_example_and_no_secret_is_here(path):
    used = VARIABLE.findall(path.read_text())
    assert {name for name, _ in used} <= EXAMPLE.keys()
    assert {rest for _, rest in used} <= {":?set it in .env"}
    for service in yaml.safe_load(path.read_text())["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|TOKEN|SECRET", name) or VARIABLE.search(value), name


def test_every_variable_of_the_example_is_used():
    used = {name for path in FILES for name, _ in VARIABLE.findall(path.read_text())}
    assert used == EXAMPLE.keys()
    assert all(not EXAMPLE[name] for name in EXAMPLE if re.search("PASSWORD|TOKEN|SECRET", name))
