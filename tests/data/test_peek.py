from __future__ import annotations

import pyarrow as pa
import pytest

from auditor.data import peek, prepare
from auditor.errors import InputError
from auditor.storage import RunFolder
from tests.data.builders import configure, encode, feature_table, images, parquet_config, pixels, table, three_tables


def rows_of(dataset):
    return {split: facts.rows for split, facts in dataset.splits.items()}


@pytest.mark.parametrize("limit", [{}, {"train": 200, "validation": 9}])
def test_a_peek_at_digits_sees_what_is_prepared_and_writes_nothing(tmp_path, limit):
    config = configure(tmp_path / "run", {"kind": "digits"}, limit=limit, split={"validation": 0.2, "test": 0.1})
    seen = peek(config)
    assert not (tmp_path / "run").exists()
    dataset = prepare(config, RunFolder(config.run))
    assert seen.rows == rows_of(dataset)
    assert seen.input_shape == dataset.input_shape == (1, 8, 8)
    assert seen.classes == len(dataset.class_names) == 10
    assert seen.is_image


def test_bytes_a_row_are_those_of_encoded_rows_with_all_they_carry(tmp_path):
    encoded = images(20)
    plain = peek(parquet_config(tmp_path / "a", three_tables(train=table(encoded)))).bytes_a_row
    noted = peek(parquet_config(tmp_path / "b", three_tables(train=table(encoded, note=["x" * 500] * 20)))).bytes_a_row
    assert plain >= sum(map(len, encoded)) / len(encoded)
    assert noted - plain == pytest.approx(504, abs=4)


def test_features_have_their_length_as_shape(tmp_path):
    rows = [[float(row), 1.0, 2.0] for row in range(40)]
    config = parquet_config(tmp_path, {"train": feature_table(rows)})
    seen = peek(config)
    assert (seen.input_shape, seen.is_image, seen.classes) == ((3,), False, 2)
    assert seen.rows == rows_of(prepare(config, RunFolder(config.run)))


def test_one_colour_image_makes_colour_of_all(tmp_path):
    gray = images(10, channels=1)
    assert peek(parquet_config(tmp_path / "a", three_tables(train=table(gray)))).input_shape == (1, 8, 8)
    mixed = table([*gray, encode(pixels(99))])
    assert peek(parquet_config(tmp_path / "b", three_tables(train=mixed))).input_shape == (3, 8, 8)


def test_the_size_asked_for_is_the_size_seen(tmp_path):
    encoded = [*images(4, side=8), *images(4, first=50, side=20)]
    config = parquet_config(tmp_path, three_tables(train=table(encoded)), image_size=[16, 12])
    assert peek(config).input_shape == (3, 16, 12)


def test_images_of_many_sizes_are_refused_as_preparing_would_unless_one_is_asked_for(tmp_path):
    train = table([*images(8, side=8), *images(2, first=50, side=20)])
    config = parquet_config(tmp_path / "a", three_tables(train=train))
    with pytest.raises(InputError, match=r"2 of the first 10 .* \(8x8, then 20x20\); data.image_size resizes"):
        peek(config)
    with pytest.raises(InputError, match=r"data\.image_size resizes"):
        prepare(config, RunFolder(config.run))
    few = table([*images(19, side=8), *images(1, first=50, side=20)])
    assert peek(parquet_config(tmp_path / "b", three_tables(train=few))).input_shape == (3, 8, 8)


def test_rows_that_cannot_be_used_are_passed_over(tmp_path):
    config = parquet_config(tmp_path, three_tables(train=table([b"no image", None, *images(8)])))
    assert peek(config).input_shape == (3, 8, 8)


def test_rows_of_which_none_can_be_used_are_refused_with_their_table(tmp_path):
    config = parquet_config(tmp_path, three_tables(train=table([b"no image"] * 6)))
    with pytest.raises(InputError, match=r"train\.parquet: none of the first 6 training rows can be used"):
        peek(config)


def test_content_after_the_first_rows_is_not_read(tmp_path):
    """Preparing finds what is wrong there; a peek at a million rows must not take as long."""
    large = [b"no image" * 10_000] * 6
    config = parquet_config(tmp_path, three_tables(train=table([*images(64), *large])))
    assert peek(config).rows["train"] == 70
    assert peek(config).bytes_a_row < 1000
    with pytest.raises(InputError, match="6 corrupt_image"):
        prepare(config, RunFolder(config.run))


def test_a_table_without_rows_is_refused(tmp_path):
    empty = table(images(2)).slice(0, 0)
    config = parquet_config(tmp_path, three_tables(train=empty), class_names=["a", "b"])
    with pytest.raises(InputError, match="there are no training rows"):
        peek(config)


def test_classes_are_those_declared_or_found(tmp_path):
    three = three_tables(train=table(images(6), labels=pa.array(["cat", "dog", "emu"] * 2)))
    three |= {
        split: three[split].set_column(2, "label", pa.array(["cat"] * len(three[split])))
        for split in ("validation", "test")
    }
    assert peek(parquet_config(tmp_path / "a", three)).classes == 3
    declared = parquet_config(tmp_path / "b", three, class_names=["ant", "cat", "dog", "emu"])
    assert peek(declared).classes == 4
