"""Which column of a Parquet table plays which part: a pure function of the files' schemas and the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from auditor.data.sources.columns import is_features, is_image, is_text, value_type
from auditor.errors import InputError
from auditor.sections.data import Columns

_RESERVED = {"row", "sample_id", "image", "features", "label", "true_label"}


@dataclass(frozen=True)
class Roles:
    """Column names by part."""

    sample_id: str
    label: str
    true_label: str | None
    content: str
    """The column of images or features."""
    has_images: bool
    """Which of the two."""
    carried: dict[str, pa.Field]
    """Name in the snapshot: the column, dictionary encoding removed."""
    notes: tuple[str, ...]
    """What the user should know about the choice."""


def assign_roles(files: Sequence[tuple[str, pa.Schema]], wanted: Columns, training: bool) -> Roles:
    """Find the columns of a table.

    Images win over features where a table has both. A validation or test table without the label column is read with
    its true labels instead, where it has those: truth is commonly known there and annotators' labels are not.

    Args:
        files: Name (for messages) and schema of each of the table's files.
        wanted: The configuration's names.
        training: Whether this is the training table.

    Raises:
        InputError: A file lacks a column, or a column is of a type that cannot play its part.
    """
    first = set(files[0][1].names)
    label, true_label, notes = wanted.label, wanted.true_label, list[str]()
    if not training and true_label is not None:
        if label not in first and true_label in first:
            notes.append(f"has no column {label}: its labels are read from {true_label}")
            label = true_label
        true_label = true_label if true_label in first else None
    has_images = wanted.image in first
    content = wanted.image if has_images else wanted.features
    if has_images and wanted.features in first:
        notes.append(f"has images in {wanted.image}, so {wanted.features} is carried along only")
    roles = [wanted.sample_id, *([label] if true_label is None else [label, true_label])]
    for name, schema in files:
        for role in roles:
            _require(name, schema, role, role in schema.names)
        _require(name, schema, f"{wanted.image} or {wanted.features}", content in schema.names)
        _check_types(name, schema, wanted.sample_id, content, has_images)
    schema = pa.unify_schemas([schema for _, schema in files], promote_options="permissive")
    carried = _carried(schema, {*roles, content})
    notes += [f"column {field.name} is carried as {name}" for name, field in carried.items() if name != field.name]
    return Roles(wanted.sample_id, label, true_label, content, has_images, carried, tuple(notes))


def _carried(schema: pa.Schema, used: set[str]) -> dict[str, pa.Field]:
    carried: dict[str, pa.Field] = {}
    for field in schema:
        if field.name in used:
            continue
        name = field.name
        # The snapshot's own columns keep their names.
        while name in _RESERVED or name in carried or (name != field.name and name in schema.names):
            name = f"source_{name}"
        carried[name] = field.with_type(value_type(field.type))
    return carried


def _require(file: str, schema: pa.Schema, column: str, present: bool) -> None:
    if not present:
        there = ", ".join(schema.names)
        raise InputError(f"{file}: has no column {column}; its columns are {there} (data.columns names them)")


def _check_types(file: str, schema: pa.Schema, sample_id: str, content: str, has_images: bool) -> None:
    key, kind = schema.field(sample_id).type, schema.field(content).type
    if not (is_text(key) or pa.types.is_integer(key) or pa.types.is_null(key)):
        raise InputError(f"{file}: column {sample_id} is {key}, expected strings or integers")
    if has_images and not is_image(kind):
        raise InputError(f"{file}: column {content} is {kind}, expected struct{{bytes, path}} or binary")
    if not has_images and not is_features(kind):
        raise InputError(f"{file}: column {content} is {kind}, expected a list of numbers")
