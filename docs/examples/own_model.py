"""A network of one's own.

In the configuration, for commands started in the repository's root:

    model: {name: "docs.examples.own_model:patch_net", args: {width: 24}}
"""

from __future__ import annotations

from torch import Tensor, nn


class PatchNet(nn.Module):
    """Embeds patches of 2x2 pixels, mixes them with a depthwise convolution, and averages."""

    def __init__(self, channels: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(channels, width, 2, stride=2), nn.GELU(), nn.BatchNorm2d(width))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU(), nn.BatchNorm2d(width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """[m, channels, height, width] to logits [m, num_classes]."""
        hidden = self.embed(images)
        for mix in self.mix:
            hidden = hidden + mix(hidden)
        return self.head(hidden.mean(dim=(2, 3)))


def patch_net(num_classes: int, input_shape: tuple[int, ...], width: int = 32, depth: int = 2) -> nn.Module:
    """The factory: `num_classes` is always given, `input_shape` to those that ask for it, the rest is `model.args`."""
    return PatchNet(input_shape[0], num_classes, width, depth)
