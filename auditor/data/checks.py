"""What must hold of rows besides their content: ids, labels, classes, validation rows unlike training rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auditor.config import Config
from auditor.data.parts import Part, set_aside
from auditor.data.quarantine import Quarantine
from auditor.data.survey import Survey
from auditor.errors import InputError


def check_ids_and_labels(part: Part, quarantine: Quarantine) -> None:
    """Set rows aside that lack an id or a known label, or repeat an id: the first row with an id stays."""
    first: dict[str, int] = {}
    for place, (sample_id, label) in enumerate(zip(part.sample_ids, part.labels.tolist(), strict=True)):
        if not sample_id:
            set_aside(quarantine, part, place, "missing_sample_id", "no sample_id")
        elif sample_id in first:
            detail = f"the same as row {part.rows[first[sample_id]]}"
            set_aside(quarantine, part, place, "duplicate_sample_id", detail)
        else:
            first[sample_id] = place
            if label < 0:
                raw = part.raw_labels[place].as_py()
                detail = "the label is missing" if raw is None else f"label {raw!r} is not among the classes"
                set_aside(quarantine, part, place, "unknown_label", detail)


def check_against_training(
    part: Part, training: Part, survey: Survey, class_names: Sequence[str], quarantine: Quarantine
) -> None:
    """Set validation or test rows aside that training does not prepare for, or that it contains.

    Args:
        part: Validation or test rows.
        training: Training rows, fully checked.
        survey: What is known of the training rows' content.
        class_names: In label order.
        quarantine: Where to name them.
    """
    by_id = set(training.kept_ids)
    by_digest = dict(zip(training.digests[training.kept].tolist(), training.kept_ids, strict=True))
    occurring = set(training.kept_labels.tolist())
    for place in np.flatnonzero(part.kept).tolist():
        label, digest = int(part.labels[place]), int(part.digests[place])
        if label not in occurring:
            detail = f"no training row has the label {class_names[label]!r}"
            set_aside(quarantine, part, place, "unknown_label", detail)
        elif part.shapes[place] != survey.content:
            survey.wrong_shape(part, place)
        elif part.sample_ids[place] in by_id:
            set_aside(quarantine, part, place, "validation_in_training", "a training row has this sample_id")
        elif digest in by_digest:
            detail = f"the same content as training row {by_digest[digest]}"
            set_aside(quarantine, part, place, "validation_in_training", detail)


def check_enough(part: Part, where: str, quarantine: Quarantine) -> None:
    """Stop where too many of a split's rows were set aside, or none is left.

    Raises:
        InputError: Naming the table, the counts and the first offenders.
    """
    quarantine.check_rows(part.split, len(part.rows), where)
    if not part.kept.any():
        hint = "" if part.split == part.table else f" (data.split.{part.split} decides how many there are)"
        raise InputError(f"{where}: there are no {part.split} rows{hint}")


def check_training(config: Config, part: Part, class_names: Sequence[str], where: str, quarantine: Quarantine) -> None:
    """Stop where the training rows cannot be trained on; classes without a row go into the quarantine.

    Raises:
        InputError: Too many empty classes, fewer than two classes, or fewer rows than a batch.
    """
    counts = np.bincount(part.kept_labels, minlength=len(class_names))
    for index in np.flatnonzero(counts == 0).tolist():
        quarantine.add("train", None, None, "empty_class", f"class {class_names[index]}")
    quarantine.check_classes(len(class_names), where)
    if np.count_nonzero(counts) < 2:
        raise InputError(f"{where}: an audit needs training rows of at least two classes")
    if counts.sum() < config.train.batch_size:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but there are only {counts.sum()} training rows"
        )


def check_settings(config: Config, is_image: bool) -> None:
    """Stop where settings for images meet features.

    Raises:
        InputError: Naming the key.
    """
    augmentation = config.data.augmentation
    if not is_image and (augmentation.horizontal_flip or augmentation.crop_padding or augmentation.cutout):
        raise InputError("data.augmentation: rows are features, and only images can be augmented")
    if not is_image and config.data.image_size is not None:
        raise InputError("data.image_size: rows are features, and only images have a size")
