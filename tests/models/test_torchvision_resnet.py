from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from auditor.models import build_model
from auditor.models.layers import GELU
from auditor.models.torchvision_resnet import torchvision_resnet

PLAIN = {"activation": "relu", "pooling": "max"}


@pytest.mark.parametrize(
    ("shape", "args"),
    [
        ((3, 32, 32), {}),
        ((3, 32, 32), PLAIN),
        ((1, 8, 8), {"small_images": True, "norm": "group", "activation": "softplus"}),
        ((1, 32, 32), {"norm": "group"}),
    ],
)
def test_images_become_logits_and_everything_takes_part(shape, args):
    model = build_model("resnet18", args, shape, 5, seed=0)
    inputs = torch.randn(4, *shape)
    kept = inputs.clone()
    logits = model(inputs)
    assert logits.shape == (4, 5)
    assert torch.equal(inputs, kept)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)


def test_smooth_by_default_and_nothing_in_place():
    kinds = {type(layer) for layer in build_model("resnet18", {}, (3, 32, 32), 5, seed=0).modules()}
    assert {GELU, nn.AvgPool2d, nn.BatchNorm2d} <= kinds
    assert not {nn.ReLU, nn.MaxPool2d} & kinds
    plain = build_model("resnet18", PLAIN, (3, 32, 32), 5, seed=0)
    assert not any(layer.inplace for layer in plain.modules() if isinstance(layer, nn.ReLU))
    norms = {type(layer) for layer in build_model("resnet18", {"norm": "group"}, (3, 32, 32), 5, seed=0).modules()}
    assert nn.GroupNorm in norms
    assert nn.BatchNorm2d not in norms


def test_small_images_keep_their_size_through_the_stem():
    model = build_model("resnet18", {"small_images": True}, (3, 32, 32), 5, seed=0)
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    assert stem(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 32, 32)


def test_torchvisions_weights_give_torchvisions_logits():
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(num_classes=7)
    model = build_model("resnet18", PLAIN, (3, 40, 40), 7, seed=1)
    model.load_state_dict(reference.state_dict())
    inputs = torch.randn(3, 3, 40, 40)
    torch.testing.assert_close(model(inputs), reference(inputs))
    torch.testing.assert_close(model.eval()(inputs), reference.eval()(inputs))


def test_a_seed_gives_the_weights_that_torchvision_would_draw():
    torch.manual_seed(3)
    reference = torchvision.models.resnet18(num_classes=7)
    model = build_model("resnet18", PLAIN, (3, 40, 40), 7, seed=3)
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in model.state_dict().items())


def test_resnet50_has_torchvisions_names_and_shapes():
    with torch.device("meta"):
        model = build_model("resnet50", PLAIN, (3, 224, 224), 1000, seed=0)
        reference = torchvision.models.resnet50()
    shapes = {name: value.shape for name, value in reference.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


def test_bottlenecks_with_torchvisions_weights_give_torchvisions_logits():
    reference = torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4)
    model = torchvision_resnet(Bottleneck, [1, 1, 1, 1], (3, 32, 32), 4, "relu", "batch", "max", False)
    model.load_state_dict(reference.state_dict())
    inputs = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model(inputs), reference(inputs))
