from __future__ import annotations

import hashlib
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from auditor.data.dataset import Dataset, SplitFacts, fingerprint
from auditor.data.quarantine import Quarantine
from auditor.errors import InputError
from auditor.storage import RunFolder


def example() -> Dataset:
    quarantine = Quarantine(limit=0.01)
    quarantine.add("train", None, 3, "corrupt_image", "truncated")
    return Dataset(
        splits={split: SplitFacts(rows=3, class_counts=(1, 2)) for split in ("train", "validation", "test")},
        class_names=("cat", "dog"),
        input_shape=(3, 8, 8),
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 0.5, 1 / 3),
        true_labels=True,
        flipped=1,
        fingerprint="ab",
        carried=("source",),
        quarantine=quarantine,
        warnings=(),
    )


def test_what_is_saved_is_loaded(tmp_path):
    run = RunFolder(tmp_path)
    example().save(run)
    assert Dataset.load(run) == example()
    assert pickle.loads(pickle.dumps(example())) == example()  # noqa: S301 - as Ray ships it to actors


def test_the_file_has_the_names_of_the_contract(tmp_path):
    run = RunFolder(tmp_path)
    example().save(run)
    written = json.loads((tmp_path / "dataset.json").read_text())
    assert written["splits"]["train"] == {"rows": 3, "class_counts": [1, 2]}
    assert written["quarantine"] == {
        "limit": 0.01,
        "counts": {"corrupt_image": 1},
        "rows": [{"split": "train", "sample_id": None, "row": 3, "kind": "corrupt_image", "detail": "truncated"}],
    }
    assert written.keys() == {"format_version", *Dataset.model_fields}


def test_features_are_no_images():
    assert example().is_image
    assert not example().model_copy(update={"input_shape": (4,)}).is_image


def test_it_does_not_change():
    with pytest.raises(ValidationError):
        example().flipped = 2


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, r"dataset\.json: does not exist, the run's dataset was not prepared"),
        ({"format_version": 99}, "has format version 99"),
        ({"splits": {}}, r"dataset\.json: class_names: field required"),
    ],
)
def test_unusable_files_are_named(tmp_path, contents, message):
    if contents is not None:
        (tmp_path / "dataset.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=message):
        Dataset.load(RunFolder(tmp_path))


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), unique=True, min_size=1), st.randoms())
def test_fingerprint_ignores_the_order_and_nothing_else(rows, random):
    shuffled = rows[:]
    random.shuffle(shuffled)
    assert fingerprint(shuffled) == fingerprint(rows)
    assert fingerprint(rows[1:]) != fingerprint(rows)
    split, sample_id, label = rows[0]
    assert fingerprint([(split, sample_id, label + "x"), *rows[1:]]) != fingerprint(rows)


def test_fingerprint_is_sha256_of_sorted_lines():
    rows = [("validation", "b", "dog"), ("train", "ä", "cat")]
    lines = b'["train", "\xc3\xa4", "cat"]\n["validation", "b", "dog"]\n'
    assert fingerprint(rows) == hashlib.sha256(lines).hexdigest()
