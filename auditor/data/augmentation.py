"""Seeded augmentation: what happens to a row in an epoch is a function of (seed, epoch, row) alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from auditor.counters import uniform
from auditor.sections.data import Augmentation


def augment(images: Tensor, settings: Augmentation, seed: int, epoch: int, rows: NDArray[np.integer]) -> Tensor:
    """Pad and crop, mirror, and cut a square out, each image as its own draw says.

    Args:
        images: uint8 [m, C, H, W].
        settings: Which augmentations; with none the images come back as they are.
        seed: The configuration's seed.
        epoch: The epoch, which draws anew.
        rows: Row index of each image in the training split, [m].

    Returns:
        uint8 [m, C, H, W]; what the padding brings in and what is cut out is zero. The images given stay unchanged.
    """

    def drawn(stream: str, below: int) -> Tensor:
        """A whole number for each image, [m, 1]."""
        numbers = np.floor(uniform(stream, seed, epoch, rows) * below).astype(np.int64)
        return torch.from_numpy(numbers).to(images.device)[:, None]

    moved = _moved(images, settings, drawn) if settings.crop_padding or settings.horizontal_flip else images
    return _cut_out(moved, settings.cutout, drawn) if settings.cutout else moved


def _moved(images: Tensor, settings: Augmentation, drawn: Callable[[str, int], Tensor]) -> Tensor:
    count, channels, height, width = images.shape
    device = images.device
    down = torch.arange(height, device=device).expand(count, height)
    across = torch.arange(width, device=device).expand(count, width)
    padding = settings.crop_padding
    if padding:
        images = functional.pad(images, (padding,) * 4)
        down = down + drawn("crop_down", 2 * padding + 1)
        across = across + drawn("crop_across", 2 * padding + 1)
    if settings.horizontal_flip:
        across = torch.where(drawn("flip", 2) == 0, across.flip(1), across)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return images[image, channel, down[:, None, :, None], across[:, None, None, :]]


def _cut_out(images: Tensor, side: int, drawn: Callable[[str, int], Tensor]) -> Tensor:
    height, width = images.shape[-2:]

    def inside(stream: str, length: int) -> Tensor:
        """Which places along an axis the square covers, [m, length]; it may reach beyond the image."""
        beyond = torch.arange(length, device=images.device) - (drawn(stream, length) - side // 2)
        return (beyond >= 0) & (beyond < side)

    down, across = inside("cutout_down", height), inside("cutout_across", width)
    return images.masked_fill(down[:, None, :, None] & across[:, None, None, :], 0)
