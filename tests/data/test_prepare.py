from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auditor.config import Config, parse_config
from auditor.data.dataset import Dataset
from auditor.data.prepare import count_rows, prepare
from auditor.errors import InputError
from auditor.storage import RunFolder
from tests.data.builders import (
    CIFAR10,
    configure,
    encode,
    feature_table,
    images,
    needs_cifar10,
    parquet_config,
    pixels,
    table,
    three_tables,
)

MANY = {"max_quarantined": 0.9}


def run_of(config: Config) -> RunFolder:
    return RunFolder(config.run)


def prepared(config: Config) -> tuple[Dataset, dict[str, pa.Table]]:
    run = run_of(config)
    dataset = prepare(config, run)
    assert Dataset.load(run) == dataset
    return dataset, {split: run.read_table(f"dataset/{split}") for split in ("train", "validation", "test")}


def digits(tmp_path: Path, **data: Any) -> Config:
    return configure(tmp_path / "run", {"kind": "digits"}, **data)


def kinds(dataset: Dataset, split: str) -> dict[int | None, str]:
    return {entry.row: entry.kind for entry in dataset.quarantine.rows if entry.split == split}


def test_digits_become_three_grayscale_splits(tmp_path):
    dataset, splits = prepared(digits(tmp_path))
    assert dataset.input_shape == (1, 8, 8)
    assert dataset.class_names == tuple("0123456789")
    assert sum(facts.rows for facts in dataset.splits.values()) == 1797
    assert not dataset.true_labels
    ids = [sample_id for rows in splits.values() for sample_id in rows["sample_id"].to_pylist()]
    assert sorted(ids) == [f"digits-{row:04d}" for row in range(1797)]
    for split, rows in splits.items():
        assert rows.column_names == ["row", "sample_id", "image", "label"]
        assert [str(kind) for kind in rows.schema.types] == [
            "int32",
            "string",
            "struct<bytes: binary, path: string>",
            "int32",
        ]
        assert rows["row"].to_pylist() == list(range(dataset.splits[split].rows))
        assert np.bincount(rows["label"], minlength=10).tolist() == list(dataset.splits[split].class_counts)


def test_mean_and_std_are_those_of_the_training_pixels(tmp_path):
    tables = three_tables()
    dataset, _ = prepared(parquet_config(tmp_path, tables))
    everything = np.stack([pixels(seed) for seed in range(40)]) / 255
    assert dataset.input_shape == (3, 8, 8)
    np.testing.assert_allclose(dataset.mean, everything.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, everything.std(axis=(0, 1, 2)), rtol=1e-12)


def test_one_colour_image_in_training_makes_three_channels(tmp_path):
    gray = table(images(40, channels=1))
    tables = three_tables(train=gray)
    dataset, _ = prepared(parquet_config(tmp_path / "gray", tables))
    assert dataset.input_shape == (1, 8, 8)  # whatever validation holds
    assert len(dataset.mean) == len(dataset.std) == 1
    mixed = table([*images(39, channels=1), encode(pixels(99))])
    dataset, _ = prepared(parquet_config(tmp_path / "mixed", {**tables, "train": mixed}))
    assert dataset.input_shape == (3, 8, 8)
    assert len(dataset.mean) == 3


def test_constant_pixels_can_be_normalised(tmp_path):
    black = {"train": table([encode(np.zeros((8, 8, 3), np.uint8))] * 40)}
    dataset, _ = prepared(parquet_config(tmp_path, {**three_tables(), **black}))
    assert (dataset.mean, dataset.std) == ((0.0,) * 3, (1.0,) * 3)
    assert dataset.warnings == ("39 training rows have the same content as an earlier training row",)


def test_carried_columns_arrive_unchanged(tmp_path):
    weights = [0.5 * row for row in range(40)]
    tables = three_tables(train=table(images(40), weight=weights, tags=[["a"], None] * 20))
    dataset, splits = prepared(parquet_config(tmp_path, tables))
    assert dataset.carried == ("weight", "tags")
    assert splits["train"]["weight"].to_pylist() == weights
    assert splits["train"]["tags"].to_pylist() == [["a"], None] * 20
    assert splits["train"]["image"].to_pylist() == tables["train"]["image"].to_pylist()


