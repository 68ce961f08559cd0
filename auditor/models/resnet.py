"""Residual network for images from 8x8 to 64x64 pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from auditor.models.layers import activation as make_activation
from auditor.models.layers import normalisation


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; average pooling, not striding, where the resolution halves."""

    def __init__(self, inputs: int, outputs: int, halve: bool, activation: str, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.pool: nn.Module = nn.AvgPool2d(2) if halve else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
            normalisation(norm, outputs),
            make_activation(activation),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
            normalisation(norm, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=bias), normalisation(norm, outputs))
        self.activation = make_activation(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """[m, inputs, H, W] to [m, outputs, H, W], or half of H and W."""
        inputs = self.pool(inputs)
        outputs: Tensor = self.activation(self.body(inputs) + self.shortcut(inputs))
        return outputs


def resnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 1,
    activation: str = "gelu",
    norm: str = "batch",
) -> nn.Module:
    """Residual network (He et al. 2016) with smooth activations and average pooling.

    Args:
        input_shape: (channels, height, width).
        num_classes: Width of the output.
        widths: Channels of each stage; every stage after the first halves the resolution.
        blocks: Residual blocks a stage.
        activation: Name in `auditor.models.layers.ACTIVATIONS`.
        norm: `batch`, `group` or `none`.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].
    """
    stem = nn.Sequential(
        nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=norm == "none"),
        normalisation(norm, widths[0]),
        make_activation(activation),
    )
    stages: list[nn.Module] = []
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stages.append(ResidualBlock(channels, width, stage > 0 and block == 0, activation, norm))
            channels = width
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
