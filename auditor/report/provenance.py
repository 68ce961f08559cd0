"""What made a run: configuration, versions and revision, free of credentials."""

from __future__ import annotations

from typing import Any

import yaml

from auditor.config import Config, flatten
from auditor.report.masking import mask
from auditor.storage import RunFolder


def run_name(config: Config) -> str:
    """The configured name of the run, or the last part of the run folder's path."""
    return config.mlflow.run_name or mask(config.run).rstrip("/").rpartition("/")[2] or "audit"


def settings(config: Config) -> dict[str, str]:
    """Every setting as a dotted key and text."""
    return {key: mask(str(value)) for key, value in flatten(config).items()}


def versions(run: RunFolder) -> dict[str, str]:
    """Package versions and git revision that config.yaml records beside the configuration."""
    kept = _kept(run)
    known = {**(kept.get("versions") or {}), "revision": kept.get("revision")}
    return {str(name): str(value) for name, value in known.items() if value is not None}


def revision(run: RunFolder) -> str | None:
    """The git revision that config.yaml records, if any."""
    value = _kept(run).get("revision")
    return None if value is None else str(value)


def _kept(run: RunFolder) -> dict[str, Any]:
    return dict(yaml.safe_load(run.read_bytes("config.yaml"))) if run.exists("config.yaml") else {}
