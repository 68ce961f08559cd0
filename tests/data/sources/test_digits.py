from __future__ import annotations

import numpy as np

from auditor.data.decode import decode_column
from auditor.data.sources.digits import Digits


def test_images_are_the_digits_on_the_scale_to_255():
    from sklearn.datasets import load_digits

    source = Digits()
    rows = np.array([0, 3, 1000, 1796])
    (batch,) = source.batches("train", rows)
    assert batch["sample_id"].to_pylist() == ["digits-0000", "digits-0003", "digits-1000", "digits-1796"]
    decoded = decode_column(batch["image"].to_pylist(), 1, (8, 8)).numpy()[:, 0]
    np.testing.assert_allclose(decoded / 255 * 16, load_digits().images[rows], atol=0.5 * 16 / 255)


def test_index_and_count_agree():
    source = Digits()
    index = source.index("train")
    assert source.count("train") == len(index.sample_ids) == len(set(index.sample_ids)) == 1797
    assert sorted(set(index.labels.to_pylist())) == list(range(10))
    assert source.class_names() == [str(digit) for digit in range(10)]
