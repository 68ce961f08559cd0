"""From the labels a source holds (integers or strings) to class indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from auditor.errors import InputError


def plain_labels(column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """Bring a label column into one of two forms.

    Args:
        column: Integers, whole floating-point numbers (what integers with gaps often become), booleans or strings.
        where: File and column, for the error message.

    Returns:
        An int64 or string array; missing labels (null, NaN, broken numbers, empty strings) are null.

    Raises:
        InputError: The column is of any other type.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = array.cast(pa.string())
        return pc.if_else(pc.equal(pc.utf8_length(array), 0), pa.scalar(None, pa.string()), array)
    if pa.types.is_floating(kind):
        numbers = array.cast(pa.float64())
        whole = pc.and_(pc.is_finite(numbers), pc.equal(pc.floor(numbers), numbers))
        small = pc.less(pc.abs(numbers), 2.0**53)
        return pc.if_else(pc.and_(whole, small), numbers, pa.scalar(None, pa.float64())).cast(pa.int64())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{where}: a label does not fit into 64 bits ({error})") from error
    raise InputError(f"{where}: labels are {kind}, expected integers or strings")


def discover_classes(labels: pa.Array, where: str, largest_gap: float) -> list[str]:
    """Names of the classes where nothing declares them.

    Args:
        labels: Training labels as `plain_labels` gives them.
        where: The training table, for the error message.
        largest_gap: Largest share of 0..max that may have no label at all.

    Returns:
        For strings: the different ones in sorted order. For integers: ``"0"`` to the largest.

    Raises:
        InputError: Integers are too sparse to be class indices.
    """
    found = pc.unique(labels).drop_null()
    if pa.types.is_string(found.type):
        return sorted(found.to_pylist())
    indices = [value for value in found.to_pylist() if value >= 0]
    count = max(indices, default=-1) + 1
    # Before any list of that length is made: one stray number must not cost the memory of a billion names.
    if count and 1 - len(indices) / count > largest_gap:
        present = set(indices)
        first = [str(index) for index in range(len(indices) + 4) if index not in present and index < count][:3]
        raise InputError(
            f"{where}: {count - len(indices)} of the classes 0 to {count - 1} have no training row (such as "
            f"{', '.join(first)}), more than data.max_quarantined {largest_gap:g} allows; if the integers are no class "
            "indices, make them strings"
        )
    return [str(index) for index in range(count)]


def encode_labels(labels: pa.Array, class_names: Sequence[str]) -> NDArray[np.int32]:
    """Class indices: integers count from 0, strings are looked up by name.

    Args:
        labels: n labels as `plain_labels` gives them.
        class_names: Names in label order.

    Returns:
        int32 [n]; -1 where the label is missing or not among the classes.
    """
    if pa.types.is_string(labels.type):
        found = pc.index_in(labels, value_set=pa.array(class_names, pa.string()), skip_nulls=True)
        return np.asarray(pc.fill_null(found, -1), dtype=np.int32)
    values = np.asarray(pc.fill_null(labels, -1), dtype=np.int64)
    return np.where((values >= 0) & (values < len(class_names)), values, -1).astype(np.int32)
