from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.data.inspection import Facts, Fault, Moments, feature_rows, inspect_features, inspect_images
from tests.data.builders import encode, images, pixels


def looked_at(encoded: bytes, size: tuple[int, int] | None = None) -> Facts:
    (facts,) = inspect_images([{"bytes": encoded, "path": None}], size)
    assert isinstance(facts, Facts)
    return facts


def test_moments_of_images_are_those_of_all_pixels():
    moments = Moments()
    for seed in range(7):
        moments.add(looked_at(encode(pixels(seed))))
    everything = np.stack([pixels(seed) for seed in range(7)]).astype(np.float64)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(moments.std, everything.std(axis=(0, 1, 2)), rtol=1e-13)


def test_moments_survive_features_far_from_zero():
    values = 1e7 + np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    values = values.astype(np.float32)
    moments = Moments()
    for facts in inspect_features(pa.array(list(values), pa.list_(pa.float32()))):
        moments.add(facts)
    np.testing.assert_allclose(moments.mean, values.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, values.astype(np.float64).std(axis=0), rtol=1e-6)


@given(st.integers(0, 255), st.integers(1, 9))
def test_a_constant_channel_has_exactly_no_spread(value, count):
    moments = Moments()
    for _ in range(count):
        moments.add(looked_at(encode(np.full((5, 3), value, np.uint8))))
    assert moments.std.tolist() == [0.0] * 3


def test_content_has_one_digest_in_any_file_format():
    gray = pixels(1, channels=1)
    png, bmp = looked_at(encode(gray)), looked_at(encode(gray, "BMP"))
    colour = looked_at(encode(np.stack([gray] * 3, axis=-1)))
    assert png.digest == bmp.digest == colour.digest
    assert (png.grayscale, bmp.grayscale, colour.grayscale) == (True, True, False)
    np.testing.assert_allclose(png.mean, colour.mean)
    np.testing.assert_allclose(png.squares, colour.squares)


def test_other_content_or_shape_has_another_digest():
    flat = np.zeros((4, 6), np.uint8)
    changed = flat.copy()
    changed[3, 5] = 1
    digests = {looked_at(encode(image)).digest for image in (flat, changed, flat.reshape(6, 4), flat.reshape(2, 12))}
    assert len(digests) == 4


def test_size_is_that_of_the_network_input():
    assert looked_at(encode(pixels(1, height=9, width=5))).shape == (9, 5)
    assert looked_at(encode(pixels(1, height=9, width=5)), (4, 6)).shape == (4, 6)


@pytest.mark.parametrize("count", [3, 300])
def test_a_corrupt_image_is_a_fault_in_its_place(count, tmp_path):
    column = [{"bytes": encoded, "path": None} for encoded in images(count)]
    column[1] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    found = inspect_images(column, None)
    assert [isinstance(each, Fault) for each in found] == [place == 1 for place in range(count)]
    assert found[1].kind == "corrupt_image"
    assert "gone.png" in found[1].detail


def test_images_by_path_are_looked_at_in_their_order(tmp_path):
    paths = [tmp_path / f"{seed}.png" for seed in range(20)]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(pixels(seed)))
    found = inspect_images([{"bytes": None, "path": str(path)} for path in paths], None)
    assert [facts.digest for facts in found] == [looked_at(path.read_bytes()).digest for path in paths]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_features_that_are_no_numbers_are_faults(bad):
    found = inspect_features(pa.array([[1, 2], [1, bad], None, []], pa.list_(pa.float32())))
    assert [isinstance(each, Fault) for each in found] == [False, True, True, True]
    assert found[1].kind == "nan_features"
    assert found[1].detail.startswith("feature 1 is ")
    assert found[2].detail == "no features"


def test_feature_rows_of_a_slice_are_its_own():
    column = pa.array([[1, 2], None, [], [3, None]], pa.list_(pa.float32())).slice(1)
    rows = feature_rows(column)
    assert [row.tolist() for row in rows[:2]] == [[], []]
    np.testing.assert_array_equal(rows[2], np.array([3, np.nan], np.float32))
