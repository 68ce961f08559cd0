from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from auditor.influence.head import FeatureReader, Head, HeadCurvature, find_head
from auditor.models import build_model
from tests.influence.networks import CLASSES, SHAPE, network, samples

RANDOM = np.random.default_rng(0)


def test_the_head_is_the_linear_layer_that_makes_the_logits():
    inputs = torch.randn(2, *SHAPE)
    for name, args in (
        ("small_cnn", {"widths": [4]}),
        ("mlp", {"hidden": [5, 6]}),
        ("resnet", {"widths": [4, 8]}),
        ("whitened_cnn", {"widths": [4]}),
    ):
        model = build_model(name, args, SHAPE, CLASSES, 0, torch.float32).eval()
        head = find_head(model, inputs)
        assert model.get_submodule(head).out_features == CLASSES
        features = FeatureReader(model, head)(inputs)
        torch.testing.assert_close(model.get_submodule(head)(features), model(inputs))


def test_a_model_that_ends_otherwise_has_none():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.Softmax(dim=1))
    assert find_head(flat, torch.randn(2, *SHAPE)) is None
    assert find_head(nn.Sequential(nn.Conv2d(1, CLASSES, 4), nn.Flatten()), torch.randn(2, *SHAPE)) is None


def made(features=5, classes=4, rows=30):
    head = Head(RANDOM.normal(size=(classes, features)), RANDOM.normal(size=classes))
    return head, RANDOM.normal(size=(rows, features)), RANDOM.integers(0, classes, rows)


def test_gradients_are_those_of_autograd_in_the_layer():
    net = network()
    model, (inputs, labels) = net.model.eval(), samples(6)
    name = find_head(model, inputs)
    layer = model.get_submodule(name)
    head = Head(layer.weight.detach().numpy(), layer.bias.detach().numpy())
    given, errors = head.gradients(FeatureReader(model, name)(inputs).numpy(), labels.numpy())
    for row in range(6):
        loss = cross_entropy(functional_call(model, {}, (inputs[row : row + 1],)), labels[row : row + 1])
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        expected = np.concatenate([weight.numpy(), bias.numpy()[:, None]], axis=1)
        np.testing.assert_allclose(np.outer(errors[row], given[row]), expected, atol=1e-12)


@pytest.mark.parametrize("shift", [1e-4, 1e-2, 1.0])
def test_influence_is_the_product_with_the_inverse_of_the_kronecker_product(shift):
    head, features, labels = made()
    curvature = HeadCurvature(head)
    curvature.add(features[:11])
    curvature.add(features[11:])
    found = curvature.influence(shift)(features[:3], labels[:3], features[5:9], labels[5:9])
    ones = np.concatenate([features, np.ones((30, 1))], axis=1)
    likely = head.probabilities(features)
    inner = ones.T @ ones / 30
    outer = np.mean([np.diag(p) - np.outer(p, p) for p in likely], axis=0)
    matrix = np.kron(inner, outer) + shift * np.eye(inner.shape[0] * outer.shape[0])
    given, errors = head.gradients(features, labels)
    gradients = np.array([np.outer(x, d).ravel() for x, d in zip(given, errors, strict=True)])
    expected = gradients[:3] @ np.linalg.solve(matrix, gradients[5:9].T) / 30
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_few_singular_values_carry_a_large_layer():
    head, features, _ = made(features=200, classes=50, rows=400)
    curvature = HeadCurvature(head)
    curvature.add(features)
    assert len(curvature.influence(5e-4).left) < 25