def test_splits_are_drawn_from_training_rows_only_where_the_source_has_none(tmp_path):
    tables = three_tables(count=200)
    del tables["validation"]
    dataset, splits = prepared(parquet_config(tmp_path, tables, split={"validation": 0.3}))
    assert dataset.splits["test"].rows == 20
    assert dataset.splits["train"].rows + dataset.splits["validation"].rows == 200
    assert dataset.splits["validation"].rows == pytest.approx(60, abs=20)
    for split in ("train", "validation"):  # in the source's order
        ids = splits[split]["sample_id"].to_pylist()
        assert ids == sorted(ids)


def test_snapshot_and_fingerprint_do_not_depend_on_the_order_of_the_source(tmp_path):
    tables = three_tables(count=60)
    shuffled = {**tables, "train": tables["train"].take(np.random.default_rng(0).permutation(60))}
    noise = {"label_noise": 0.2, "limit": {"train": 50}}
    one, one_rows = prepared(parquet_config(tmp_path / "a", tables, **noise))
    two, two_rows = prepared(parquet_config(tmp_path / "b", shuffled, **noise))
    assert one.fingerprint == two.fingerprint
    left, right = (
        {row["sample_id"]: (row["label"], row["true_label"]) for row in rows["train"].to_pylist()}
        for rows in (one_rows, two_rows)
    )
    assert left == right
    assert len(left) == 50


def test_label_noise_keeps_the_truth_aside(tmp_path):
    clean, clean_rows = prepared(digits(tmp_path / "clean"))
    noisy, noisy_rows = prepared(digits(tmp_path / "noisy", label_noise=0.1))
    count = noisy.splits["train"].rows
    train = noisy_rows["train"]
    assert noisy.true_labels
    assert noisy.flipped == round(0.1 * count)
    assert train["true_label"].to_pylist() == clean_rows["train"]["label"].to_pylist()
    wrong = np.asarray(train["label"]) != np.asarray(train["true_label"])
    assert wrong.sum() == noisy.flipped
    for split in ("validation", "test"):
        assert noisy_rows[split]["label"].equals(clean_rows[split]["label"])
    assert noisy.fingerprint != clean.fingerprint


def test_label_noise_does_not_touch_a_truth_that_is_known(tmp_path):
    truth = [row % 2 for row in range(40)]
    human = [0, 0, *truth[2:-1], None]
    tables = three_tables(train=table(images(40), labels=pa.array(human), truth=truth))
    config = parquet_config(tmp_path, tables, columns={"true_label": "truth"}, label_noise=0.25, max_quarantined=0.1)
    dataset, splits = prepared(config)
    assert splits["train"]["true_label"].to_pylist() == truth[:-1]
    changed = np.asarray(splits["train"]["label"]) != np.asarray(human[:-1])
    assert changed.sum() == dataset.flipped == round(0.25 * 39)
    assert splits["test"]["true_label"].equals(splits["test"]["label"])


def test_an_unknown_truth_is_null_and_told(tmp_path):
    tables = three_tables(train=table(images(40), truth=pa.array([None, 7, *([1] * 38)])))
    dataset, splits = prepared(parquet_config(tmp_path, tables, columns={"true_label": "truth"}))
    assert dataset.true_labels
    assert dataset.flipped == 0
    assert splits["train"]["true_label"].to_pylist() == [None, None, *([1] * 38)]
    assert "true_label" not in splits["test"].column_names
    assert dataset.warnings == ("the true label of 2 training rows is missing or not among the classes",)


def test_bad_training_rows_are_set_aside_named_and_counted(tmp_path):
    encoded = images(40)
    encoded[3], encoded[4], encoded[5] = b"broken", None, encoded[5][:-60]
    encoded[6] = encode(pixels(6, height=9))
    labels: list[int | None] = [row % 2 for row in range(40)]
    labels[8], labels[9] = None, -1
    ids = [f"s{row:03d}" for row in range(40)]
    ids[11], ids[12] = ids[10], None
    tables = three_tables(train=table(encoded, labels, ids))
    dataset, splits = prepared(parquet_config(tmp_path, tables, **MANY))
    assert kinds(dataset, "train") == {
        3: "corrupt_image",
        4: "corrupt_image",
        5: "corrupt_image",
        6: "image_size",
        8: "unknown_label",
        9: "unknown_label",
        11: "duplicate_sample_id",
        12: "missing_sample_id",
    }
    assert dataset.quarantine.counts == {
        "unknown_label": 2,
        "duplicate_sample_id": 1,
        "missing_sample_id": 1,
        "corrupt_image": 3,
        "image_size": 1,
    }
    kept = [row for row in range(40) if row not in kinds(dataset, "train")]
    assert splits["train"]["sample_id"].to_pylist() == [ids[row] for row in kept]
    assert splits["train"]["label"].to_pylist() == [labels[row] for row in kept]
    assert splits["train"]["row"].to_pylist() == list(range(len(kept)))
    everything = np.stack([pixels(seed) for seed in kept]) / 255
    np.testing.assert_allclose(dataset.mean, everything.mean(axis=(0, 1, 2)), rtol=1e-12)


