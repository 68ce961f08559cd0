from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.data.labels import discover_classes, encode_labels, plain_labels
from auditor.errors import InputError


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([3, None, -1], pa.int8()), [3, None, -1]),
        (pa.array([3, 2], pa.uint64()), [3, 2]),
        (pa.array([True, False, None]), [1, 0, None]),
        (pa.array([1.0, float("nan"), None, 2.5, float("inf"), 1e300]), [1, None, None, None, None, None]),
        (pa.array(["a", "", None]), ["a", None, None]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["b", "a", None]).dictionary_encode(), ["b", "a", None]),
        (pa.chunked_array([[1], [2, None]]), [1, 2, None]),
        (pa.array([None, None], pa.null()), [None, None]),
    ],
)
def test_labels_become_integers_or_strings(column, expected):
    plain = plain_labels(column, "here")
    assert plain.to_pylist() == expected
    assert plain.type in (pa.int64(), pa.string())


@pytest.mark.parametrize("column", [pa.array([[1], [2]]), pa.array([b"a"]), pa.array([2**64 - 1], pa.uint64())])
def test_other_labels_are_refused_by_file_and_column(column):
    with pytest.raises(InputError, match=r"^file x column y: "):
        plain_labels(column, "file x column y")


def test_string_classes_are_the_sorted_labels():
    assert discover_classes(pa.array(["dog", "cat", None, "dog"]), "here", 0.0) == ["cat", "dog"]


def test_integer_classes_count_from_zero_to_the_largest():
    assert discover_classes(pa.array([0, 2, 2, None, -1]), "here", 0.5) == ["0", "1", "2"]
    assert discover_classes(pa.array([None], pa.int64()), "here", 0.5) == []


def test_a_stray_integer_does_not_make_a_billion_classes():
    labels = pa.array([0, 1, 2, 4, 1_000_000_007])
    with pytest.raises(InputError, match=r"here: 1000000003 of the classes 0 to 1000000007 .* \(such as 3, 5, 6\)"):
        discover_classes(labels, "here", 0.01)


@given(st.lists(st.integers(-3, 6) | st.none()))
def test_integers_outside_the_classes_are_unknown(values):
    encoded = encode_labels(pa.array(values, pa.int64()), ["a", "b", "c", "d"])
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [v if v is not None and 0 <= v < 4 else -1 for v in values]


@given(st.lists(st.sampled_from(["a", "b", "z", "1"]) | st.none()))
def test_strings_are_looked_up_by_name(values):
    names = ["b", "a"]
    encoded = encode_labels(pa.array(values, pa.string()), names)
    assert encoded.tolist() == [names.index(v) if v in names else -1 for v in values]
