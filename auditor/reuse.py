"""What changed in the rows since the audit before, and its training taken over where nothing did."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import yaml
from pyarrow import fs

from auditor.config import RECORDED, Config, deciding, parse_config
from auditor.data.snapshot import snapshot_batches
from auditor.data.splits import SPLITS, SplitName
from auditor.report.masking import mask
from auditor.review.predecessor import predecessor
from auditor.sections.training import PREDECESSOR
from auditor.storage import RunFolder
from auditor.trajectory import Manifest
from auditor.trajectory.initial import INITIAL, read_initial

log = logging.getLogger("auditor")

_TRAINING = ("seed", "data.", "model.", "train.")
"""Keys, and beginnings of keys, that decide a training."""


@dataclass(frozen=True)
class RowChanges:
    """Training rows of two audits, by sample_id."""

    added: int
    gone: int
    relabelled: int

    @property
    def sentence(self) -> str:
        """What changed, for a person."""
        if not (self.added or self.gone or self.relabelled):
            return "the same samples with the same labels"
        return f"{self.added:,} samples added, {self.gone:,} gone, {self.relabelled:,} with another label"


def look_back(config: Config, run: RunFolder) -> None:
    """Before training: say what changed since the audit before, and take its training over where that is asked for.

    Args:
        config: The audit.
        run: Its run folder, data prepared.

    Raises:
        InputError: `review.predecessor` is unusable.
    """
    if Manifest.read(run) is not None or (before := predecessor(config, run)) is None:
        return
    log.info("data: since %s %s", mask(str(before)), row_changes(before, run).sentence)
    if config.train.reuse and reuse_training(config, before, run):
        log.info("train: rows and settings are those of %s, whose training is taken over", mask(str(before)))


def row_changes(before: RunFolder, run: RunFolder) -> RowChanges:
    """Compare the training rows of two audits.

    Args:
        before: Run folder of the earlier audit.
        run: Of the later one, prepared.
    """
    old, new = _labels(before), _labels(run)
    both = old.keys() & new.keys()
    changed = sum(old[sample_id] != new[sample_id] for sample_id in both)
    return RowChanges(len(new) - len(both), len(old) - len(both), changed)


def reuse_training(config: Config, before: RunFolder, run: RunFolder) -> bool:
    """Take over the training of an earlier audit, if it would be this audit's own, bit for bit.

    With `model.weights: predecessor` a training of its own would go on where the earlier one ended; where nothing
    changed there is nothing to learn, and the earlier one stands as it is.

    The settings that decide training have to be equal, and the rows: their order, ids, labels and content. Rows whose
    images are files are never known to be equal, since the files may have changed. Weights from a place have to be
    the same weights.

    Args:
        config: This audit.
        before: Run folder of the earlier one.
        run: This one's, prepared, its initial weights in it if they are named, without a training of its own.

    Returns:
        Whether the training was taken over.
    """
    manifest = Manifest.read(before)
    if manifest is None or not manifest.complete or not _same_settings(config, before):
        return False
    if not _same_start(config, before, run) or not all(_same_rows(before, run, split) for split in SPLITS):
        return False
    if before.exists(INITIAL):
        _copy(before, run, INITIAL)
    _copy(before, run, "trajectory")  # last: with it, training is done
    return True


def _copy(before: RunFolder, run: RunFolder, folder: str) -> None:
    aside = f".{folder}"
    run.remove(aside)
    run.make(aside)
    fs.copy_files(
        before.full(folder),
        run.full(aside),
        source_filesystem=before.filesystem,
        destination_filesystem=run.filesystem,
    )
    run.replace(aside, folder)


def _same_start(config: Config, before: RunFolder, run: RunFolder) -> bool:
    """Whether both trainings start from the same weights, where one place may have held different ones."""
    if config.model.weights in (None, PREDECESSOR):
        return True
    then, now = read_initial(before), read_initial(run)
    return then is not None and now is not None and then.fingerprint == now.fingerprint


def _same_settings(config: Config, before: RunFolder) -> bool:
    kept = yaml.safe_load(before.read_bytes("config.yaml"))
    earlier = parse_config({key: value for key, value in kept.items() if key not in RECORDED})
    return _deciding_training(earlier) == _deciding_training(config)


def _deciding_training(config: Config) -> dict[str, object]:
    return {key: value for key, value in deciding(config).items() if key.startswith(_TRAINING)}


def _same_rows(before: RunFolder, run: RunFolder, split: SplitName) -> bool:
    earlier, now = (snapshot_batches(folder, split) for folder in (before, run))
    return all(left == right for left, right in _pairs(earlier, now))


def _pairs(earlier: Iterator[pa.Table], now: Iterator[pa.Table]) -> Iterator[tuple[object, object]]:
    """Row group by row group; a missing one is None, and files in place of bytes are equal to nothing."""
    while True:
        left, right = next(earlier, None), next(now, None)
        if left is None and right is None:
            return
        yield left, right
        if right is not None and "image" in right.column_names:
            yield right["image"].combine_chunks().field("bytes").null_count, 0


def _labels(run: RunFolder) -> dict[str, str]:
    names = [str(name) for name in run.read_json("dataset.json")["class_names"]]
    found: dict[str, str] = {}
    for table in snapshot_batches(run, "train", ["sample_id", "label"]):
        labels = (names[label] for label in table["label"].to_pylist())
        found.update(zip(table["sample_id"].to_pylist(), labels, strict=True))
    return found
