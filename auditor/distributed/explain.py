"""Ray Data finds the training samples that moved the loss of single validation images most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.explain_inputs import Explaining, Images, Retrained, Sensitivity, influence
from auditor.distributed.remarks import pass_on
from auditor.distributed.rounding import Rounding
from auditor.distributed.rows import RowReader, cause, device_of, over_rows, reserved, set_up_before
from auditor.distributed.shared import share_tensors
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
    training samples by images is ever held: each actor keeps a running list for each image, and where not all images'
    directions have room at once, the training rows are passed over for some images at a time.

    Args:
        config: The audit.
        run: Its run folder, training complete.

    Raises:
        StageError: Training has not ended, or an influence is not finite.
    """
    dataset = Dataset.load(run)
    rows = dataset.splits["train"].rows
    try:
        images, retrained, parts, rounding = _prepared(config, run)
    except ray.exceptions.RayError as error:
        raise StageError(f"explain could not be prepared: {cause(error)}") from error
    except UnsolvableError as error:
        raise StageError(f"explain.method is ekfac: {error}") from error
    extremes: list[Extremes] = []
    predicted = np.zeros((len(retrained.effects), 0))
    try:
        with Progress("explain", rows * len(parts), "samples") as bar:
            for part in parts:
                pipeline = over_rows(config, run, dataset, Explainer, part, batch_size=None)
                some, sums = _gathered(pipeline, config.explain.samples, len(retrained.effects), bar)
                extremes.append(some)
                predicted = np.concatenate([predicted, sums], axis=1)
    except ray.exceptions.RayError as error:
        raise StageError(f"explain gave up: {cause(error)}") from error
    pass_on(run, "explain")
    agreement = [
        float(spearman(predicted[:, image], retrained.effects[:, image])) if len(predicted) >= FEWEST else None
        for image in range(len(images.rows))
    ]
    _write(config, run, images, extremes, agreement, len(retrained.rows), rounding)


def _gathered(
    pipeline: ray.data.Dataset, samples: int, subsets: int, bar: Progress
) -> tuple[Extremes, NDArray[np.float64]]:
    """The lists of all blocks merged, and their sums over left-out subsets added up, [subsets, M]."""
    lines = (
        line for block in pipeline.iter_batches(batch_size=None, batch_format="pyarrow") for line in block.to_pylist()
    )
    extremes, sums = None, np.zeros((subsets, 0))
    for line in lines:
        images = line["images"]
        if extremes is None:
            extremes, sums = Extremes(images, samples), np.zeros((subsets, images))
        extremes.merge(np.reshape(line["rows"], (images, -1)), np.reshape(line["influence"], (images, -1)))
        sums += np.reshape(line["predicted"], sums.shape)
        bar.advance(line["samples"])
    assert extremes is not None, "there are training rows"  # noqa: S101
    return extremes, sums


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
        prepared: Reference of a `Sensitivity`, read from the object store once a node.
    """

    def __init__(self, settings: dict[str, Any], uri: str, prepared: ray.ObjectRef) -> None:
        self.reader = RowReader(settings, uri)
        self.found: Sensitivity = ray.get(prepared)
        on_device = [some.to(self.reader.device) for some in self.found.directions]
        self.derivatives = Derivatives(self.reader.network, on_device, dtype=self.found.dtype)

    def __call__(self, block: pa.Table) -> pa.Table:
        """One row a block: its most influential samples, and what leaving out its part of each subset would do."""
        images, left_out = len(self.found), self.found.left_out
        extremes = Extremes(images, self.reader.config.explain.samples)
        predicted = np.zeros((len(left_out), images))
        for rows, found in self.reader.in_parts(block, self._influence):
            extremes.add(rows, found)
            for place, removed in enumerate(left_out):
                predicted[place] += found[np.isin(rows, removed)].sum(axis=0)
        kept_rows, kept = extremes.kept()
        line = {
            "samples": len(block),
            "images": images,
            "rows": kept_rows.ravel().tolist(),
            "influence": kept.ravel().tolist(),
            "predicted": predicted.ravel().tolist(),
        }
        return pa.Table.from_pylist([line], schema=_SCHEMA)

    def _influence(self, batch: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows [m], and the influence of each on each image, [m, M]."""
        rows = np.asarray(batch["row"].to_numpy(), dtype=np.int64)
        along = self.derivatives(*self.reader.tensors(batch)).cpu().numpy()
        found = influence(self.found.weights[rows], along)
        if not np.isfinite(found).all():
            sample = batch["sample_id"][int(np.nonzero(~np.isfinite(found))[0][0])].as_py()
            raise StageError(f"the influence of sample {sample!r} is not finite")
        return rows, found


_SCHEMA = pa.schema(
    [
        ("samples", pa.int64()),
        ("images", pa.int64()),
        ("rows", pa.list_(pa.int64())),
        ("influence", pa.list_(pa.float64())),
        ("predicted", pa.list_(pa.float64())),
    ]
)


def _prepared(config: Config, run: RunFolder) -> tuple[Images, Retrained, list[ray.ObjectRef], dict[str, Rounding]]:
    """Images, retrainings, a `Sensitivity` for some images at a time in the object store, and what fewer bits cost.

    Computed where the accelerators are; without any, here.
    """

    def computed() -> Iterator[object]:
        explaining = Explaining(config, run, device_of(config))
        share_tensors()
        yield explaining.images, explaining.retrained
        for part, lost in explaining.parts():
            yield lost  # first: where computing a part fails, its reference is read at once
            yield part

    if config.resources.gpus_per_worker:
        first, *others = ray.remote(num_returns="streaming", **reserved(config))(computed).remote()
    else:
        set_up_before(config)
        first, *others = map(ray.put, computed())
    images, retrained = ray.get(first)
    rounding = {name: each for lost in ray.get(others[0::2]) for name, each in lost.items()}
    return images, retrained, others[1::2], rounding


def _write(
    config: Config,
    run: RunFolder,
    images: Images,
    extremes: list[Extremes],
    agreement: list[float | None],
    retrainings: int,
    rounding: Mapping[str, Rounding],
) -> None:
    places = [(some, query) for some in extremes for query in range(len(some))]
    lines = [
        (sample_id, side, rank, row, influence)
        for sample_id, (some, query) in zip(images.sample_ids, places, strict=True)
        for side, found in (("helped", some.helpful(query)), ("harmed", some.harmful(query)))
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
    lost = {"images": len(rounding)} | asdict(Rounding.worst(rounding.values())) if rounding else None
    run.write_json(f"{_ASIDE}/explain.json", {"settings": settings, **counts, "rounding": lost})
    run.replace(_ASIDE, EXPLAIN)
