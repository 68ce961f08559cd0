"""The forms in which Parquet files hold images, features and ids, and the one form in which the audit reads them."""

from __future__ import annotations

import pyarrow as pa

from auditor.data.sources.base import IMAGE


def image_column(column: pa.Array, file: str) -> pa.StructArray:
    """Images as struct{bytes, path}.

    Args:
        column: The same, or binary.
        file: Path or URI of the file it comes from: a relative path without bytes is taken from that file's folder.
    """
    if not pa.types.is_struct(column.type):
        return pa.StructArray.from_arrays(
            [decoded(column).cast(pa.binary()), pa.nulls(len(column), pa.string())], fields=list(IMAGE)
        )
    parts = {field.name: part for field, part in zip(column.type, column.flatten(), strict=True)}
    nothing = pa.nulls(len(column))
    encoded = decoded(parts.get("bytes", nothing)).cast(pa.binary())
    paths = strings(parts.get("path", nothing)).to_pylist()
    address, separator, query = file.partition("?") if "://" in file else (file, "", "")
    folder = address.rpartition("/")[0]

    def absolute(path: str | None, has_bytes: bool) -> str | None:
        if path is None or has_bytes or path.startswith("/") or "://" in path:
            return path
        return f"{folder}/{path}{separator}{query}"

    located = [absolute(path, given) for path, given in zip(paths, encoded.is_valid().to_pylist(), strict=True)]
    return pa.StructArray.from_arrays([encoded, pa.array(located, pa.string())], fields=list(IMAGE))


def feature_column(column: pa.Array) -> pa.ListArray:
    """Features as list<float32>; numbers too large for it become infinite."""
    return column.cast(pa.list_(pa.float32()), safe=False)


def decoded(column: pa.Array) -> pa.Array:
    """A dictionary-encoded column with its values in place."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def strings(column: pa.Array) -> pa.Array:
    """Strings or integers as strings."""
    return decoded(column).cast(pa.string())


def concatenated(columns: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """One array of several whose types differ no more than in width or encoding."""
    plain = value_type(kind)
    return pa.concat_arrays([decoded(column).cast(plain) for column in columns] or [pa.nulls(0, plain)])


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, for dictionary-encoded columns too."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    kind = value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_image(kind: pa.DataType) -> bool:
    """Whether a column can hold encoded images: struct{bytes, path}, one of the two, or binary."""
    if not pa.types.is_struct(kind):
        return _is_binary(kind)
    types = {field.name: field.type for field in kind}
    encoded, path = types.get("bytes"), types.get("path")
    return (
        bool(types.keys() & {"bytes", "path"})
        and (encoded is None or _is_binary(encoded) or pa.types.is_null(encoded))
        and (path is None or is_text(path) or pa.types.is_null(path))
    )


def is_features(kind: pa.DataType) -> bool:
    """Whether a column holds lists of numbers."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _is_binary(kind: pa.DataType) -> bool:
    kind = value_type(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
