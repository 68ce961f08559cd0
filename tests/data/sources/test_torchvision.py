from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.data.decode import decode_image
from auditor.data.sources.torchvision import Torchvision
from auditor.errors import InputError
from auditor.sections.data import TorchvisionSource
from tests.data.builders import encode, pixels

FAKE = {"size": 300, "image_size": [3, 6, 5], "num_classes": 4}


def source_of(dataset: str = "FakeData", **splits: dict[str, Any]) -> Torchvision:
    return Torchvision(TorchvisionSource(kind="torchvision", dataset=dataset, **{"train": FAKE, **splits}))


class Caption:
    """A target as captioning datasets have it, in the form in which FakeData reads one."""

    def __init__(self, target: object) -> None:
        self.text = f"a picture of {target}"

    def item(self) -> str:
        return self.text


def image_folder(root: Path) -> Path:
    for seed, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(pixels(seed)))
    return root


def test_rows_are_those_of_the_dataset():
    from torchvision.datasets import FakeData

    source = source_of(test={**FAKE, "random_offset": 1000})
    original = FakeData(**FAKE)
    assert source.tables() == ("train", "test")
    assert source.count("train") == 300
    assert source.class_names() is None
    rows = np.array([0, 7, 299])
    (batch,) = source.batches("train", rows)
    assert batch["sample_id"].to_pylist() == ["train-000000", "train-000007", "train-000299"]
    for row, struct in zip(rows, batch["image"].to_pylist(), strict=True):
        image, target = original[int(row)]
        assert np.array_equal(decode_image(struct["bytes"], 3), np.asarray(image).transpose(2, 0, 1))
        assert source.index("train").labels[int(row)].as_py() == target


def test_batches_are_bounded():
    assert [batch.num_rows for batch in source_of().batches("train", np.arange(300))] == [256, 44]


def test_files_are_kept_as_paths_below_the_root(tmp_path):
    root = image_folder(tmp_path / "train")
    other = image_folder(tmp_path / "other")
    source = source_of("ImageFolder", train={"root": str(root)}, validation={"root": str(other)})
    index = source.index("train")
    assert index.sample_ids == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert index.labels.to_pylist() == [0, 0, 1]
    assert source.class_names() == ["cat", "dog"]
    assert source.index("validation").sample_ids[2] == "validation/dog/1.png"
    (batch,) = source.batches("train", np.array([2]))
    assert batch["image"].to_pylist() == [{"bytes": None, "path": str(root / "dog/1.png")}]


def test_labels_beside_the_files_are_found(tmp_path):
    # GTSRB lists pairs of file and class, and has neither targets nor names.
    folder = tmp_path / "gtsrb/GTSRB/Training"
    for name in ("00000/00000_00000.ppm", "00001/00000_00000.ppm"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(encode(pixels(1), "PPM"))
    source = source_of("GTSRB", train={"root": str(tmp_path), "split": "train"})
    assert source.index("train").labels.to_pylist() == [0, 1]
    assert source.index("train").sample_ids[1].endswith("GTSRB/Training/00001/00000_00000.ppm")


def test_unknown_datasets_are_named_with_a_guess():
    for name in ("Cifar10", "VisionDataset2", "load"):
        with pytest.raises(InputError, match=f"data.source.dataset is '{name}': torchvision has no such dataset"):
            source_of(name).count("train")
    with pytest.raises(InputError, match=r"did you mean CIFAR10\?"):
        source_of("CIFAR-10").count("train")


@pytest.mark.parametrize(
    ("dataset", "arguments"),
    [("FakeData", {"sizes": 3}), ("CIFAR10", {"root": "nowhere"}), ("ImageFolder", {"root": "nowhere"})],
)
def test_bad_arguments_are_named(dataset, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"^data\.source\.train \({dataset}\): cannot be opened with the arguments"):
        source_of(dataset, train=arguments).count("train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": "resize"}, "row 0 cannot be read"),
        ({"target_transform": Caption}, "labels are str, expected one class index"),
        ({"transform": np.asarray}, "row 0 is no image but ndarray"),
    ],
)
def test_datasets_that_are_no_image_classification_are_refused(arguments, message):
    source = source_of(train={**FAKE, **arguments})
    with pytest.raises(InputError, match=rf"data\.source\.train \(FakeData\): .*{message}"):
        list(source.batches("train", np.array([0])))