def test_validation_rows_that_training_contains_are_set_aside(tmp_path):
    encoded = images(20, first=1000)
    encoded[2] = encode(pixels(7), "BMP")  # the picture of training row s007, in another format
    encoded[3] = encode(pixels(5, height=4))
    ids = [f"v{row}" for row in range(20)]
    ids[4], ids[6] = "s009", ids[5]
    labels = [row % 2 for row in range(20)]
    labels[7] = 2
    tables = three_tables(validation=table(encoded, labels, ids))
    dataset, splits = prepared(parquet_config(tmp_path, tables, class_names=["a", "b", "c"], **MANY))
    assert kinds(dataset, "validation") == {
        2: "validation_in_training",
        3: "image_size",
        4: "validation_in_training",
        6: "duplicate_sample_id",
        7: "unknown_label",
    }
    details = {entry.row: entry.detail for entry in dataset.quarantine.rows if entry.split == "validation"}
    assert details[2] == "the same content as training row s007"
    assert details[4] == "a training row has this sample_id"
    assert details[7] == "no training row has the label 'c'"
    assert details[3].startswith("4x8, training row s000 is 8x8; data.image_size resizes")
    assert splits["validation"].num_rows == dataset.splits["validation"].rows == 15
    assert kinds(dataset, "train") == {None: "empty_class"}


def test_a_quarantined_training_row_does_not_condemn_its_copy_in_validation(tmp_path):
    train = table(images(40), labels=[None, *([0, 1] * 20)][:40])
    validation = table([*images(1), *images(19, first=1000)], ids=["s000", *(f"v{row}" for row in range(19))])
    dataset, _ = prepared(parquet_config(tmp_path, three_tables(train=train, validation=validation), **MANY))
    assert kinds(dataset, "validation") == {}


def test_bad_features_are_set_aside(tmp_path):
    rows: list[list[float | None] | None] = [[float(row), 1.0, -2.5] for row in range(40)]
    rows[2], rows[3], rows[4], rows[5] = [1.0, float("nan"), 0.0], [1.0, None, 0.0], None, [1.0, 2.0]
    tables = {
        "train": feature_table(rows),
        "validation": feature_table([[0.0, 1.0, -2.5], [0.5, 1.0, -2.5], [1.0], [0.1, 0.2, float("inf")]], first=100),
        "test": feature_table([[0.25, 0.0, 0.0]], first=200),
    }
    dataset, splits = prepared(parquet_config(tmp_path, tables, **MANY))
    assert kinds(dataset, "train") == dict.fromkeys([2, 3, 4, 5], "nan_features")
    assert kinds(dataset, "validation") == {0: "validation_in_training", 2: "nan_features", 3: "nan_features"}
    assert dataset.input_shape == (3,)
    kept = np.array([row for place, row in enumerate(rows) if not 2 <= place <= 5], dtype=np.float64)
    np.testing.assert_allclose(dataset.mean, kept.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, [kept[:, 0].std(), 1.0, 1.0], rtol=1e-12)
    assert str(splits["train"].schema.field("features").type).startswith("list<")
    assert splits["train"]["features"].to_pylist() == kept.tolist()


