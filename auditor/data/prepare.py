"""From a source to the snapshot that is audited: choose rows, check each of them, flip labels, write, describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.config import Config
from auditor.data.checks import (
    check_against_training,
    check_enough,
    check_ids_and_labels,
    check_settings,
    check_training,
)
from auditor.data.dataset import DATASET_FILE, Dataset, SplitFacts, fingerprint
from auditor.data.parts import Part, choose_parts, merge_rows, split_shares
from auditor.data.quarantine import Quarantine
from auditor.data.query import query_rows
from auditor.data.snapshot import FOLDER, SnapshotWriter
from auditor.data.sources import Source, open_source
from auditor.data.splits import SPLITS, SplitName, flip_labels
from auditor.data.survey import Survey
from auditor.errors import InputError
from auditor.progress import Progress
from auditor.storage import RunFolder


def prepare(
    config: Config, run: RunFolder, check: Callable[[tuple[int, ...], tuple[str, ...]], None] = lambda *_: None
) -> Dataset:
    """Make the snapshot that is audited: ``dataset/`` and, last, ``dataset.json``.

    The content of rows is streamed twice (checked, then written), never held; ids, labels and a hash of the content
    are held for all rows. What an earlier call left in the run, finished or not, is replaced.

    Args:
        config: The audit.
        run: Where to write.
        check: Told the shape of a sample and the names of the classes before anything is written: the run folder
            belongs to its configuration from then on.

    Returns:
        The view of ``dataset.json``.

    Raises:
        InputError: The source cannot be read, too much of it cannot be used, too little of it is left, or there is no
            such query.
    """
    source = open_source(config.data)
    class_names, parts = choose_parts(config, source)
    quarantine = Quarantine(limit=config.data.max_quarantined)
    for part in parts.values():
        check_ids_and_labels(part, quarantine)
        check_enough(part, source.where(part.table), quarantine)
    survey = Survey(source, quarantine, config.data.image_size)
    training = parts["train"]
    for table in source.tables():
        survey.look(table, parts.values())
        if table == "train":
            check_settings(config, survey.is_image)
            check_enough(training, source.where("train"), quarantine)
            check_training(config, training, class_names, source.where("train"), quarantine)
    for split in SPLITS[1:]:
        check_against_training(parts[split], training, survey, class_names, quarantine)
        check_enough(parts[split], source.where(parts[split].table), quarantine)
    query_rows(config.query, class_names, parts["validation"].kept_ids, parts["validation"].kept_labels)
    check(survey.input_shape, tuple(class_names))
    flipped = _flip(config, parts)
    run.remove(DATASET_FILE)
    run.remove(FOLDER)
    for table in source.tables():
        _write(run, source, table, [part for part in parts.values() if part.table == table], class_names)
    dataset = _describe(parts, class_names, survey, quarantine, source.warnings(), flipped)
    dataset.save(run)
    return dataset


def count_rows(config: Config) -> dict[SplitName, int]:
    """Expected rows of each split, without reading any image: exact up to the draw of splits and unusable rows.

    Raises:
        InputError: The source cannot be found.
    """
    source = open_source(config.data)
    total = source.count("train")
    counts = {split: round(total * share) for split, share in split_shares(config, source).items()}
    counts["train"] = total - sum(counts.values())
    for table in source.tables()[1:]:
        counts[table] = source.count(table)
    limits: dict[str, int | None] = config.data.limit.model_dump()
    return {split: min(counts[split], limits[split] or counts[split]) for split in SPLITS}


def _flip(config: Config, parts: dict[SplitName, Part]) -> int:
    """Apply label noise to the training labels; where no source knows the truth, the labels before it are the truth."""
    if not config.data.label_noise:
        return 0
    for part in parts.values():
        if part.true_labels is None:
            part.true_labels = part.labels.copy()
    training = parts["train"]
    noisy, flipped = flip_labels(training.kept_ids, training.kept_labels, config.data.label_noise, config.seed)
    training.labels[training.kept] = noisy
    return int(flipped.sum())


def _write(run: RunFolder, source: Source, table: SplitName, parts: list[Part], class_names: Sequence[str]) -> None:
    rows, owners, places = merge_rows(parts)
    numbers = [np.cumsum(part.kept) - 1 for part in parts]
    done = 0
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(f"writing {table}", len(rows), "rows"))
        writers = [stack.enter_context(SnapshotWriter(run, part.split, class_names)) for part in parts]
        for batch in source.batches(table, rows):
            window = slice(done, done + batch.num_rows)
            for owner, (part, writer) in enumerate(zip(parts, writers, strict=True)):
                chosen = np.flatnonzero(owners[window] == owner)
                inside = places[window][chosen]
                mine = batch.take(pa.array(chosen))
                if mine["sample_id"].to_pylist() != [part.sample_ids[place] for place in inside]:
                    raise InputError(f"{source.where(table)}: changed while it was being read")
                writer.write(_snapshot_table(mine, part, inside, numbers[owner][inside]))
            done += batch.num_rows
            bar.advance(batch.num_rows)


def _snapshot_table(batch: pa.Table, part: Part, places: NDArray[np.int64], numbers: NDArray[np.int64]) -> pa.Table:
    content = "image" if "image" in batch.column_names else "features"
    columns = {
        "row": pa.array(numbers, pa.int32()),
        "sample_id": batch["sample_id"],
        content: batch[content],
        "label": pa.array(part.labels[places], pa.int32()),
    }
    if part.true_labels is not None:
        truth = part.true_labels[places]
        columns["true_label"] = pa.array(truth, pa.int32(), mask=truth < 0)
    carried = {name: batch[name] for name in batch.column_names if name not in {"sample_id", content}}
    return pa.table({**columns, **carried})


def _describe(
    parts: dict[SplitName, Part],
    class_names: Sequence[str],
    survey: Survey,
    quarantine: Quarantine,
    warnings: Sequence[str],
    flipped: int,
) -> Dataset:
    training = parts["train"]
    named = (
        (split, sample_id, class_names[label])
        for split in SPLITS[:2]
        for sample_id, label in zip(parts[split].kept_ids, parts[split].kept_labels, strict=True)
    )
    return Dataset(
        splits={
            split: SplitFacts(
                rows=int(part.kept.sum()),
                class_counts=tuple(np.bincount(part.kept_labels, minlength=len(class_names)).tolist()),
            )
            for split, part in parts.items()
        },
        class_names=tuple(class_names),
        input_shape=survey.input_shape,
        mean=tuple(survey.mean.tolist()),
        std=tuple(survey.std.tolist()),
        true_labels=training.true_labels is not None,
        flipped=flipped,
        fingerprint=fingerprint(named),
        carried=tuple(name for name in survey.columns if name not in {"sample_id", "image", "features"}),
        quarantine=quarantine,
        warnings=(*warnings, *_observations(training)),
    )


def _observations(training: Part) -> list[str]:
    observations = []
    repeated = int(training.kept.sum()) - len(np.unique(training.digests[training.kept]))
    if repeated:
        observations.append(f"{repeated} training rows have the same content as an earlier training row")
    unknown = 0 if training.true_labels is None else int((training.true_labels[training.kept] < 0).sum())
    if unknown:
        observations.append(f"the true label of {unknown} training rows is missing or not among the classes")
    return observations
