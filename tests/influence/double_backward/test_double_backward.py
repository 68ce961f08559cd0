from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from auditor.influence.double_backward import CheapDoubleBackward
from auditor.models import build_model

F64 = torch.float64


def curvature(model, inputs, labels):
    """⟨∇L, v⟩ differentiated once more, for parameters and nothing hidden."""
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(value.shape, generator=generator, dtype=F64) for value in parameters]
    gradient = torch.autograd.grad(cross_entropy(model(inputs), labels), parameters, create_graph=True)
    return torch.autograd.grad(gradient, parameters, direction)


@pytest.mark.parametrize(
    ("name", "args"),
    [("resnet", {"widths": [4, 6]}), ("resnet", {"widths": [4], "norm": "group"}), ("mlp", {"hidden": [8]})],
)
def test_curvature_of_a_training_network_is_that_of_torchs_own_double_backward(name, args):
    model = build_model(name, args, (1, 8, 8), 3, seed=0, dtype=F64).train()
    inputs, labels = torch.randn(6, 1, 8, 8, dtype=F64), torch.arange(6) % 3
    expected = curvature(model, inputs, labels)
    with CheapDoubleBackward():
        found = curvature(model, inputs, labels)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_layers_are_replaced_within_the_block_only():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU())
    inputs = torch.randn(2, 1, 4, 4)
    with CheapDoubleBackward():
        inside = [type(layer(values).grad_fn).__name__ for layer, values in stages(model, inputs)]
    outside = [type(layer(values).grad_fn).__name__ for layer, values in stages(model, inputs)]
    assert inside == ["_ConvBackward", "_BatchNormBackward", "_GeluBackward"]
    assert outside == ["ConvolutionBackward0", "NativeBatchNormBackward0", "GeluBackward0"]


def stages(model, values):
    for layer in model:
        yield layer, values
        values = layer(values)
