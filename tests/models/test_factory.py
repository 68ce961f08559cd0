from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.models import build_model


class Wrong:
    def __init__(self, num_classes: int) -> None:
        pass


def linear(num_classes: int, inputs: int) -> nn.Module:
    return nn.Linear(inputs, num_classes)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("name", ["resnet", "small_cnn"])
def test_convolutional_networks_map_images_to_logits(name, norm):
    model = build_model(name, {"norm": norm, "widths": [4, 8]}, (3, 8, 8), 5, seed=0)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_mlp_maps_features_to_logits():
    assert build_model("mlp", {"hidden": [], "dropout": 0.1}, (7,), 3, seed=0)(torch.zeros(2, 7)).shape == (2, 3)


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_model("mlp", {}, (4,), 2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_own_callable_is_found_and_given_its_arguments():
    model = build_model(f"{__name__}:linear", {"inputs": 6}, (6,), 4, seed=0, dtype=torch.float64)
    assert model.weight.shape == (4, 6)
    assert model.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("alexnet", {}, "alexnet"),
        ("no_such_module:net", {}, "no_such_module"),
        ("torch:no_such_name", {}, "no_such_name"),
        ("mlp", {"depth": 3}, "depth"),
        ("resnet", {"norm": "layer"}, "layer"),
        ("resnet", {"activation": "step"}, "step"),
        ("wide_resnet", {"depth": 12}, "depth 12 is not 6 n"),
        ("whitened_cnn", {}, "widths of 3 stages take images of at least 9 pixels a side"),
        ("resnet18", {"norm": "none"}, "norm 'none' is not one of batch, group"),
        ("resnet18", {"pooling": "median"}, "median"),
        ("resnet50", {"activation": "step"}, "step"),
        ("vit", {"patch_size": 3}, "patch_size 3 does not divide images of 8"),
        ("vit", {"heads": 5}, "heads 5 do not divide hidden 64"),
        (f"{__name__}:Wrong", {}, "Wrong"),
    ],
)
def test_what_cannot_be_built_is_named(name, args, named):
    with pytest.raises(ValueError, match=named):
        build_model(name, args, (1, 8, 8), 2, seed=0)


def test_a_vision_transformer_says_that_its_images_are_square():
    with pytest.raises(ValueError, match=r"square images, not \[1, 8, 4\]"):
        build_model("vit", {}, (1, 8, 4), 2, seed=0)