def test_image_size_brings_images_of_any_size_together(tmp_path):
    encoded = [encode(pixels(seed, height=6 + seed % 3, width=9)) for seed in range(40)]
    tables = three_tables(train=table(encoded))
    dataset, splits = prepared(parquet_config(tmp_path, tables, image_size=[5, 7]))
    assert dataset.input_shape == (3, 5, 7)
    assert splits["train"]["image"].to_pylist() == tables["train"]["image"].to_pylist()  # the original bytes


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        (
            {"train": table([b"x", b"y", *images(38)])},
            {},
            r"^data\.source\.train /.*train\.parquet: 2 of 40 train rows cannot be used \(2 corrupt_image\), more than "
            r"data\.max_quarantined 0\.01 allows; first: s000 \(corrupt_image: .*\); s001 \(",
        ),
        (
            {"validation": table(images(20))},
            {},
            r"^data\.source\.validation .*20 of 20 validation rows cannot be used \(20 validation_in_training\).*s000",
        ),
        ({"train": table(images(40), labels=[0, 3] * 20)}, {}, r"2 of the classes 0 to 3 have no training row"),
        (
            {"train": table(images(40), labels=["a", "b"] * 20)},
            {},
            r"data\.source\.validation .*: labels are int64 and those of training string; declare data\.class_names",
        ),
        ({}, {"class_names": ["a", "b", "c"]}, r"1 of 3 classes have no training row .*first: class c"),
        ({}, {"class_names": ["a", "b", "a"]}, r"^data\.class_names: the class name 'a' is given twice"),
        ({"train": table(images(40), labels=[0] * 40)}, {}, r"at least two classes, there are \['0'\]"),
        (
            {"train": table(images(40), labels=[0] * 40), "validation": table(images(9, first=50), [0] * 9, first=50)},
            {"class_names": ["a", "b"], "max_quarantined": 0.5},
            r"data\.source\.train .*: an audit needs training rows of at least two classes",
        ),
        ({"train": table(images(3))}, {}, r"^train\.batch_size is 4, but there are only 3 training rows"),
        ({"test": table([])}, {}, r"data\.source\.test .*: there are no test rows"),
        (
            {"validation": feature_table([[1.0]], first=50)},
            {},
            r"data\.source\.validation .*: images and features cannot be mixed",
        ),
    ],
)
def test_too_much_bad_input_stops_before_anything_is_written(tmp_path, change, data, message):
    config = parquet_config(tmp_path, three_tables(**change), **data)
    with pytest.raises(InputError, match=message):
        prepare(config, run_of(config))
    assert not Path(config.run).exists()


def test_a_split_drawn_empty_names_its_key(tmp_path):
    with pytest.raises(InputError, match=r"there are no test rows \(data\.split\.test decides"):
        prepare(digits(tmp_path, split={"test": 0.0}), RunFolder(tmp_path))
    with pytest.raises(InputError, match=r"data\.split: validation and test leave no rows for training"):
        prepare(digits(tmp_path, split={"test": 0.5, "validation": 0.5}), RunFolder(tmp_path))


def test_settings_for_images_are_refused_for_features(tmp_path):
    tables = {
        split: feature_table([[row + n] for n in range(10)], first=row)
        for row, split in [(0, "train"), (100, "validation"), (200, "test")]
    }
    for data in ({"augmentation": {"horizontal_flip": True}}, {"augmentation": {"cutout": 2}}, {"image_size": [4, 4]}):
        (key,) = data
        config = parquet_config(tmp_path, tables, **data)
        with pytest.raises(InputError, match=rf"^data\.{key}: rows are features"):
            prepare(config, run_of(config))


def test_string_labels_and_declared_names_agree(tmp_path):
    names = ["zebra", "ant"]
    tables = three_tables(train=table(images(40), labels=["ant", "zebra"] * 20))
    dataset, splits = prepared(parquet_config(tmp_path, tables, class_names=names))
    assert dataset.class_names == ("zebra", "ant")
    assert splits["train"]["label"].to_pylist() == [1, 0] * 20
    assert splits["test"]["label"].to_pylist() == [0, 1] * 10  # integers count in the declared order


def test_a_second_preparation_starts_over(tmp_path):
    config = parquet_config(tmp_path, three_tables(), limit={"train": 30})
    run = run_of(config)
    leftovers = Path(config.run) / "dataset/train"
    leftovers.mkdir(parents=True)
    for name in ("part-00000.parquet", "part-00007.parquet", ".part-00001.parquet"):
        (leftovers / name).write_bytes(b"half written before a crash")
    first, rows = prepared(config)
    assert rows["train"].num_rows == first.splits["train"].rows == 30
    second = prepare(config, run)
    assert second == first
    assert [path.name for path in leftovers.iterdir()] == ["part-00000.parquet"]


def test_a_snapshot_is_an_audit_table(tmp_path):
    tables = three_tables(train=table(images(40), labels=["ant", "zebra"] * 20))
    first, rows = prepared(parquet_config(tmp_path, tables, class_names=["zebra", "ant"]))
    paths = {split: str(tmp_path / "run/dataset" / split) for split in ("train", "validation", "test")}
    again, again_rows = prepared(configure(tmp_path / "again", {"kind": "parquet", **paths}))
    assert again.fingerprint == first.fingerprint
    assert again.class_names == first.class_names
    assert again_rows["train"].select(["row", "sample_id", "image", "label"]).equals(rows["train"])


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    config = parquet_config(tmp_path, three_tables())
    run = run_of(config)
    original = run.remove

    def remove_and_change(name: str) -> None:
        original(name)
        pq.write_table(table(images(40), first=500), tmp_path / "train.parquet")

    monkeypatch.setattr(run, "remove", remove_and_change)
    with pytest.raises(InputError, match=r"train\.parquet: changed while it was being read"):
        prepare(config, run)
    assert not run.exists("dataset.json")


