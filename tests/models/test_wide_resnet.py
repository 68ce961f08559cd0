from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.models import build_model


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_images_become_logits_and_everything_takes_part(norm):
    args = {"depth": 10, "width": 1, "norm": norm, "activation": "silu", "dropout": 0.1}
    model = build_model("wide_resnet", args, (3, 8, 8), 5, seed=0)
    logits = model(torch.randn(4, 3, 8, 8))
    assert logits.shape == (4, 5)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize(("depth", "width"), [(10, 2), (22, 1)])
def test_depth_and_width_are_those_of_the_paper(depth, width):
    model = build_model("wide_resnet", {"depth": depth, "width": width}, (3, 32, 32), 10, seed=0)
    spatial = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    blocks = (depth - 4) // 6
    widths = [16] + [size * width for size in (16, 32, 64) for _ in range(2 * blocks)]
    assert [layer.out_channels for layer in spatial] == widths


def test_a_known_network_has_its_known_size():
    """WRN-28-10 has 36.5 million parameters (table 4 of the paper)."""
    with torch.device("meta"):
        model = build_model("wide_resnet", {"depth": 28, "width": 10}, (3, 32, 32), 10, seed=0)
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 1) == 36.5
