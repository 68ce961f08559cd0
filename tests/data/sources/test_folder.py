from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditor.data.decode import decode_column, read_encoded
from auditor.data.sources.folder import Folder
from auditor.errors import InputError
from auditor.sections.data import FolderSource
from tests.data.builders import encode, pixels


def fill(root: Path) -> Path:
    for seed, name in enumerate(["dog/b.png", "dog/a.PNG", "cat/deep/c d.jpeg", "cat/1#.png"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(seed), "JPEG" if name.endswith("jpeg") else "PNG"))
    return root


NAMES = ["cat/1#.png", "cat/deep/c d.jpeg", "dog/a.PNG", "dog/b.png"]


def test_ids_are_relative_paths_and_labels_class_folders(tmp_path):
    source = Folder(FolderSource(kind="folder", train=str(fill(tmp_path / "train"))))
    index = source.index("train")
    assert index.sample_ids == NAMES
    assert index.labels.to_pylist() == ["cat", "cat", "dog", "dog"]
    assert source.class_names() == ["cat", "dog"]
    assert source.count("train") == 4
    assert source.warnings() == []


@pytest.mark.parametrize("uri", [False, True])
def test_images_are_absolute_paths_that_can_be_read(tmp_path, uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "train").as_uri() if uri else str(fill(Path("train")))
    source = Folder(FolderSource(kind="folder", train=folder))
    (batch,) = source.batches("train", np.array([0, 1, 3]))
    structs = batch["image"].to_pylist()
    assert batch["sample_id"].to_pylist() == [NAMES[0], NAMES[1], NAMES[3]]
    assert all(struct["bytes"] is None for struct in structs)
    monkeypatch.chdir("/")
    expected = [(tmp_path / "train" / name).read_bytes() for name in (NAMES[0], NAMES[1], NAMES[3])]
    assert [read_encoded(struct) for struct in structs] == expected
    assert decode_column(structs, 3, (8, 8)).shape == (3, 3, 8, 8)


def test_the_same_name_in_training_and_validation_is_another_sample(tmp_path):
    train, validation = fill(tmp_path / "train"), fill(tmp_path / "validation")
    source = Folder(FolderSource(kind="folder", train=str(train), validation=str(validation)))
    assert source.tables() == ("train", "validation")
    assert source.index("validation").sample_ids == [f"validation/{name}" for name in NAMES]
    assert source.index("validation").labels.to_pylist() == ["cat", "cat", "dog", "dog"]
    (batch,) = source.batches("validation", np.array([3]))
    assert batch["sample_id"].to_pylist() == ["validation/dog/b.png"]
    assert batch["image"].to_pylist() == [{"bytes": None, "path": str(validation / "dog/b.png")}]


def test_other_files_are_counted(tmp_path):
    root = fill(tmp_path)
    (root / "dog/.DS_Store").write_bytes(b"")
    (root / "dog/notes.txt").write_bytes(b"")
    (root / "beside.png").write_bytes(encode(pixels(9)))
    (root / ".cache").mkdir()
    (root / ".cache/x.png").write_bytes(encode(pixels(9)))
    source = Folder(FolderSource(kind="folder", train=str(root)))
    assert source.index("train").sample_ids == NAMES
    assert source.class_names() == ["cat", "dog"]
    (warning,) = source.warnings()
    assert ": 4 files are not images in a class folder" in warning


def test_class_folders_may_be_links(tmp_path):
    fill(tmp_path / "real")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/dog").symlink_to(tmp_path / "real/dog")
    source = Folder(FolderSource(kind="folder", train=str(tmp_path / "train")))
    assert source.index("train").sample_ids == ["dog/a.PNG", "dog/b.png"]


def test_a_class_folder_without_images_is_still_a_class(tmp_path):
    fill(tmp_path)
    (tmp_path / "ant").mkdir()
    assert Folder(FolderSource(kind="folder", train=str(tmp_path))).class_names() == ["ant", "cat", "dog"]


@pytest.mark.parametrize(("make", "message"), [(False, "is not a folder that can be read"), (True, "no class folders")])
def test_unusable_folders_are_named(tmp_path, make, message):
    folder = tmp_path / "train"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match=f"data.source.train {folder}: .*{message}"):
        Folder(FolderSource(kind="folder", train=str(folder))).index("train")
