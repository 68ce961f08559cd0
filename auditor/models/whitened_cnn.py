"""Convolutional network that learns small images in few epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.models.layers import activation as make_activation
from auditor.models.layers import normalisation
from auditor.models.layers import pooling as make_pooling

_PATCH = 2


def cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II): row k is the basis function of frequency k.

    Args:
        size: Length n of what is transformed.

    Returns:
        [n, n]; its product with its transpose is the identity.
    """
    places = torch.arange(float(size))
    basis = torch.cos(math.pi / size * (places + 0.5) * places[:, None])
    basis[0] /= math.sqrt(2)
    return basis * math.sqrt(2 / size)


class WhiteningStem(nn.Module):
    """What 2x2 patches hold, each part with a spread of its own taken out, in both signs.

    The principal components of natural images' patches are nearly cosines over places and, in three channels,
    brightness and two opponent colours: cosines once more. They are not trained; the normalisation behind them makes
    them equally large, which is what whitening is. Whitening by the training images' own components (Jordan 2024) would
    make the network depend on its data.
    """

    filters: Tensor

    def __init__(self, channels: int, activation: str, norm: str) -> None:
        super().__init__()
        place = cosines(_PATCH)
        filters = torch.einsum("ac,bh,dw->abdchw", cosines(channels), place, place)
        self.outputs = 2 * channels * _PATCH**2
        self.register_buffer("filters", filters.reshape(-1, channels, _PATCH, _PATCH), persistent=False)
        self.norm = normalisation(norm, self.outputs // 2)
        self.activation = make_activation(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """[m, C, H, W] to [m, 8 C, H - 1, W - 1]."""
        parts = self.norm(functional.conv2d(inputs, self.filters))
        outputs: Tensor = self.activation(torch.cat([parts, -parts], dim=1))
        return outputs


class Scale(nn.Module):
    """A fixed factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """Of any shape."""
        return inputs * self.factor


def whitened_cnn(
    input_shape: tuple[int, ...],
    num_classes: int,
    widths: Sequence[int] = (64, 256, 256),
    scale: float = 0.25,
    activation: str = "gelu",
    norm: str = "batch",
    pooling: str = "average",
) -> nn.Module:
    """Network of "94% on CIFAR-10 in 3.29 Seconds" (Jordan 2024, arXiv 2404.00498): seven convolutions, few epochs.

    The stem needs no data, and pooling averages unless told otherwise: by maxima, as in the paper, it learns faster.
    Convolutions start as the identity on as many channels as they have on both sides (Dirac).

    Args:
        input_shape: (channels, height, width); sides of at least 2^stages + 1 pixels.
        num_classes: Width of the output.
        widths: Channels of each stage: two 3x3 convolutions, the resolution halved between them.
        scale: Factor of the logits. The smaller, the slower the last layer learns beside the others.
        activation: Name in `auditor.models.layers.ACTIVATIONS`.
        norm: `batch`, `group` or `none`.
        pooling: `average` or `max`.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].

    Raises:
        ValueError: The images are too small for as many stages.
    """
    least = 2 ** len(widths) + 1
    if min(input_shape[1:]) < least:
        raise ValueError(f"widths of {len(widths)} stages take images of at least {least} pixels a side")
    stem = WhiteningStem(input_shape[0], activation, norm)
    stages: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([stem.outputs, *widths]):
        stages += [
            _identity(nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")),
            make_pooling(pooling, 2),
            normalisation(norm, outputs),
            make_activation(activation),
            _identity(nn.Conv2d(outputs, outputs, 3, padding=1, bias=norm == "none")),
            normalisation(norm, outputs),
            make_activation(activation),
        ]
    return nn.Sequential(
        stem,
        *stages,
        make_pooling(pooling, None),
        nn.Flatten(),
        Scale(scale),  # of the logits; before the linear layer, which is then the last one, it does the same
        nn.Linear(widths[-1], num_classes, bias=False),
    )


def _identity(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, as the identity on as many channels as it has in common."""
    common = min(layer.in_channels, layer.out_channels)
    nn.init.dirac_(layer.weight.data[:common])
    return layer
