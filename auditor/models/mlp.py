"""Multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from auditor.models.layers import activation as make_activation


def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "gelu",
    dropout: float = 0.0,
) -> nn.Module:
    """Fully connected layers over flattened images or features.

    Args:
        input_shape: Shape of one sample, without the batch.
        num_classes: Width of the output.
        hidden: Widths of the hidden layers.
        activation: Name in `auditor.models.layers.ACTIVATIONS`.
        dropout: Share of hidden units dropped in training.

    Returns:
        A module from [m, *input_shape] to logits [m, num_classes].
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise([math.prod(input_shape), *hidden]):
        layers += [nn.Linear(inputs, outputs), make_activation(activation)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    width = hidden[-1] if hidden else math.prod(input_shape)
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
