from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from auditor.config import Config
from auditor.data.augmentation import augment
from auditor.data.dataset import Dataset
from auditor.data.decode import decode_column, normalise
from auditor.data.prepare import prepare
from auditor.data.samples import Samples, inputs_of_batch
from auditor.errors import StageError
from auditor.sections.data import Augmentation
from auditor.storage import RunFolder
from tests.data.builders import configure, encode, feature_table, images, parquet_config, pixels, table, three_tables

NO_CACHE, CACHE = 1e-12, 1.0
BOTH = Augmentation(horizontal_flip=True, crop_padding=2)


def prepared(config: Config) -> tuple[RunFolder, Dataset]:
    run = RunFolder(config.run)
    return run, prepare(config, run)


def colour(folder: Path, **data: Any) -> tuple[RunFolder, Dataset]:
    return prepared(parquet_config(folder, three_tables(), **data))


def features(folder: Path) -> tuple[RunFolder, Dataset]:
    rows = np.random.default_rng(0).normal(size=(60, 5)).tolist()
    tables = {"train": feature_table(rows[:40]), "validation": feature_table(rows[40:50], first=40)}
    return prepared(parquet_config(folder, {**tables, "test": feature_table(rows[50:], first=50)}))


def paths(folder: Path) -> tuple[RunFolder, Dataset]:
    for seed in range(90):
        path = folder / f"images/{seed % 2}/{seed:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(seed, 3, 20 + seed % 3, 17), "JPEG"))
    source = {"kind": "folder", "train": str(folder / "images")}
    return prepared(configure(folder / "run", source, image_size=[8, 6]))


def digits(folder: Path) -> tuple[RunFolder, Dataset]:
    return prepared(configure(folder / "run", {"kind": "digits"}, limit={"train": 300}))


SOURCES = [colour, features, paths, digits]


def load(run: RunFolder, dataset: Dataset, cache: float, dtype: torch.dtype = torch.float32, **more: Any) -> Samples:
    return Samples.load(run, "train", dataset, cache, dtype, **more)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cache_and_stream_give_the_same_numbers(tmp_path, source, dtype):
    run, dataset = source(tmp_path)
    table = run.read_table("dataset/train")
    column = table["image" if dataset.is_image else "features"]
    cached, streamed = (load(run, dataset, cache, dtype) for cache in (CACHE, NO_CACHE))
    rows = np.arange(len(cached), dtype=np.int32)
    whole = cached.inputs(rows)
    assert whole.dtype == dtype
    assert whole.shape == (len(cached), *dataset.input_shape)
    chosen = np.array([3, 0, 3, 25], dtype=np.int32)
    for samples in (cached, streamed):
        assert torch.equal(samples.inputs(chosen), whole[chosen])
        assert torch.equal(samples.inputs(rows), whole)
    objects = np.empty(len(column), dtype=object)
    objects[:] = column.to_pylist()
    for batch in (column, column.combine_chunks(), column.slice(3, 4), objects, objects[3:7], column.to_pylist()):
        start = 0 if len(batch) == len(cached) else 3
        assert torch.equal(inputs_of_batch(batch, dataset, dtype), whole[start : start + len(batch)])


def test_a_batch_of_equal_vectors_may_come_as_a_matrix(tmp_path):
    run, dataset = features(tmp_path)
    samples = load(run, dataset, CACHE)
    matrix = np.stack(run.read_table("dataset/train")["features"].to_pylist()).astype(np.float32)
    expected = samples.inputs(np.arange(len(samples)))
    assert torch.equal(inputs_of_batch(matrix, dataset, torch.float32), expected)


def test_training_inputs_are_centred_and_scaled(tmp_path):
    for source in (colour, features, digits):
        run, dataset = source(tmp_path / source.__name__)
        samples = load(run, dataset, CACHE, torch.float64)
        inputs = samples.inputs(np.arange(len(samples)))
        axes = [axis for axis in range(inputs.dim()) if axis != 1]
        torch.testing.assert_close(inputs.mean(axes), torch.zeros(inputs.shape[1], dtype=torch.float64))
        spread = inputs.std(axes, correction=0)
        torch.testing.assert_close(spread, torch.ones(inputs.shape[1], dtype=torch.float64))


