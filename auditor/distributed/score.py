"""Ray Data scores every training sample over a pool of actors and writes the scores as Parquet."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from numpy.typing import NDArray

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.computing import set_up
from auditor.distributed.journal import look_interval
from auditor.distributed.remarks import pass_on, remark
from auditor.distributed.rows import RowReader, cause, device_of, over_rows, reserved, set_up_before
from auditor.distributed.score_files import ScoreFiles
from auditor.distributed.scoring_inputs import ScoringInputs, prepare_scoring
from auditor.distributed.shared import share_tensors
from auditor.errors import StageError
from auditor.influence import Derivatives, sample_logits
from auditor.methods import METHODS, base, in_order
from auditor.progress import Progress, Watch
from auditor.sam.step import margin
from auditor.storage import FORMAT_VERSION, RunFolder

SCORES = "scores"
EVALUATION = "evaluation.json"
_AT_ONCE = ("loss", "margin")
"""Methods that a forward pass gives."""

log = logging.getLogger("auditor")


def score_on_ray(config: Config, run: RunFolder) -> int:
    """Score the training samples on the connected Ray cluster.

    Writes evaluation.json and scores/*.parquet; scores that are there already are left alone, and of an attempt that
    was cut short the blocks that it had written.

    Args:
        config: The audit.
        run: Its run folder, training complete.

    Returns:
        The number of samples scored.

    Raises:
        StageError: Training has not ended, a score is not finite, or samples are missing.
    """
    dataset = Dataset.load(run)
    rows = dataset.splits["train"].rows
    if run.exists(SCORES):
        return rows
    prepared, evaluation, columns = _prepared(config, run)
    run.write_json(EVALUATION, evaluation)

    aside = f".{SCORES}"
    run.make(aside)
    written = ScoreFiles(run, aside)
    known = written.keep(columns)
    if known:
        log.info("score: %s samples were scored before", f"{len(known):,}")
    if len(known) < rows:
        ids = run.read_table("dataset/train", columns=["sample_id"])["sample_id"].to_pylist()
        left = [row for row, sample_id in enumerate(ids) if sample_id not in known]
        only = left if known else None
        pipeline = over_rows(config, run, dataset, Scorer, prepared, config.score.batch_size, only)
        try:
            with (
                Progress("score", rows, "samples", len(known)) as bar,
                Watch(lambda: bar.reach(written.rows()), look_interval(run)),
            ):
                pipeline.write_parquet(run.full(aside), filesystem=run.filesystem, ray_remote_args={"num_cpus": 1})
        except ray.exceptions.RayError as error:
            raise StageError(f"scoring gave up: {cause(error)}") from error
    pass_on(run, "score")
    _check(run.read_table(aside, columns=["sample_id"]), rows)
    run.replace(aside, SCORES)
    return rows


class Scorer:
    """A scoring actor: the network, the directions and the device stay; batches of samples pass through.

    Args:
        settings: The configuration, as plain values.
        uri: The run folder.
        prepared: Reference of the scoring inputs, read from the object store once a node.
    """

    def __init__(self, settings: dict[str, Any], uri: str, prepared: ray.ObjectRef) -> None:
        self.reader = RowReader(settings, uri)
        device = self.reader.device
        found: ScoringInputs = ray.get(prepared)
        self.final = found.final.to(device)
        on_device = [some.to(device) for some in found.directions]
        self.derivatives = Derivatives(self.reader.network, on_device, self.reader.config.score.compile, found.dtype)
        self.weights = {column: torch.as_tensor(weights, device=device) for column, weights in found.weights.items()}
        self.known = found.known

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score one batch: one row in, one row out."""
        return pa.concat_tables(self.reader.in_parts(batch, self._score))

    def _score(self, batch: pa.Table) -> pa.Table:
        rows = batch["row"].to_numpy()
        indices = torch.from_numpy(rows.astype(np.int64)).to(self.reader.device)
        inputs, labels = self.reader.tensors(batch)
        network, methods = self.reader.network, self.reader.config.score.methods
        with torch.no_grad():
            logits = sample_logits(network, self.final, inputs)
            probabilities, suggested = logits.softmax(dim=1).max(dim=1)
        columns: dict[str, Any] = {"sample_id": batch["sample_id"], "label": batch["label"]}
        derivatives = self.derivatives(inputs, labels)
        if self.derivatives.remark is not None:
            remark(self.reader.run, self.derivatives.remark)
            self.derivatives.remark = None
        scores: dict[str, NDArray[np.floating]] = {column: values[rows] for column, values in self.known.items()}
        for column, weights in self.weights.items():
            scores[column] = (weights[indices] * derivatives).sum(dim=1).cpu().numpy()
        if "loss" in methods:
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            scores["loss"] = losses.cpu().numpy()
        if "margin" in methods:
            scores["margin"] = margin(logits, labels).cpu().numpy()
        for column in in_order(scores):
            kind = np.float64 if METHODS[base(column)].predicts else np.float32
            columns[column] = scores[column].astype(kind)
        columns["suggested_label"] = suggested.int().cpu().numpy()
        columns["suggested_probability"] = probabilities.float().cpu().numpy()
        scored = pa.table(columns, metadata={b"auditor.format_version": str(FORMAT_VERSION).encode()})
        _refuse_not_finite(scored)
        return scored


def _prepared(config: Config, run: RunFolder) -> tuple[ray.ObjectRef, dict[str, Any], list[str]]:
    """What the actors need, in the object store, and the evaluation and the columns of the scores beside it.

    Computed where the accelerators are; without any, here: that saves a process and its imports.
    """
    if not config.resources.gpus_per_worker:
        set_up_before(config)
        found = prepare_scoring(config, run, device_of(config))
        share_tensors()
        return ray.put(found), found.evaluation, _columns(config, found)

    def remotely() -> tuple[ScoringInputs, tuple[dict[str, Any], list[str]]]:
        set_up(config.resources.cpus_per_worker)
        found = prepare_scoring(config, run, device_of(config))
        share_tensors()
        return found, (found.evaluation, _columns(config, found))

    inputs, beside = ray.remote(num_returns=2, **reserved(config))(remotely).remote()
    try:
        return inputs, *ray.get(beside)
    except ray.exceptions.RayError as error:
        raise StageError(f"scoring could not be prepared: {cause(error)}") from error


def _columns(config: Config, prepared: ScoringInputs) -> list[str]:
    """Of the tables that a `Scorer` makes."""
    scores = [*prepared.known, *prepared.weights, *(name for name in _AT_ONCE if name in config.score.methods)]
    return ["sample_id", "label", *in_order(scores), "suggested_label", "suggested_probability"]


def _refuse_not_finite(scored: pa.Table) -> None:
    for method in in_order(scored.column_names):
        broken = pc.invert(pc.is_finite(scored[method]))
        if pc.any(broken).as_py():
            sample = scored.filter(broken)["sample_id"][0].as_py()
            raise StageError(f"the {method} score of sample {sample!r} is not finite")


def _check(scored: pa.Table, expected: int) -> None:
    unique = len(pc.unique(scored["sample_id"]))
    if not scored.num_rows == unique == expected:
        raise StageError(f"{expected} samples should have been scored, {scored.num_rows} were, {unique} of them unique")
