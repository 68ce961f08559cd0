"""Seeded augmentation: what happens to a row in an epoch is a function of (seed, epoch, row) alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from auditor.counters import uniform
from auditor.sections.data import Augmentation


def augment(images: Tensor, settings: Augmentation, seed: int, epoch: int, rows: NDArray[np.integer]) -> Tensor:
    """Pad and crop, and mirror, each image as its own draw says.

    Args:
        images: uint8 [m, C, H, W].
        settings: Which augmentations; with none the images come back as they are.
        seed: The configuration's seed.
        epoch: The epoch, which draws anew.
        rows: Row index of each image in the training split, [m].

    Returns:
        uint8 [m, C, H, W]; what the padding brings in is zero. The images given stay unchanged.
    """
    count, channels, height, width = images.shape
    device = images.device
    down = torch.arange(height, device=device).expand(count, height)
    across = torch.arange(width, device=device).expand(count, width)
    padding = settings.crop_padding
    if padding:
        images = functional.pad(images, (padding,) * 4)

        def offset(stream: str) -> Tensor:
            drawn = np.floor(uniform(stream, seed, epoch, rows) * (2 * padding + 1)).astype(np.int64)
            return torch.from_numpy(drawn).to(device)[:, None]

        down = down + offset("crop_down")
        across = across + offset("crop_across")
    if settings.horizontal_flip:
        mirrored = torch.from_numpy(uniform("flip", seed, epoch, rows) < 0.5).to(device)[:, None]
        across = torch.where(mirrored, across.flip(1), across)
    if not padding and not settings.horizontal_flip:
        return images
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return images[image, channel, down[:, None, :, None], across[:, None, None, :]]
