"""Ray Data finds the training samples that moved the loss of single validation images most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.explain_inputs import ExplainInputs, Images, prepare_explaining
from auditor.distributed.rows import RowReader, cause, device_of, over_rows, reserved
from auditor.errors import StageError
from auditor.fidelity.agreement import FEWEST, spearman
from auditor.fidelity.verification import read_effects
from auditor.influence import Derivatives
from auditor.influence.extremes import Extremes
from auditor.influence.solvers import UnsolvableError
from auditor.progress import Progress
from auditor.storage import RunFolder

EXPLAIN = "explain"
EXPLAIN_FILE = f"{EXPLAIN}/explain.json"
_ASIDE = f".{EXPLAIN}"

IMAGES_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("row", pa.int32()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("probability", pa.float64()),
        ("loss", pa.float64()),
        ("lds", pa.float64()),
    ]
)
INFLUENCE_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("side", pa.string()),
        ("rank", pa.int32()),
        ("sample_id", pa.string()),
        ("row", pa.int32()),
        ("label", pa.int32()),
        ("influence", pa.float64()),
    ]
)


def explain_on_ray(config: Config, run: RunFolder) -> None:
    """Explain misclassified validation images on the connected Ray cluster.

    Writes explain/images.parquet, explain/influence.parquet and explain/explain.json, over earlier ones. No matrix of
    training samples by images is ever held: each actor keeps a running list for each image.

    Args:
        config: The audit.
        run: Its run folder, training complete.

    Raises:
        StageError: Training has not ended, or an influence is not finite.
    """
    dataset = Dataset.load(run)
    try:
        inputs = _prepared(config, run)
    except ray.exceptions.RayError as error:
        raise StageError(f"explain could not be prepared: {cause(error)}") from error
    except UnsolvableError as error:
        raise StageError(f"explain.method is ekfac: {error}") from error
    images, retrained = inputs.images, inputs.retrained
    extremes = Extremes(len(images.rows), config.explain.samples)
    predicted = np.zeros(retrained.effects.shape)
    if len(images.rows):
        pipeline = over_rows(config, run, dataset, Explainer, ray.put(inputs), batch_size=None)
        try:
            with Progress("explain", dataset.splits["train"].rows, "samples") as bar:
                for block in pipeline.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for line in block.to_pylist():
                        shape = (len(images.rows), -1)
                        extremes.merge(np.reshape(line["rows"], shape), np.reshape(line["influence"], shape))
                        predicted += np.reshape(line["predicted"], predicted.shape)
                        bar.advance(line["samples"])
        except ray.exceptions.RayError as error:
            raise StageError(f"explain gave up: {cause(error)}") from error
    agreement = [
        float(spearman(predicted[:, image], retrained.effects[:, image])) if len(predicted) >= FEWEST else None
        for image in range(len(images.rows))
    ]
    _write(config, run, images, extremes, agreement, len(retrained.rows))


def is_explained(config: Config, run: RunFolder) -> bool:
    """Whether explain/ holds what these settings ask for, judged by the retrainings that there are."""
    if not run.exists(EXPLAIN_FILE):
        return False
    known = run.read_json(EXPLAIN_FILE)
    return bool(known["settings"] == config.explain.model_dump(mode="json") and known["subsets"] == _subsets(run))


def _subsets(run: RunFolder) -> int:
    """Random subsets that have been left out of retrainings so far."""
    effects = read_effects(run)
    return 0 if effects is None else effects["kind"].to_pylist().count("subset")


class Explainer:
    """An actor that keeps, of the samples of a block, those of the largest influence on each image.

    Args:
        settings: The configuration, as plain values.
        uri: The run folder.
        prepared: Reference of the inputs, read from the object store once a node.
    """

    def __init__(self, settings: dict[str, Any], uri: str, prepared: ray.ObjectRef) -> None:
        self.reader = RowReader(settings, uri)
        self.inputs: ExplainInputs = ray.get(prepared)
        on_device = [some.to(self.reader.device) for some in self.inputs.directions]
        self.derivatives = Derivatives(self.reader.network, on_device)

    def __call__(self, block: pa.Table) -> pa.Table:
        """One row a block: its most influential samples, and what leaving out its part of each subset would do."""
        images, left_out = len(self.inputs.images.rows), self.inputs.retrained.rows
        config = self.reader.config
        extremes = Extremes(images, config.explain.samples)
        predicted = np.zeros((len(left_out), images))
        for first in range(0, len(block), config.score.batch_size):
            batch = block.slice(first, config.score.batch_size)
            rows = np.asarray(batch["row"].to_numpy(), dtype=np.int64)
            influence = self._influence(batch, rows)
            if not np.isfinite(influence).all():
                sample = batch["sample_id"][int(np.nonzero(~np.isfinite(influence))[0][0])].as_py()
                raise StageError(f"the influence of sample {sample!r} is not finite")
            extremes.add(rows, influence)
            for place, removed in enumerate(left_out):
                predicted[place] += influence[np.isin(rows, removed)].sum(axis=0)
        kept_rows, kept = extremes.kept()
        line = {
            "samples": len(block),
            "rows": kept_rows.ravel().tolist(),
            "influence": kept.ravel().tolist(),
            "predicted": predicted.ravel().tolist(),
        }
        return pa.Table.from_pylist([line], schema=_SCHEMA)

    def _influence(self, batch: pa.Table, rows: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
        """Of each sample on each image, [m, M]."""
        along = self.derivatives(*self.reader.tensors(batch)).cpu().numpy()
        weights = self.inputs.weights[rows]
        summed = np.einsum("kp,kpz->kz", weights, along.reshape(len(rows), weights.shape[1], -1))
        return np.asarray(summed)


_SCHEMA = pa.schema(
    [
        ("samples", pa.int64()),
        ("rows", pa.list_(pa.int64())),
        ("influence", pa.list_(pa.float64())),
        ("predicted", pa.list_(pa.float64())),
    ]
)


def _prepared(config: Config, run: RunFolder) -> ExplainInputs:
    """Computed where the accelerators are; without any, here."""
    if not config.resources.gpus_per_worker:
        torch.set_num_threads(config.resources.cpus_per_worker)
        return prepare_explaining(config, run, device_of(config))
    remotely = ray.remote(**reserved(config))(prepare_explaining)
    found: ExplainInputs = ray.get(remotely.remote(config, run, device_of(config)))
    return found


def _write(
    config: Config,
    run: RunFolder,
    images: Images,
    extremes: Extremes,
    agreement: list[float | None],
    retrainings: int,
) -> None:
    lines = [
        (images.sample_ids[image], side, rank, row, influence)
        for image in range(len(images.rows))
        for side, found in (("helped", extremes.helpful(image)), ("harmed", extremes.harmful(image)))
        for rank, (row, influence) in enumerate(found, start=1)
    ]
    image_ids, sides, ranks, rows, values = zip(*lines, strict=True) if lines else [()] * 5
    named = run.read_table("dataset/train", columns=["sample_id", "label"]).take(pa.array(rows, pa.int32()))
    influence = [image_ids, sides, ranks, named["sample_id"], rows, named["label"], values]
    shown = [images.sample_ids, images.rows, images.labels, images.predicted, images.probabilities, images.losses]
    run.remove(_ASIDE)
    run.write_table(f"{_ASIDE}/images.parquet", pa.table([*shown, agreement], schema=IMAGES_SCHEMA))
    run.write_table(f"{_ASIDE}/influence.parquet", pa.table(influence, schema=INFLUENCE_SCHEMA))
    settings = config.explain.model_dump(mode="json")
    counts = {"misclassified": images.misclassified, "retrainings": retrainings, "subsets": _subsets(run)}
    run.write_json(f"{_ASIDE}/explain.json", {"settings": settings, **counts})
    run.replace(_ASIDE, EXPLAIN)
