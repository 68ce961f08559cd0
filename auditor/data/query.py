"""The validation rows that influence is measured on, and how a sentence calls their loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.errors import InputError
from auditor.sections.scoring import Query


def query_rows(
    query: Query, class_names: Sequence[str], sample_ids: Sequence[str], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The validation rows of a query.

    Args:
        query: Which rows.
        class_names: In label order.
        sample_ids: Of all validation rows, [n].
        labels: Class indices of the same, [n].

    Returns:
        Ascending row numbers, at least one.

    Raises:
        InputError: A class or a sample that there is not.
    """
    if query.class_name is not None:
        if query.class_name not in class_names:
            raise InputError(f"query.class_name is {query.class_name!r}: the classes are {_some(class_names)}")
        rows = np.flatnonzero(labels == list(class_names).index(query.class_name))
        if not len(rows):
            raise InputError(f"query.class_name is {query.class_name!r}: no validation row is of this class")
        return rows
    if query.sample_ids is not None:
        places = {sample_id: row for row, sample_id in enumerate(sample_ids)}
        lacking = [sample_id for sample_id in query.sample_ids if sample_id not in places]
        if lacking:
            raise InputError(f"query.sample_ids: no validation row has the id {_some(lacking)}")
        return np.unique([places[sample_id] for sample_id in query.sample_ids])
    return np.arange(len(sample_ids))


def query_name(query: Query) -> str:
    """What a sentence calls f, such as `validation loss`."""
    if query.class_name is not None:
        return f"the loss on validation samples of class {query.class_name}"
    if query.sample_ids is not None:
        chosen = list(dict.fromkeys(query.sample_ids))
        return (
            f"the loss on validation sample {chosen[0]}"
            if len(chosen) == 1
            else f"the mean loss on {len(chosen)} validation samples"
        )
    return "validation loss"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
