from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.models import build_model
from auditor.models.whitened_cnn import WhiteningStem, cosines


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_images_become_logits_and_everything_takes_part(norm, pooling):
    args = {"widths": [8, 12], "norm": norm, "pooling": pooling, "activation": "silu"}
    model = build_model("whitened_cnn", args, (3, 9, 12), 5, seed=0)
    logits = model(torch.randn(4, 3, 9, 12))
    assert logits.shape == (4, 5)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cosines_are_orthonormal_and_start_with_the_mean(size):
    basis = cosines(size)
    torch.testing.assert_close(basis @ basis.T, torch.eye(size))
    torch.testing.assert_close(basis[0], torch.full((size,), size**-0.5))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_keeps_all_that_a_patch_holds_in_both_signs(channels):
    stem = WhiteningStem(channels, "relu", "none")
    images = torch.randn(2, channels, 5, 6, generator=torch.Generator().manual_seed(0))
    found = stem(images)
    assert found.shape == (2, 8 * channels, 4, 5)
    above, below = found.chunk(2, dim=1)
    patches = nn.functional.unfold(images, 2).unflatten(2, (4, 5))
    torch.testing.assert_close((above - below).square().sum(1), patches.square().sum(1))


def test_with_batch_norm_all_parts_of_correlated_patches_get_the_same_spread():
    smooth = nn.functional.avg_pool2d(torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0)), 4, 1)
    stem = WhiteningStem(3, "relu", "batch")
    spread = nn.functional.conv2d(smooth, stem.filters).std((0, 2, 3))
    assert spread.max() > 3 * spread.min()
    above, below = stem(smooth).chunk(2, dim=1)
    torch.testing.assert_close((above - below).std((0, 2, 3)), torch.ones(12), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("index", "common"), [(1, 8), (5, 8), (8, 8)])
def test_convolutions_start_as_the_identity(index, common):
    model = build_model("whitened_cnn", {"widths": [8, 12], "norm": "none"}, (1, 9, 9), 3, seed=0)
    layer = model[index]
    images = torch.randn(2, layer.in_channels, 4, 4)
    found = layer(images) - layer.bias[:, None, None]
    torch.testing.assert_close(found[:, :common], images[:, :common])


def test_a_known_network_has_its_known_size():
    """airbench94 has 1.97 million parameters (section 3.1 of the paper), 300 of them in its whitening."""
    model = build_model("whitened_cnn", {}, (3, 32, 32), 10, seed=0)
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 2) == 1.97


def test_a_wrong_pooling_is_named():
    with pytest.raises(ValueError, match="pooling 'median' is not one of average, max"):
        build_model("whitened_cnn", {"pooling": "median"}, (3, 32, 32), 10, seed=0)
