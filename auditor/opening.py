"""A run folder is opened for one configuration, which it keeps."""

from __future__ import annotations

import subprocess
from importlib import metadata
from typing import Any

import yaml

from auditor.config import RECORDED, Config, differences, parse_config
from auditor.data.dataset import DATASET_FILE
from auditor.errors import InputError
from auditor.report.masking import mask
from auditor.storage import RunFolder, reach

CONFIG_FILE = "config.yaml"
_VERSIONED = ("auditor", "ray", "torch", "torchvision", "numpy", "pyarrow", "mlflow")


def open_run(config: Config) -> RunFolder:
    """The run folder; until there is data in it, the resolved configuration is written there.

    Args:
        config: The audit.

    Raises:
        InputError: The folder cannot be used, or belongs to another configuration; the difference is named.
    """
    try:
        return _open(config)
    except OSError as error:
        raise InputError(f"run {mask(config.run)}: cannot be a run folder ({error})") from error


def _open(config: Config) -> RunFolder:
    reach(config.run)
    folder = RunFolder(config.run)
    resolved = _masked(config.model_dump(mode="json"))
    # Until there is data, nothing in the folder depends on the configuration that was kept.
    if folder.exists(CONFIG_FILE) and folder.exists(DATASET_FILE):
        kept = yaml.safe_load(folder.read_bytes(CONFIG_FILE))
        before = {key: value for key, value in kept.items() if key not in RECORDED}
        changed = differences(parse_config(before, folder.full(CONFIG_FILE)), parse_config(resolved))
        if changed:
            raise InputError(f"{folder}: was made with another configuration ({'; '.join(changed)})")
        return folder
    versions = {name: metadata.version(name) for name in _VERSIONED}
    recorded = {**resolved, "versions": versions, "revision": _revision()}
    folder.write_bytes(CONFIG_FILE, yaml.safe_dump(recorded, sort_keys=False, allow_unicode=True).encode())
    return folder


def _masked(tree: Any) -> Any:
    """The same tree with credentials in addresses replaced."""
    if isinstance(tree, dict):
        return {key: _masked(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_masked(value) for value in tree]
    return mask(tree) if isinstance(tree, str) else tree


def _revision() -> str | None:
    """The git revision of the working directory, marked when files are changed; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
