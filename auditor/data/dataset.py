"""What an audit knows about its rows: the view of ``dataset.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from auditor.data.quarantine import Quarantine
from auditor.data.splits import SplitName
from auditor.errors import InputError
from auditor.storage import RunFolder

DATASET_FILE = "dataset.json"


class SplitFacts(BaseModel):
    """One split."""

    model_config = ConfigDict(frozen=True)

    rows: int
    class_counts: tuple[int, ...]
    """Rows of each class, by the label as audited."""


class Dataset(BaseModel):
    """The prepared dataset: small, immutable, and all that a model or a scoring actor needs to know about rows."""

    model_config = ConfigDict(frozen=True)

    splits: dict[SplitName, SplitFacts]
    class_names: tuple[str, ...]
    """In label order."""
    input_shape: tuple[int, ...]
    """[channels, height, width], or [features]."""
    mean: tuple[float, ...]
    """Of the training rows: by channel on the scale 0..1, or by feature."""
    std: tuple[float, ...]
    """The same; 1 where the training rows are constant."""
    true_labels: bool
    """Whether the truth is known beside the label."""
    flipped: int
    """Training labels that `data.label_noise` flipped."""
    fingerprint: str
    """`fingerprint` of the training and validation rows."""
    carried: tuple[str, ...]
    """Columns of the training table that are carried through to the report."""
    quarantine: Quarantine
    """What was set aside."""
    warnings: tuple[str, ...]
    """What the user should know."""

    @property
    def is_image(self) -> bool:
        """Whether rows are images, not features."""
        return len(self.input_shape) == 3

    @classmethod
    def load(cls, run: RunFolder) -> Dataset:
        """Read the view back.

        Raises:
            InputError: The run holds no prepared dataset, or its ``dataset.json`` is unusable.
        """
        if not run.exists(DATASET_FILE):
            raise InputError(f"{run.full(DATASET_FILE)}: does not exist, the run's dataset was not prepared")
        try:
            return cls.model_validate(run.read_json(DATASET_FILE))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise InputError(f"{run.full(DATASET_FILE)}: {key}: {problem['msg'].lower()}") from None

    def save(self, run: RunFolder) -> None:
        """Write ``dataset.json``, which declares the snapshot complete."""
        run.write_json(DATASET_FILE, self.model_dump(mode="json"))


def fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    """Identify what is audited, whatever the order of the rows.

    Args:
        rows: (split, sample_id, class name) of every row.

    Returns:
        SHA-256 in hex.
    """
    total = hashlib.sha256()
    for line in sorted(json.dumps(row, ensure_ascii=False) for row in rows):
        total.update(line.encode() + b"\n")
    return total.hexdigest()
