from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from deploy.kuberay.make_manifests import IMAGE
from tests.deploy.schemas import ROOT

TEXT = (ROOT / "deploy/Dockerfile").read_text()
INSTRUCTIONS = [
    (name, " ".join(arguments.split()))
    for name, arguments in re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", TEXT.replace("\\\n", "\\\n "), re.M)
]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def stages():
    """Instructions by stage, those of the stages that it is built on first."""
    found, current = {}, None
    for name, arguments in INSTRUCTIONS:
        if name == "FROM":
            base, _, current = arguments.partition(" AS ")
            found[current] = list(found.get(base, ()))
        elif current:
            found[current].append((name, arguments))
    return found


@pytest.mark.parametrize("stage", ["runtime", "mlflow"])
def test_images_end_as_an_ordinary_user(stage):
    assert [arguments for name, arguments in stages()[stage] if name == "USER"] == ["1000:1000"]


def test_what_is_copied_is_there_and_let_through():
    allowed = [
        line[1:] for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    for name, arguments in INSTRUCTIONS:
        if name == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in allowed, source


def test_packages_come_from_the_locks_with_their_hashes():
    installs = [
        command for name, command in INSTRUCTIONS if name == "RUN" and re.search(r"\bpip\b.* (install|sync) ", command)
    ]
    assert len(installs) == 4
    for command in installs:
        assert "--require-hashes" in command or command.endswith("--no-deps --no-build-isolation ."), command


def test_the_image_runs_python_that_the_project_supports():
    [version] = re.findall(r"^ARG PYTHON=(\d+\.\d+)", TEXT, re.M)
    assert version == "3.12"


def test_one_version_everywhere():
    assert f"auditor:{VERSION}" == IMAGE
    assert f"AUDITOR_VERSION={VERSION}\n" in (ROOT / "deploy/.env.example").read_text()
    for path in (ROOT / "deploy/kuberay/overlays").glob("*/kustomization.yaml"):
        assert [image["newTag"] for image in yaml.safe_load(path.read_text())["images"]] == [VERSION]
