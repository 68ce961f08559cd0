"""Whether Kubernetes would take a manifest, as far as schemas tell."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT.parent / "shared/kuberay-crds"
KUBERNETES_VERSION = "1.34"


def check(manifest: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError for what is no such resource, unknown keys included."""
    if manifest["apiVersion"] == "ray.io/v1":
        _kuberay(manifest["kind"]).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def need_kuberay() -> None:
    """Skip a test where KubeRay's schemas are not."""
    if not KUBERAY.is_dir():
        pytest.skip(f"KubeRay's schemas are not in {KUBERAY.parent.name}/{KUBERAY.name} beside the checkout")


@cache
def _kuberay(kind: str) -> jsonschema.Draft202012Validator:
    # Megabytes: the loader in C, without which this takes many seconds.
    definition = yaml.load((KUBERAY / f"ray.io_{kind.lower()}s.yaml").read_text(), yaml.CSafeLoader)
    [version] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    # The API server knows what metadata is; pods are schemas within schemas.
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """The API server drops what it does not know, in silence; here that is an error."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or made.get("x-kubernetes-embedded-resource")
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not open_ended:
        made.setdefault("additionalProperties", False)
    return made


def build(folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl, which brings kustomize")
    made = subprocess.run([kubectl, "kustomize", str(folder)], check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))
