from __future__ import annotations

import pytest

from auditor.data.quarantine import Quarantine
from auditor.errors import InputError


def filled(limit: float, count: int) -> Quarantine:
    quarantine = Quarantine(limit=limit)
    for row in range(count):
        quarantine.add("train", f"s{row}" if row else None, row, "corrupt_image" if row % 2 else "unknown_label", "why")
    return quarantine


@pytest.mark.parametrize(("limit", "total"), [(0.29, 100), (0.07, 100), (0.0, 5), (0.5, 4)])
def test_exactly_the_limit_is_allowed_and_one_more_is_not(limit, total):
    allowed = round(limit * total)
    filled(limit, allowed).check_rows("train", total, "here")
    with pytest.raises(InputError):
        filled(limit, allowed + 1).check_rows("train", total, "here")


def test_the_error_counts_kinds_and_names_the_first_rows():
    with pytest.raises(InputError) as caught:
        filled(0.01, 5).check_rows("train", 10, "data.source.train x.parquet")
    assert str(caught.value) == (
        "data.source.train x.parquet: 5 of 10 train rows cannot be used (3 unknown_label, 2 corrupt_image), more than "
        "data.max_quarantined 0.01 allows; first: row 0 (unknown_label: why); s1 (corrupt_image: why); "
        "s2 (unknown_label: why)"
    )


def test_splits_and_classes_are_counted_apart():
    quarantine = filled(0.0, 0)
    quarantine.add("train", None, None, "empty_class", "class cat")
    quarantine.check_rows("train", 1, "here")
    with pytest.raises(InputError, match=r"1 of 3 classes have no training row .* first: class cat$"):
        quarantine.check_classes(3, "here")
    quarantine.add("test", "a", 0, "image_size", "why")
    quarantine.check_rows("validation", 1, "here")
    assert quarantine.counts == {"empty_class": 1, "image_size": 1}
