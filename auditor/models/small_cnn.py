"""A plain convolutional network for small images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from auditor.models.layers import activation as make_activation
from auditor.models.layers import normalisation


def small_cnn(
    input_shape: tuple[int, ...],
    num_classes: int,
    widths: Sequence[int] = (32, 64),
    activation: str = "gelu",
    norm: str = "batch",
) -> nn.Module:
    """3x3 convolutions, each followed by 2x2 average pooling, then a global average and a linear layer.

    Args:
        input_shape: (channels, height, width).
        num_classes: Width of the output.
        widths: Channels of each convolution.
        activation: Name in `auditor.models.layers.ACTIVATIONS`.
        norm: `batch`, `group` or `none`.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([input_shape[0], *widths]):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none"),
            normalisation(norm, outputs),
            make_activation(activation),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
