from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap

from auditor.models.layers import ACTIVATIONS, GELU, activation, normalisation

F64 = torch.float64
SHAPES = [(5, 3), (5, 4, 3), (5, 3, 2, 4), (5, 1, 4, 4), (1, 3, 1, 1), (5, 3, 2, 4, 2)]


def drawn(shape, seed, innermost):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return values.contiguous(memory_format=torch.channels_last) if innermost and len(shape) == 4 else values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("innermost", [False, True])
@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_and_its_derivatives_are_torchs_own_in_every_order_of_memory(shape, innermost, form):
    ours, torchs = GELU(form), nn.GELU(form)
    values, along = drawn(shape, 0, innermost), drawn(shape, 1, not innermost)
    found, expected = jvp(ours, (values,), (along,)), jvp(torchs, (values,), (along,))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if values[0, 0].numel() > 1:  # a single place lies in every order
        assert found[0].stride() == expected[0].stride()

    def pulled(layer):
        return vmap(grad(lambda row, weight: (layer(row[None])[0] * weight).sum()))(values, along)

    torch.testing.assert_close(pulled(ours), pulled(torchs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_norms_have_their_names(name):
    assert activation(name).__class__.__name__.lower() == name
    with pytest.raises(ValueError, match="'swish' is not one of gelu, silu"):
        activation("swish")
    with pytest.raises(ValueError, match="'layer' is not one of batch, group, none"):
        normalisation("layer", 4)


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (6, 2), (12, 4), (16, 8)])
def test_group_norm_has_as_many_groups_up_to_eight_as_divide_the_channels(channels, groups):
    assert normalisation("group", channels).num_groups == groups