def test_folders_and_torchvision_are_prepared_too(tmp_path):
    for seed in range(60):
        path = tmp_path / "train" / f"class {seed % 3}" / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(seed)))
    folder, rows = prepared(configure(tmp_path / "a", {"kind": "folder", "train": str(tmp_path / "train")}))
    assert folder.class_names == ("class 0", "class 1", "class 2")
    assert rows["train"]["image"].to_pylist()[0]["path"].startswith(str(tmp_path))
    fake = {"size": 80, "image_size": [3, 6, 6], "num_classes": 3}
    source = {"kind": "torchvision", "dataset": "FakeData", "train": fake, "test": {**fake, "random_offset": 500}}
    dataset, _ = prepared(configure(tmp_path / "b", source))
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.splits["test"].rows == 80


def test_count_rows_expects_what_prepare_finds(tmp_path):
    config = digits(tmp_path, limit={"test": 100})
    expected = count_rows(config)
    dataset = prepare(config, run_of(config))
    assert expected["test"] == dataset.splits["test"].rows == 100
    for split in ("train", "validation"):
        assert dataset.splits[split].rows == pytest.approx(expected[split], abs=50)
    config = parquet_config(tmp_path, three_tables(), limit={"train": 30})
    assert count_rows(config) == {"train": 30, "validation": 20, "test": 20}


def test_importing_data_loads_no_framework_it_may_not_need():
    code = (
        "import sys, auditor.data; "
        "print([name for name in ('torchvision', 'sklearn', 'ray', 'mlflow', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def cifar10(run: Path, **source: str) -> Config:
    tables = {"train": str(CIFAR10 / "train.parquet"), "test": str(CIFAR10 / "test.parquet"), **source}
    return parse_config(
        {
            "run": str(run),
            "data": {
                "source": {"kind": "parquet", **tables},
                "columns": {"label": "human_label", "true_label": "label"},
                "limit": {"train": 1000, "validation": 200, "test": 300},
            },
        }
    )


@pytest.mark.shared
@needs_cifar10
def test_cifar10_is_prepared_with_its_annotators_labels(tmp_path):
    dataset, splits = prepared(cifar10(tmp_path))
    assert dataset.input_shape == (3, 32, 32)
    assert {split: facts.rows for split, facts in dataset.splits.items()} == {
        "train": 1000,
        "validation": 200,
        "test": 300,
    }
    train = splits["train"]
    wrong = np.asarray(train["label"]) != np.asarray(train["true_label"])
    assert wrong.mean() == pytest.approx(0.09, abs=0.03)
    assert splits["test"]["label"].equals(splits["test"]["true_label"])
    np.testing.assert_allclose(dataset.mean, [0.4914, 0.4822, 0.4465], atol=0.02)
    assert dataset.quarantine.counts == {}


@pytest.mark.shared
@needs_cifar10
def test_training_images_copied_into_the_test_table_are_found(tmp_path):
    dataset, splits = prepared(cifar10(tmp_path / "clean"))
    test = pq.read_table(CIFAR10 / "test.parquet").slice(0, 300)
    copied = splits["train"].slice(0, 2)
    names = ["sample_id", "image", "label"]
    renamed = copied.set_column(1, "sample_id", pa.array(["copy-0", "copy-1"])).select(names)
    dirty = pa.concat_tables([renamed.cast(test.schema), test])
    pq.write_table(dirty, tmp_path / "test.parquet")
    config = cifar10(tmp_path / "dirty", test=str(tmp_path / "test.parquet"))
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"limit": config.data.limit.model_copy(update={"test": None})})}
    )
    dataset, _ = prepared(config)
    found = [(entry.sample_id, entry.kind, entry.detail) for entry in dataset.quarantine.rows]
    sources = copied["sample_id"].to_pylist()
    assert found == [
        (f"copy-{place}", "validation_in_training", f"the same content as training row {sources[place]}")
        for place in range(2)
    ]
