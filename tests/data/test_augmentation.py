from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.counters import uniform
from auditor.data.augmentation import augment
from auditor.sections.data import Augmentation
from tests.data.builders import pixels

ALL = Augmentation(horizontal_flip=True, crop_padding=2, cutout=3)


def batch(rows: list[int], height: int = 8, width: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.stack([pixels(row, 3, height, width) for row in rows]).transpose(0, 3, 1, 2).copy())


def by_hand(image: np.ndarray, settings: Augmentation, seed: int, epoch: int, row: int) -> np.ndarray:
    pad, (_, height, width) = settings.crop_padding, image.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    down = int(uniform("crop_down", seed, epoch, row) * (2 * pad + 1)) if pad else 0
    across = int(uniform("crop_across", seed, epoch, row) * (2 * pad + 1)) if pad else 0
    cropped = padded[:, down : down + height, across : across + width]
    flip = settings.horizontal_flip and uniform("flip", seed, epoch, row) < 0.5
    found = (cropped[:, :, ::-1] if flip else cropped).copy()
    if settings.cutout:
        top = int(uniform("cutout_down", seed, epoch, row) * height) - settings.cutout // 2
        left = int(uniform("cutout_across", seed, epoch, row) * width) - settings.cutout // 2
        found[:, max(top, 0) : top + settings.cutout, max(left, 0) : left + settings.cutout] = 0
    return found


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=9),
    flip=st.booleans(),
    padding=st.integers(0, 9),
    cutout=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 1000),
)
def test_each_image_is_cropped_flipped_and_cut_as_by_hand(rows, flip, padding, cutout, seed, epoch):
    settings_ = Augmentation(horizontal_flip=flip, crop_padding=padding, cutout=cutout)
    images = batch(rows)
    before = images.clone()
    result = augment(images, settings_, seed, epoch, np.array(rows))
    for place, row in enumerate(rows):
        assert np.array_equal(result[place].numpy(), by_hand(before[place].numpy(), settings_, seed, epoch, row))
    assert torch.equal(images, before)


def test_an_image_keeps_its_fate_in_any_batch():
    rows = list(range(50))
    whole = augment(batch(rows), ALL, 7, 3, np.array(rows))
    chosen = [49, 3, 3, 17]
    assert torch.equal(whole[chosen], augment(batch(chosen), ALL, 7, 3, np.array(chosen)))


def test_epochs_and_seeds_draw_anew():
    rows = list(range(20))
    first = augment(batch(rows), ALL, 0, 0, np.array(rows))
    assert not torch.equal(first, augment(batch(rows), ALL, 0, 1, np.array(rows)))
    assert not torch.equal(first, augment(batch(rows), ALL, 1, 0, np.array(rows)))


def test_flip_keeps_its_rows_when_rows_are_added():
    flip = Augmentation(horizontal_flip=True)
    images = batch(list(range(400)))
    few = augment(images[:100], flip, 0, 0, np.arange(100))
    many = augment(images, flip, 0, 0, np.arange(400))
    assert torch.equal(few, many[:100])
    flipped = (many == images.flip(-1)).all(dim=(1, 2, 3)).double().mean()
    assert flipped == pytest.approx(0.5, abs=0.08)


def test_without_settings_nothing_happens():
    images = batch([1, 2])
    assert augment(images, Augmentation(), 0, 0, np.array([1, 2])) is images
