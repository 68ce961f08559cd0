from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from auditor.influence.replay import Cotangent, step_pullback
from auditor.models import build_model
from auditor.sam import SGD, MicroBatch, Network, State, make_perturbation, sam_step
from tests.influence.networks import F64, inner, moved, tangent

TINY = {"patch_size": 2, "layers": 1, "heads": 2, "hidden": 4, "mlp": 6}


def tiny(activation="gelu", seed=0):
    """Away from the zeros and ones that biases and normalisation begin with."""
    model = build_model("vit", {**TINY, "activation": activation}, (1, 4, 4), 3, seed, F64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=F64))
    return model


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
def test_images_become_logits_and_everything_takes_part(activation):
    model = tiny(activation)
    logits = model(torch.randn(4, 1, 4, 4, dtype=F64))
    assert logits.shape == (4, 3)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
    assert isinstance(model.encoder.layers[0].mlp[1], {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}[activation])


def test_torchvisions_weights_give_torchvisions_logits():
    torch.manual_seed(0)
    reference = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 32, num_classes=5)
    nn.init.normal_(reference.heads.head.weight)
    model = build_model("vit", {"patch_size": 4, "layers": 2, "heads": 2, "hidden": 8}, (3, 8, 8), 5, seed=1)
    model.load_state_dict(reference.state_dict())
    inputs = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(model(inputs), reference(inputs))
    torch.testing.assert_close(model.eval()(inputs), reference.eval()(inputs))


def test_the_large_one_has_the_names_and_shapes_of_vit_b_16():
    with torch.device("meta"):
        args = {"patch_size": 16, "layers": 12, "heads": 12, "hidden": 768}
        model = build_model("vit", args, (3, 224, 224), 1000, seed=0)
        reference = torchvision.models.vit_b_16()
    shapes = {name: value.shape for name, value in reference.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


def test_a_steps_pullback_equals_finite_differences():
    """Each parameter and each sample's weight, and the momentum in one direction."""
    net, perturbation = Network(tiny()), make_perturbation("sam", 0.1)
    generator = torch.Generator().manual_seed(1)
    settings, state = SGD(0.3, 0.9, 0.01), State.initial(net)
    momentum = tangent(state.parameters, seed=2)
    inputs, labels = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=F64), torch.tensor([[0, 1, 2], [2, 2, 0]])

    def batches(weights):
        return [MicroBatch(inputs[part], labels[part], weights[part], part) for part in range(2)]

    def after(parameters, momentum, weights):
        found, _, _ = sam_step(net, State(parameters, momentum, {}), batches(weights), 2, perturbation, settings)
        return found

    cotangent = Cotangent(tangent(state.parameters, seed=3), tangent(state.parameters, seed=4))
    ones = torch.ones(2, 3, dtype=F64)

    def f(parameters=state.parameters, momentum=momentum, weights=ones):
        found = after(parameters, momentum, weights)
        return inner(found.parameters, cotangent.parameters) + inner(found.momentum, cotangent.momentum)

    before, toward_weights = step_pullback(
        net, State(state.parameters, momentum, {}), state, batches(ones), 2, perturbation, settings, cotangent
    )
    by = 1e-5
    for name, value in state.parameters.items():
        for place in range(value.numel()):
            unit = {key: torch.zeros_like(other) for key, other in state.parameters.items()}
            unit[name].view(-1)[place] = 1.0
            ahead, behind = (f(parameters=moved(state.parameters, unit, sign * by)) for sign in (1, -1))
            found = float(before.parameters[name].view(-1)[place])
            assert found == pytest.approx((ahead - behind) / (2 * by), rel=1e-5, abs=1e-7)
    along = tangent(state.parameters, seed=5)
    ahead, behind = (f(momentum=moved(momentum, along, sign * by)) for sign in (1, -1))
    assert inner(before.momentum, along) == pytest.approx((ahead - behind) / (2 * by), rel=1e-7)
    for part in range(2):
        for row in range(3):
            one = torch.zeros_like(ones)
            one[part, row] = by
            numeric = (f(weights=ones + one) - f(weights=ones - one)) / (2 * by)
            assert float(toward_weights[part][row]) == pytest.approx(numeric, rel=1e-5, abs=1e-8)
