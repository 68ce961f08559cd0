"""The ranked table as CSV, for people who open it in a spreadsheet."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

_FORMULA = r"^[=+\-@\t\r]"


def to_csv(table: pa.Table) -> bytes:
    """Render a table as UTF-8 CSV, quoted, with a header.

    Columns that a cell cannot hold (lists, structs, binary) are left out. Text that a spreadsheet would run as a
    formula is given a leading apostrophe; the Parquet file beside it holds the text unchanged.

    Args:
        table: Any table.

    Returns:
        The file's contents.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if _fits_a_cell(column.type):
            columns[_harmless(name)] = _harmless_column(column)
    sink = pa.BufferOutputStream()
    csv.write_csv(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def _fits_a_cell(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (pa.types.is_nested(kind) or binary or pa.types.is_binary_view(kind))


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _harmless_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.replace_substring_regex(column, _FORMULA, r"'\0")
    return column
