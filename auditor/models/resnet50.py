"""ResNet-50 for images from 32x32 pixels on, torchvision's own."""

from __future__ import annotations

from torch import nn

from auditor.models.torchvision_resnet import torchvision_resnet


def resnet50(
    input_shape: tuple[int, ...],
    num_classes: int,
    activation: str = "gelu",
    norm: str = "batch",
    pooling: str = "average",
    small_images: bool = False,
) -> nn.Module:
    """ResNet-50 (He et al. 2016), `torchvision.models.resnet50` with smooth activations and average pooling.

    With `activation: relu` and `pooling: max` it is torchvision's own, and its weights mean what they meant there.

    Args:
        input_shape: (channels, height, width).
        num_classes: Width of the output.
        activation: Name in `auditor.models.layers.ACTIVATIONS`.
        norm: `batch` or `group`.
        pooling: `average` or `max`, behind the stem.
        small_images: A stem of one 3x3 convolution without striding, and no pooling behind it, as for CIFAR-10.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].

    Raises:
        ValueError: A name is unknown.
    """
    from torchvision.models.resnet import Bottleneck  # a second's import that only these networks need

    blocks = [3, 4, 6, 3]
    return torchvision_resnet(Bottleneck, blocks, input_shape, num_classes, activation, norm, pooling, small_images)
