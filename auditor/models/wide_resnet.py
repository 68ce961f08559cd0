"""Wide residual network for images from 8x8 to 64x64 pixels."""

from __future__ import annotations

from torch import Tensor, nn

from auditor.models.layers import activation as make_activation
from auditor.models.layers import normalisation

_STEM = 16


class WideBlock(nn.Module):
    """Normalisation and activation before each of two 3x3 convolutions, beside a shortcut.

    Average pooling, not striding, where the resolution halves.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool, activation: str, norm: str, dropout: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.before = nn.Sequential(
            normalisation(norm, inputs),
            make_activation(activation),
            nn.AvgPool2d(2) if halve else nn.Identity(),
        )
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
            normalisation(norm, outputs),
            make_activation(activation),
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=bias) if inputs != outputs or halve else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[m, inputs, H, W] to [m, outputs, H, W], or half of H and W."""
        ready = self.before(inputs)
        beside = inputs if self.shortcut is None else self.shortcut(ready)
        outputs: Tensor = self.body(ready) + beside
        return outputs


def wide_resnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    depth: int = 16,
    width: int = 4,
    dropout: float = 0.0,
    activation: str = "gelu",
    norm: str = "batch",
) -> nn.Module:
    """Wide residual network (Zagoruyko and Komodakis 2016), WRN-depth-width, smooth and with average pooling.

    Args:
        input_shape: (channels, height, width).
        num_classes: Width of the output.
        depth: Layers, 6 n + 4 for n blocks in each of three stages; the last two halve the resolution.
        width: Factor of the stages' 16, 32 and 64 channels.
        dropout: Share of values dropped between the two convolutions of a block in training.
        activation: Name in `auditor.models.layers.ACTIVATIONS`.
        norm: `batch`, `group` or `none`.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].

    Raises:
        ValueError: The depth is not 6 n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth {depth} is not 6 n + 4: 10, 16, 22, 28, ...")
    stages: list[nn.Module] = []
    channels = _STEM
    for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range(blocks):
            stages.append(WideBlock(channels, outputs, stage > 0 and block == 0, activation, norm, dropout))
            channels = outputs
    return nn.Sequential(
        nn.Conv2d(input_shape[0], _STEM, 3, padding=1, bias=norm == "none"),
        *stages,
        normalisation(norm, channels),
        make_activation(activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
