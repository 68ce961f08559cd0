"""Sections about the rows: where they come from and what is done to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from auditor.sections.section import Fraction, PositiveInt, Section


class DigitsSource(Section):
    """Scikit-learn's bundled digits: 1,797 real 8x8 images, cut into splits by `data.split`."""

    kind: Literal["digits"]


class ParquetSource(Section):
    """An audit table in Parquet: a file, a folder of files, or the URI of either."""

    kind: Literal["parquet"]
    train: str
    """Path or URI of the training table."""
    validation: str | None = None
    """Path or URI of the validation table; without it, `data.split.validation` of the training rows."""
    test: str | None = None
    """Path or URI of the test table; without it, `data.split.test` of the training rows."""


class FolderSource(Section):
    """A folder of class folders: `train/cat/1.jpg` has the label `cat` and the sample_id `cat/1.jpg`."""

    kind: Literal["folder"]
    train: str
    """The folder that holds one folder a class."""
    validation: str | None = None
    """The same for validation; without it, `data.split.validation` of the training rows."""
    test: str | None = None
    """The same for test; without it, `data.split.test` of the training rows."""


class TorchvisionSource(Section):
    """A torchvision dataset by its class name; the arguments of each split are passed to it as they are."""

    kind: Literal["torchvision"]
    dataset: str
    """Class name in `torchvision.datasets`, such as `CIFAR10`."""
    train: dict[str, Any]
    """Arguments that make the training split, such as `{root: /data, train: true}`."""
    validation: dict[str, Any] | None = None
    """Arguments that make the validation split; without them, `data.split.validation` of the training rows."""
    test: dict[str, Any] | None = None
    """Arguments that make the test split; without them, `data.split.test` of the training rows."""


class Columns(Section):
    """Which columns of a Parquet source play which part."""

    sample_id: str = "sample_id"
    """Unique and stable between audits."""
    image: str = "image"
    """struct{bytes, path}, or plain bytes, of an encoded image."""
    features: str = "features"
    """list<float>, for tables without images."""
    label: str = "label"
    """Integer or string."""
    true_label: str | None = None
    """The truth where it is known, in the same form as the label: judges detectors, never trains or scores."""


class Split(Section):
    """Shares of the training rows that become validation and test where the source has none of its own."""

    validation: Fraction = 0.15
    """Share of rows for validation, drawn by a hash of (seed, sample_id): a row keeps its split when rows are added."""
    test: Fraction = 0.15
    """Share of rows for test, drawn the same way."""


class Limit(Section):
    """At most this many rows of each split, drawn by a hash of (seed, sample_id)."""

    train: PositiveInt | None = None
    """Training rows to keep."""
    validation: PositiveInt | None = None
    """Validation rows to keep."""
    test: PositiveInt | None = None
    """Test rows to keep."""


class Augmentation(Section):
    """Seeded augmentation of training images, drawn from (seed, epoch, sample)."""

    horizontal_flip: bool = False
    """Mirror half of the images."""
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Pad by this many pixels of zeros and crop back at a random offset."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Blacken a square of this many pixels a side, centred anywhere in the image (DeVries & Taylor 2017, arXiv
    1708.04552, who fill it with the mean)."""


class Data(Section):
    """The rows to train on, to audit and to judge with."""

    source: Annotated[DigitsSource | ParquetSource | FolderSource | TorchvisionSource, Field(discriminator="kind")]
    """Where the rows come from."""
    columns: Columns = Columns()
    """Names of the columns, for Parquet sources."""
    class_names: list[str] | None = None
    """Names of the classes in label order; otherwise the source's own, or the labels found in training."""
    split: Split = Split()
    """Shares for splits that the source does not have."""
    limit: Limit = Limit()
    """Upper bounds on rows."""
    label_noise: Fraction = 0.0
    """Share of training labels to flip (seeded, to another class uniformly), the truth kept aside: for experiments."""
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) to resize to; needed when images differ in size."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of training images."""
    max_quarantined: Fraction = 0.01
    """Largest share of rows (or of classes without rows) that may be set aside as unusable before the audit stops."""
    cache_gib: Annotated[float, Field(gt=0)] = 4.0
    """Decoded images are kept in memory by each worker when they fit into this much; otherwise decoded each time."""
