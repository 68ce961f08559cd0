"""The stages of an audit in their order: each one a function, each finished once, each resumable."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from auditor.config import RECORDED, Config, differences, parse_config
from auditor.data import Dataset
from auditor.data import prepare as prepare_dataset
from auditor.data.dataset import DATASET_FILE
from auditor.errors import InputError, StageError
from auditor.plan import check_model
from auditor.report import Summary, read_report
from auditor.report import report as write_report
from auditor.report.masking import mask
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from auditor.trajectory.manifest import checkpoint_folder

if TYPE_CHECKING:
    from auditor.report.tracking import Tracking

log = logging.getLogger("auditor")

CONFIG_FILE = "config.yaml"
STAGES_FILE = "stages.json"
_VERSIONED = ("auditor", "ray", "torch", "torchvision", "numpy", "pyarrow", "mlflow")


def run(config: Config) -> Summary:
    """The whole audit: prepare, train, score, report, all of it logged to MLflow.

    What is complete in the run folder is left as it is, so a second call resumes or finds that all is done.

    Args:
        config: The audit.

    Returns:
        What was found.

    Raises:
        InputError: The configuration or its data is wrong, or the folder holds another audit.
        StageError: A stage could not end.
    """
    folder = open_run(config)
    if "track" in _seconds(folder):
        log.info("all of this audit is done; another one needs another run folder (--run)")
        return read_report(config, folder)
    from auditor.distributed.cluster import cluster
    from auditor.report.tracking import Tracking

    with Tracking(config, folder) as tracking:
        tracking.log_parameters()
        dataset = prepare(config)
        tracking.log_dataset()
        with cluster(config.resources) if not _scored(folder) else nullcontext():
            train(config)
            score(config)
        summary = report(config)
        with _timed(folder, "track"):
            tracking.log_training()
            tracking.log_report(summary)
            _log_model(config, folder, dataset, tracking)
    return summary


def prepare(config: Config) -> Dataset:
    """Check the rows and take the snapshot that is audited, unless it is there already.

    Raises:
        InputError: Too many rows are unusable, or the model does not fit them.
    """
    folder = open_run(config)
    if folder.exists(DATASET_FILE):
        dataset = Dataset.load(folder)
    else:
        with _timed(folder, "prepare"):
            dataset = prepare_dataset(config, folder)
    check_model(config, dataset.input_shape, len(dataset.class_names))
    counts = ", ".join(f"{facts.rows:,} {split}" for split, facts in dataset.splits.items())
    log.info(
        "data: %s rows of %d classes, %d set aside", counts, len(dataset.class_names), len(dataset.quarantine.rows)
    )
    for warning in dataset.warnings:
        log.warning("data: %s", warning)
    return dataset


def train(config: Config) -> Manifest:
    """Train with SAM on Ray, from the last complete checkpoint if there is one; the snapshot is taken if need be.

    Raises:
        InputError: See `prepare`.
        StageError: The loss was not finite, or workers died too often.
    """
    folder = open_run(config)
    if not folder.exists(DATASET_FILE):
        prepare(config)
    manifest = Manifest.read(folder)
    if manifest is None or not manifest.complete:
        from auditor.distributed.cluster import cluster
        from auditor.distributed.train import train_on_ray

        with cluster(config.resources), _timed(folder, "train"):
            manifest = train_on_ray(config, folder)
    log.info(
        "train: %d steps of %d samples in %.1f s, %d checkpoints",
        manifest.steps,
        manifest.batch_size,
        manifest.seconds,
        len(manifest.checkpoints),
    )
    return manifest


def score(config: Config) -> int:
    """Score every training sample on Ray, unless that is done already; returns how many samples there are.

    Raises:
        StageError: Training has not ended, or a score is not finite.
    """
    folder = open_run(config)
    TrajectoryReader(folder)
    if not _scored(folder):
        from auditor.distributed.cluster import cluster
        from auditor.distributed.score import score_on_ray

        with cluster(config.resources), _timed(folder, "score"):
            score_on_ray(config, folder)
    rows = Dataset.load(folder).splits["train"].rows
    log.info("score: %s samples by %s", f"{rows:,}", ", ".join(config.score.methods))
    return rows


def report(config: Config) -> Summary:
    """Rank the scored samples and write report/, over an earlier one.

    Raises:
        StageError: Scores are missing or do not fit the dataset.
    """
    folder = open_run(config)
    if not _scored(folder):
        raise StageError(f"{folder}: holds no scores; score first")
    with _timed(folder, "report"):
        return write_report(config, folder)


def open_run(config: Config) -> RunFolder:
    """Open the run folder of a configuration; its resolved form is written there the first time.

    Raises:
        InputError: The folder belongs to another configuration; the difference is named.
    """
    folder = RunFolder(config.run)
    resolved = _masked(config.model_dump(mode="json"))
    if folder.exists(CONFIG_FILE):
        kept = yaml.safe_load(folder.read_bytes(CONFIG_FILE))
        old = parse_config({key: value for key, value in kept.items() if key not in RECORDED}, folder.full(CONFIG_FILE))
        changed = differences(old, parse_config(resolved))
        if changed:
            raise InputError(f"{folder}: was made with another configuration ({'; '.join(changed)})")
        return folder
    versions = {name: metadata.version(name) for name in _VERSIONED}
    recorded = {**resolved, "versions": versions, "revision": _revision()}
    folder.write_bytes(CONFIG_FILE, yaml.safe_dump(recorded, sort_keys=False, allow_unicode=True).encode())
    return folder


def _scored(folder: RunFolder) -> bool:
    return folder.exists("scores")


def _seconds(folder: RunFolder) -> dict[str, float]:
    return dict(folder.read_json(STAGES_FILE)["seconds"]) if folder.exists(STAGES_FILE) else {}


@contextmanager
def _timed(folder: RunFolder, stage: str) -> Iterator[None]:
    """Record how long a stage took, once it has ended well."""
    started = time.monotonic()
    yield
    spent = round(time.monotonic() - started, 3)
    folder.write_json(STAGES_FILE, {"seconds": {**_seconds(folder), stage: spent}})


def _log_model(config: Config, folder: RunFolder, dataset: Dataset, tracking: Tracking) -> None:
    """Hand MLflow the trained network, its running statistics replaced by the ones it was evaluated with."""
    from auditor.distributed.loop import load_samples
    from auditor.distributed.scoring_inputs import trained_model

    example = load_samples(config, folder, dataset, "validation").inputs(np.arange(2))
    steps = TrajectoryReader(folder).manifest.steps
    tracking.log_model(trained_model(config, folder), example, folder.full(checkpoint_folder(steps)))


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
