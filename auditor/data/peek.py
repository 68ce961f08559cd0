"""What can be said of a source before it is prepared: its rows by split, and the shape of the first of them."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.config import Config
from auditor.data.inspection import Facts, inspect_features, inspect_images
from auditor.data.parts import choose_parts
from auditor.data.sources import open_source
from auditor.data.splits import SplitName
from auditor.errors import InputError

_ROWS = 64
_MANY = 0.1
"""Share of so few rows that is no accident."""


@dataclass(frozen=True)
class Peek:
    """Exact up to rows that turn out to be unusable."""

    rows: dict[SplitName, int]
    class_names: tuple[str, ...]
    """In label order."""
    input_shape: tuple[int, ...]
    """[channels, height, width] or [features], of the first usable training row."""
    is_image: bool
    bytes_a_row: float
    """Mean size in the snapshot, from the first training rows."""

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.class_names)


def peek(config: Config) -> Peek:
    """Read ids and labels of all rows and the content of a few.

    Raises:
        InputError: The source cannot be read, or none of the first training rows can be used, or many of the images
            have another size than the first, so that preparing would stop.
    """
    source = open_source(config.data)
    class_names, parts = choose_parts(config, source)
    rows = parts["train"].rows[:_ROWS]
    batch = next(iter(source.batches("train", rows)), None)
    if batch is None:
        raise InputError(f"{source.where('train')}: there are no training rows")
    is_image = "image" in batch.column_names
    found = (
        inspect_images(batch["image"].to_pylist(), config.data.image_size)
        if is_image
        else inspect_features(batch["features"])
    )
    usable = [facts for facts in found if isinstance(facts, Facts)]
    if not usable:
        raise InputError(f"{source.where('train')}: none of the first {len(found)} training rows can be used")
    odd = [facts for facts in usable if facts.shape != usable[0].shape]
    if is_image and len(odd) > max(config.data.max_quarantined, _MANY) * len(usable):
        (height, width), (others, wide) = usable[0].shape, odd[0].shape
        raise InputError(
            f"{source.where('train')}: {len(odd)} of the first {len(usable)} training images have another size than "
            f"the first ({height}x{width}, then {others}x{wide}); data.image_size resizes all to one size"
        )
    channels = 1 if all(facts.grayscale for facts in usable) else 3
    return Peek(
        rows={split: len(part.rows) for split, part in parts.items()},
        class_names=tuple(class_names),
        input_shape=(channels, *usable[0].shape) if is_image else usable[0].shape,
        is_image=is_image,
        bytes_a_row=batch.nbytes / batch.num_rows,
    )
