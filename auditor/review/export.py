"""The export stage: the audited rows with the reviewers' verdicts applied, in the form that their source has."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from auditor.config import Config, parse_config
from auditor.data.dataset import Dataset, fingerprint
from auditor.data.snapshot import GROUP_ROWS, snapshot_batches
from auditor.data.sources import open_source
from auditor.data.splits import SPLITS, SplitName
from auditor.errors import InputError, StageError
from auditor.report.masking import mask
from auditor.report.tracking_store import connect
from auditor.review.cleaning import LINEAGE, ORIGINAL_LABEL, cleaned, count_classes, decisions, named
from auditor.review.exported import Export
from auditor.review.lineage import log_export
from auditor.sections.data import FolderSource, ParquetSource, TorchvisionSource
from auditor.storage import FORMAT_VERSION, RunFolder

RECORD_FILE, NEXT_FILE = "export.json", "audit.yaml"
_ASIDE = ".export"


def export(config: Config, run: RunFolder, to: str | None) -> Export:
    """Write the cleaned table and log where it came from; images are neither copied out of a folder nor removed.

    The rows are those that were audited: what was set aside as unusable, or left out by `data.limit`, is not among
    them. Validation and test rows are written unchanged.

    Args:
        config: The audit.
        run: Its folder, reported and reviewed.
        to: Folder to write to, new or with an earlier export; None counts and writes nothing.

    Raises:
        InputError: There is no verdict to apply, or the folder holds anything else than an export.
        StageError: The run has no report, or is not in the tracking store.
    """
    dataset = Dataset.load(run)
    applied, unapplied = decisions(run)
    if not applied:
        raise InputError(f"{run}: has no verdict to apply; auditor review reads them from MLflow or from a CSV")
    words = [verdict.verdict for verdict in applied.values()]
    classes = count_classes(dataset.splits["train"].class_counts, dataset.class_names, applied)
    rows = {split: facts.rows for split, facts in dataset.splits.items()}
    planned = Export(
        folder=None,
        rows={**rows, "train": rows["train"] - words.count("remove")},
        removed=words.count("remove"),
        relabelled=sum(count.lost for count in classes.values()),
        kept=words.count("keep"),
        classes=classes,
        unapplied=unapplied,
        set_aside=sum(entry.row is not None for entry in dataset.quarantine.rows),
    )
    if to is None:
        return planned
    target = _target(config, to)
    # Before anything is written: an export that nobody can trace is worth little.
    if not run.exists("mlflow.json"):
        raise StageError(f"{run}: is not logged to MLflow; auditor run does that")
    connect(config.mlflow.tracking_uri)
    audit_run = str(run.read_json("mlflow.json")["run_id"])
    text = _labels_are_text(config)
    # From here to the record at the end one of the two is always there: what marks the folder as ours.
    target.make(_ASIDE)
    target.remove(RECORD_FILE)
    for name in target.names(_ASIDE, hidden=True):
        target.remove(f"{_ASIDE}/{name}")
    identities: list[tuple[str, str, str]] = []
    for split in SPLITS:
        tables = _tables(run, split, dataset, applied, audit_run, text)
        with _Writer(config, target, split, dataset) as writer:
            for table in tables:
                writer.write(table)
                if split != "test":
                    identities += _identities(split, table, dataset.class_names)
    for name in target.names(_ASIDE):
        target.replace(f"{_ASIDE}/{name}", name)
    target.write_bytes(NEXT_FILE, yaml.safe_dump(_next(config, run, target, dataset), sort_keys=False).encode())
    done = Export(**{**vars(planned), "folder": mask(str(target)), "fingerprint": fingerprint(identities)})
    record = {**done.to_json(), "audit_run": audit_run, "run_folder": mask(str(run)), "audited": dataset.fingerprint}
    target.write_json(RECORD_FILE, record)
    target.remove(_ASIDE)
    log_export(config, run, done)
    return done


class _Writer:
    """One split as Parquet and, for a folder of class folders, as a list of paths beside it."""

    def __init__(self, config: Config, target: RunFolder, split: SplitName, dataset: Dataset) -> None:
        self._target, self._name, self._dataset = target, f"{_ASIDE}/{split}", dataset
        self._renamed = _own_names(config, dataset)
        self._parquet: pq.ParquetWriter | None = None
        self._lists = isinstance(config.data.source, FolderSource)
        self._stack = ExitStack()

    def __enter__(self) -> _Writer:
        if self._lists:
            stream = self._target.filesystem.open_output_stream(self._target.full(f"{self._name}.csv"))
            text = io.TextIOWrapper(self._stack.enter_context(stream), encoding="utf-8", newline="")
            self._stack.callback(text.flush)
            self._csv = csv.writer(text)
        return self

    def __exit__(self, *_: object) -> None:
        if self._parquet is not None:
            self._parquet.close()
        self._stack.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        renamed = table.rename_columns([self._renamed.get(name, name) for name in table.column_names])
        if self._parquet is None:
            metadata = {
                b"auditor.format_version": str(FORMAT_VERSION).encode(),
                b"class_names": json.dumps(list(self._dataset.class_names), ensure_ascii=False).encode(),
            }
            self._schema = renamed.schema.with_metadata(metadata)
            path = self._target.full(f"{self._name}.parquet")
            filesystem = self._target.filesystem
            self._parquet = pq.ParquetWriter(path, self._schema, filesystem=filesystem, compression="zstd")
            if self._lists:
                self._csv.writerow(_listed(table.column_names))
        self._parquet.write_table(renamed.cast(self._schema), row_group_size=GROUP_ROWS)
        if self._lists:
            names = _listed(table.column_names)
            for line in table.drop_columns(["image"]).append_column("path", _paths(table)).to_pylist():
                self._csv.writerow(["" if line[name] is None else line[name] for name in names])


def _tables(
    run: RunFolder, split: SplitName, dataset: Dataset, applied: dict[str, Any], audit_run: str, text: bool
) -> Iterator[pa.Table]:
    for table in snapshot_batches(run, split):
        if split == "train":
            yield cleaned(table, applied, dataset.class_names, audit_run, text)
            continue
        plain = table.drop_columns(["row"])
        for name in {"label", "true_label"} & set(plain.column_names):
            place = plain.column_names.index(name)
            plain = plain.set_column(place, name, named(plain[name], dataset.class_names, text))
        yield plain


def _listed(columns: list[str]) -> list[str]:
    return ["sample_id", "path", *(name for name in ("label", ORIGINAL_LABEL, *LINEAGE) if name in columns)]


def _paths(table: pa.Table) -> pa.Array:
    return pa.array([image["path"] for image in table["image"].to_pylist()], pa.string())


def _identities(split: str, table: pa.Table, class_names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    labels = table["label"].to_pylist()
    names = labels if pa.types.is_string(table["label"].type) else [class_names[label] for label in labels]
    return list(zip([split] * len(table), table["sample_id"].to_pylist(), names, strict=True))


def _labels_are_text(config: Config) -> bool:
    source = config.data.source
    if isinstance(source, FolderSource):
        return True
    if not isinstance(source, ParquetSource):
        return False
    return bool(pa.types.is_string(open_source(config.data).index("train").labels.type))


def _own_names(config: Config, dataset: Dataset) -> dict[str, str]:
    """The columns of a Parquet source under the names that they have there."""
    if not isinstance(config.data.source, ParquetSource):
        return {}
    columns = config.data.columns
    content = "image" if dataset.is_image else "features"
    return {
        "sample_id": columns.sample_id,
        "label": columns.label,
        content: columns.image if dataset.is_image else columns.features,
        "true_label": columns.true_label or "true_label",
    }


def _next(config: Config, run: RunFolder, target: RunFolder, dataset: Dataset) -> dict[str, Any]:
    """The configuration that audits the export: the same in all but its rows, compared with this audit.

    Credentials in addresses are masked, since the file is passed on: object stores read theirs from the environment.
    """
    raw = config.model_dump(mode="json")
    raw["run"] = f"{mask(config.run).rstrip('/')}-next"
    names = _own_names(config, dataset)
    raw["data"] |= {"label_noise": 0.0, "class_names": None, "limit": {}}
    paths: dict[str, str] = {split: f"{mask(str(target))}/{split}.parquet" for split in SPLITS}
    raw["data"]["source"] = {"kind": "parquet", **paths}
    if not names:
        raw["data"]["columns"] = {}
    if dataset.true_labels:
        raw["data"]["columns"]["true_label"] = names.get("true_label", "true_label")
    raw["review"]["predecessor"] = mask(str(run))
    raw["mlflow"]["tracking_uri"] = mask(config.mlflow.tracking_uri)
    return parse_config(raw).model_dump(mode="json")


def _target(config: Config, to: str) -> RunFolder:
    target = RunFolder(to.rstrip("/"))
    source = config.data.source
    if not isinstance(source, TorchvisionSource):
        given = [path for split in SPLITS if (path := getattr(source, split, None)) is not None]
        for path in given:
            if f"{RunFolder(path).uri.rstrip('/')}/".startswith(f"{target.uri}/"):
                raise InputError(f"--to {mask(to)}: holds the rows of this very audit; export to another folder")
    try:
        names = target.names("", hidden=True)
    except OSError as error:
        raise InputError(f"--to {mask(to)}: cannot be written ({error})") from error
    if names and not {RECORD_FILE, _ASIDE} & set(names):
        raise InputError(f"--to {mask(to)}: is not empty and holds no earlier export")
    return target
