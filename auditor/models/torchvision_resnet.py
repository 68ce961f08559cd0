"""Torchvision's residual networks, made smooth: what `resnet18` and `resnet50` share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from auditor.models.layers import activation as make_activation
from auditor.models.layers import normalisation
from auditor.models.replacement import replace_layers

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck


def torchvision_resnet(
    block: type[BasicBlock | Bottleneck],
    blocks: list[int],
    input_shape: tuple[int, ...],
    num_classes: int,
    activation: str,
    norm: str,
    pooling: str,
    small_images: bool,
) -> nn.Module:
    """A `torchvision.models.ResNet` under torchvision's names.

    Args:
        block: Torchvision's kind of block.
        blocks: Of each stage.
        input_shape: (channels, height, width).
        num_classes: Width of the output.
        activation: Name in `auditor.models.layers.ACTIVATIONS`, for torchvision's ReLU.
        norm: `batch` or `group`.
        pooling: `average` or `max`, behind the stem.
        small_images: A stem of one 3x3 convolution without striding, and no pooling behind it.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].

    Raises:
        ValueError: A name is unknown.
    """
    from torchvision.models.resnet import ResNet  # a second's import that only these networks need

    if norm not in ("batch", "group"):
        raise ValueError(f"norm {norm!r} is not one of batch, group")
    if pooling not in ("average", "max"):
        raise ValueError(f"pooling {pooling!r} is not one of average, max")
    model: nn.Module = ResNet(block, blocks, num_classes, norm_layer=partial(normalisation, norm))
    # Torchvision's own ReLU works in place, and one layer in several places.
    replace_layers(model, nn.ReLU, partial(make_activation, activation))
    channels = input_shape[0]
    if small_images:
        model.conv1 = _stem(nn.Conv2d(channels, 64, 3, padding=1, bias=False))
        model.maxpool = nn.Identity()
    else:
        if channels != 3:
            model.conv1 = _stem(nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False))
        if pooling == "average":
            model.maxpool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    return model


def _stem(layer: nn.Conv2d) -> nn.Conv2d:
    """With initial weights as torchvision draws them."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