def test_rows_are_those_of_the_snapshot(tmp_path):
    run, dataset = prepared(parquet_config(tmp_path, three_tables(count=30), label_noise=0.2))
    for split in ("train", "validation", "test"):
        samples = Samples.load(run, split, dataset, CACHE, torch.float32)
        table = run.read_table(f"dataset/{split}")
        assert len(samples) == table.num_rows == dataset.splits[split].rows
        assert samples.sample_ids == table["sample_id"].to_pylist()
        assert samples.labels.dtype == torch.int64
        assert samples.labels.tolist() == table["label"].to_pylist()
        decoded = decode_column(table["image"].to_pylist(), 3, (8, 8))
        expected = normalise(decoded, dataset.mean, dataset.std, torch.float32)
        assert torch.equal(samples.inputs(np.arange(len(samples))), expected)


@pytest.mark.parametrize("cache", [CACHE, NO_CACHE])
def test_only_an_epoch_augments_and_before_scaling(tmp_path, cache):
    run, dataset = colour(tmp_path)
    plain, augmented = load(run, dataset, cache), load(run, dataset, cache, augmentation=BOTH, seed=5)
    rows = np.array([7, 1, 30], dtype=np.int32)
    assert torch.equal(augmented.inputs(rows), plain.inputs(rows))
    assert torch.equal(plain.inputs(rows, epoch=2), plain.inputs(rows))
    table = run.read_table("dataset/train").take(pa.array(rows))
    decoded = decode_column(table["image"].to_pylist(), 3, (8, 8))
    moved = augment(decoded, BOTH, 5, 2, rows)
    assert not torch.equal(moved, decoded)
    expected = normalise(moved, dataset.mean, dataset.std, torch.float32)
    assert torch.equal(augmented.inputs(rows, epoch=2), expected)
    assert torch.equal(augmented.inputs(rows[1:2], epoch=2), expected[1:2])


def test_features_are_never_augmented(tmp_path):
    run, dataset = features(tmp_path)
    samples = load(run, dataset, CACHE, augmentation=BOTH)
    rows = np.arange(4)
    assert torch.equal(samples.inputs(rows, epoch=1), samples.inputs(rows))


def test_using_samples_does_not_change_them(tmp_path):
    run, dataset = features(tmp_path)
    samples = load(run, dataset, CACHE)
    rows = np.arange(len(samples))
    first = samples.inputs(rows).clone()
    samples.inputs(rows).zero_()
    assert torch.equal(samples.inputs(rows), first)


def test_images_that_vanish_after_preparation_are_named(tmp_path):
    run, dataset = paths(tmp_path)
    streamed = load(run, dataset, NO_CACHE)
    gone = streamed.sample_ids[4]
    (tmp_path / "images" / gone).unlink()
    message = rf"image {gone}: .*{gone} cannot be read .*; it could be read when the dataset was prepared"
    with pytest.raises(StageError, match=message):
        streamed.inputs(np.array([3, 4]))
    assert streamed.inputs(np.array([3])).shape == (1, 3, 8, 6)
    with pytest.raises(StageError, match=message):
        load(run, dataset, CACHE)
    column = run.read_table("dataset/train")["image"]
    with pytest.raises(StageError, match=r"image 4: "):
        inputs_of_batch(column, dataset, torch.float32)


def test_many_row_groups_are_one_store(tmp_path):
    run, dataset = prepared(
        parquet_config(
            tmp_path,
            three_tables(
                train=table(images(2100, side=2)),
                validation=table(images(5, first=5000, side=2), first=5000),
                test=table(images(5, first=6000, side=2), first=6000),
            ),
            max_quarantined=0.9,
        )
    )
    cached, streamed = (load(run, dataset, cache) for cache in (CACHE, NO_CACHE))
    rows = np.array([0, 1023, 1024, 2047, 2048, len(cached) - 1])
    assert torch.equal(cached.inputs(rows), streamed.inputs(rows))
    assert cached.sample_ids[2048] == "s2048"
