"""Where the rows of an audit came from, as MLflow dataset inputs; no image is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from auditor.config import Config
from auditor.report.masking import mask
from auditor.report.tracking_store import clip
from auditor.sections.data import DigitsSource, TorchvisionSource
from auditor.storage import RunFolder

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_DIGEST_LENGTH = 36
_TAG_LENGTH = 500


def dataset_inputs(config: Config, run: RunFolder, described: Mapping[str, Any]) -> list[DatasetInput]:
    """Training and validation rows as inputs of an MLflow run.

    Args:
        config: The audit.
        run: Its folder; the audited snapshot in it is the source where the rows have no address of their own.
        described: The contents of dataset.json; its fingerprint is the digest.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for split, context in (("train", "training"), ("validation", "validation")):
        snapshot = f"{run}/dataset/{split}"
        name, address = _source(config, split)
        address = mask(address or snapshot)
        facts = described["splits"][split]
        scheme = address.partition("://")[0] if "://" in address else "local"
        dataset = Dataset(
            name=clip(f"{name} ({split})", _TAG_LENGTH),
            digest=str(described["fingerprint"])[:_DIGEST_LENGTH],
            source_type="local" if scheme == "file" else scheme,
            source=json.dumps({"uri": address}),
            schema=_schema(described),
            profile=json.dumps({"num_rows": facts["rows"], "class_counts": facts.get("class_counts")}),
        )
        tags = [
            InputTag("mlflow.data.context", context),
            InputTag("auditor.source", name),
            InputTag("auditor.snapshot", clip(mask(snapshot), _TAG_LENGTH)),
            InputTag("auditor.rows", str(facts["rows"])),
        ]
        inputs.append(DatasetInput(dataset, tags))
    return inputs


def _source(config: Config, split: str) -> tuple[str, str | None]:
    """A name for the source and, where it has one, the address of a split."""
    source = config.data.source
    if isinstance(source, DigitsSource):
        return "scikit-learn digits", None
    if isinstance(source, TorchvisionSource):
        return f"torchvision {source.dataset}", None
    address = (source.validation if split == "validation" else None) or source.train
    return mask(address).rstrip("/").rpartition("/")[2] or "data", address


def _schema(described: Mapping[str, Any]) -> str:
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    image = len(described["input_shape"]) > 1
    inputs = ColSpec(DataType.binary, "image") if image else ColSpec(Array(DataType.float), "features")
    columns = [ColSpec(DataType.string, "sample_id"), inputs, ColSpec(DataType.integer, "label")]
    return json.dumps({"mlflow_colspec": Schema(columns).to_dict()})
