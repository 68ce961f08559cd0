"""Vision transformer for square images, torchvision's own."""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import nn

from auditor.models.layers import activation as make_activation
from auditor.models.replacement import replace_layers


def vit(
    input_shape: tuple[int, ...],
    num_classes: int,
    patch_size: int = 4,
    layers: int = 4,
    heads: int = 4,
    hidden: int = 64,
    mlp: int | None = None,
    dropout: float = 0.0,
    activation: str = "gelu",
) -> nn.Module:
    """Vision transformer (Dosovitskiy et al. 2021), `torchvision.models.VisionTransformer`.

    With patches of 16, 12 layers, 12 heads and 768 hidden values it is torchvision's `vit_b_16`, and takes its weights
    for images of the size that they were trained on. Its last layer begins as any linear layer does: behind
    torchvision's zeros nothing else would have a gradient at the first step, and influence there would see no network.

    Args:
        input_shape: (channels, height, width), as high as wide.
        num_classes: Width of the output.
        patch_size: Pixels on each side of a patch; divides the images' side.
        layers: Transformer blocks.
        heads: Attention heads of each; divide `hidden`.
        hidden: Values of a token.
        mlp: Hidden values of a block's perceptron; null is four times `hidden`.
        dropout: Share of values dropped in training behind attention, perceptron and position.
        activation: Name in `auditor.models.layers.ACTIVATIONS`, of the perceptrons.

    Returns:
        A module from [m, C, H, W] to logits [m, num_classes].

    Raises:
        ValueError: The images are not square or not cut evenly, or the heads do not divide the hidden values.
    """
    from torchvision.models import VisionTransformer  # a second's import that only this network needs

    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(f"a vision transformer takes square images, not {list(input_shape)}")
    channels, side, _ = input_shape
    if side % patch_size:
        raise ValueError(f"patch_size {patch_size} does not divide images of {side} pixels a side")
    if hidden % heads:
        raise ValueError(f"heads {heads} do not divide hidden {hidden}")
    model: nn.Module = VisionTransformer(
        side, patch_size, layers, heads, hidden, mlp or 4 * hidden, dropout, num_classes=num_classes
    )
    cast(nn.Linear, model.get_submodule("heads.head")).reset_parameters()
    if activation != "gelu":
        replace_layers(model, nn.GELU, partial(make_activation, activation))
    if channels != 3:
        projection = nn.Conv2d(channels, hidden, patch_size, stride=patch_size)
        # As torchvision draws them.
        nn.init.trunc_normal_(projection.weight, std=(channels * patch_size**2) ** -0.5)
        nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
        model.conv_proj = projection
    return model
