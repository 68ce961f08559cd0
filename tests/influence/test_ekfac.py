from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from auditor.influence.attention import plain_attention
from auditor.influence.ekfac import EKFAC, covered_parameters
from auditor.influence.hif import flatten
from auditor.influence.solvers import UnsolvableError
from auditor.models import build_model
from tests.influence.networks import CLASSES, F64, SHAPE, samples, tangent

LAYERS_OF_VIT = (
    "conv_proj",
    "encoder.layers.encoder_layer_0.mlp.0",
    "encoder.layers.encoder_layer_0.mlp.3",
    "heads.head",
)


def model(norm="batch"):
    return build_model("small_cnn", {"widths": [3, 4], "norm": norm}, SHAPE, CLASSES, 0, F64).eval()


def ekfac(module, chunks, right, shifts, tolerance, seed):
    return EKFAC(module, chunks, seed).solve(right, shifts, tolerance)


def named(module):
    return {name: value.detach() for name, value in module.named_parameters()}


def gauss_newton(module, parameters, inputs):
    jacobians = jacrev(lambda at: functional_call(module, at, (inputs,)))(parameters)
    jacobian = torch.cat([value.flatten(2) for value in jacobians.values()], dim=2)
    probability = module(inputs).detach().softmax(dim=1)
    curved = torch.diag_embed(probability) - probability[:, :, None] * probability[:, None, :]
    return torch.einsum("kcp,kcd,kdq->pq", jacobian, curved, jacobian) / len(inputs)


def sample_gradients(module, inputs, labels, names):
    """∇l_k of each sample over some parameters, flat, one backward pass a sample."""
    parameters = [dict(module.named_parameters())[name] for name in names]
    rows = []
    for row, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(module(row[None]), label[None])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows)


def test_it_is_exact_for_one_layer_and_one_sample():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES, dtype=F64)).eval()
    inputs, labels = samples(1)
    parameters, right = named(module), tangent(named(module))
    dense = gauss_newton(module, parameters, inputs)
    ((found, solution),) = ekfac(module, [(inputs, labels)], right, [0.1], 1e-9, seed=0)
    expected = torch.linalg.solve(dense + 0.1 * torch.eye(len(dense), dtype=F64), flatten(right))
    torch.testing.assert_close(flatten(found), expected, rtol=1e-9, atol=1e-12)
    assert solution.converged
    assert solution.residual < 1e-9


def test_its_residual_is_that_of_the_exact_gauss_newton_matrix():
    module = model("none")
    inputs, labels = samples(12)
    parameters, right = named(module), tangent(named(module))
    dense = gauss_newton(module, parameters, inputs)
    for shift, (found, solution) in zip(
        [0.01, 1.0],
        ekfac(module, [(inputs[:7], labels[:7]), (inputs[7:], labels[7:])], right, [0.01, 1.0], 1e-2, 0),
        strict=True,
    ):
        left = flatten(right) - dense @ flatten(found) - shift * flatten(found)
        assert solution.residual == pytest.approx(float(left.norm() / flatten(right).norm()), rel=1e-6)
        # Better than to take the curvature for nothing but its damping.
        crude = flatten(right) - dense @ flatten(right) / shift - flatten(right)
        assert solution.residual < float(crude.norm() / flatten(right).norm())


def test_parameters_that_it_does_not_know_are_left_where_they_are():
    module = model()
    inputs, labels = samples(12)
    covered = covered_parameters(module, inputs)
    norms = {name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert norms
    assert covered
    assert not any(name.rpartition(".")[0] in norms for name in covered)
    ((found, solution),) = ekfac(module, [(inputs, labels)], tangent(named(module)), [0.1], 1e-2, seed=0)
    assert set(found) == set(named(module))
    assert {name for name, value in found.items() if value.any()} == set(covered)
    assert len(solution.vector) == sum(found[name].numel() for name in covered)


def test_a_model_without_layers_that_it_knows_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.LayerNorm(16, dtype=F64))
    with pytest.raises(UnsolvableError, match="linear layers"):
        ekfac(module, [samples(4)], tangent(named(module)), [0.1], 1e-2, seed=0)


@pytest.mark.parametrize("frozen", ["0.", "10.weight", "10.bias", "4.weight"])
def test_layers_that_are_frozen_or_half_frozen_are_left_out_of_the_matrix(frozen):
    module = model("none")
    for name, value in module.named_parameters():
        value.requires_grad_(not name.startswith(frozen))
    inputs, labels = samples(12)
    free = {name: value for name, value in named(module).items() if not name.startswith(frozen)}
    right = tangent(free)
    ((found, solution),) = ekfac(module, [(inputs, labels)], right, [0.1], 1e-2, seed=0)
    assert set(found) == set(free)
    dense = gauss_newton(module, free, inputs)
    left = flatten(right) - dense @ flatten(found) - 0.1 * flatten(found)
    assert solution.residual == pytest.approx(float(left.norm() / flatten(right).norm()), rel=1e-6)
    assert solution.residual < 0.5


def test_attention_is_differentiated_and_its_own_weights_are_taken_as_fixed():
    sizes = {"patch_size": 2, "layers": 1, "heads": 2, "hidden": 4, "mlp": 6}
    module = build_model("vit", sizes, SHAPE, CLASSES, 0, F64).eval()
    inputs, labels = samples(6)
    parameters, right = named(module), tangent(named(module))
    ((found, solution),) = ekfac(module, [(inputs, labels)], right, [1.0], 1e-2, 0)
    covered = {f"{layer}.{kind}" for layer in LAYERS_OF_VIT for kind in ("weight", "bias")}
    assert {name for name, value in found.items() if value.any()} == covered
    some = {name: value for name, value in parameters.items() if name in covered}
    known = {name: value for name, value in parameters.items() if name not in covered}
    with plain_attention():
        jacobians = jacrev(lambda at: functional_call(module, {**known, **at}, (inputs,)))(some)
    jacobian = torch.cat([value.flatten(2) for value in jacobians.values()], dim=2)
    probability = module(inputs).detach().softmax(dim=1)
    curved = torch.diag_embed(probability) - probability[:, :, None] * probability[:, None, :]
    x, b = (torch.cat([of[name].flatten() for name in some]) for of in (found, right))
    left = b - torch.einsum("kcp,kcd,kdq,q->p", jacobian, curved, jacobian, x) / len(inputs) - x
    assert solution.residual == pytest.approx(float(left.norm() / b.norm()), rel=1e-6)


def test_self_influence_is_exact_for_one_layer_and_one_sample():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES, dtype=F64)).eval()
    inputs, labels = samples(1)
    dense = gauss_newton(module, named(module), inputs)
    gradient = sample_gradients(module, inputs, labels, list(named(module)))[0]
    exact = gradient @ torch.linalg.solve(dense + 0.1 * torch.eye(len(dense), dtype=F64), gradient)
    found = EKFAC(module, [(inputs, labels)], 0).self_influence(inputs, labels, 0.1)
    torch.testing.assert_close(found, exact[None], rtol=1e-9, atol=0)


@pytest.mark.parametrize("frozen", ["nothing", "0.", "10.weight", "10.bias"])
def test_self_influence_is_a_samples_gradient_times_the_solution_for_it(frozen, monkeypatch):
    """Whatever is frozen, and however few samples' gradients are held at a time."""
    module = model("none")
    for name, value in module.named_parameters():
        value.requires_grad_(not name.startswith(frozen))
    free = {name: value for name, value in named(module).items() if not name.startswith(frozen)}
    inputs, labels = samples(7)
    factors = EKFAC(module, [(inputs, labels)], 0)
    expected = []
    for flat in sample_gradients(module, inputs, labels, list(free)):
        parts = flat.split([value.numel() for value in free.values()])
        gradient = {name: part.view_as(free[name]) for name, part in zip(free, parts, strict=True)}
        solution = factors.inverse(0.05)(gradient)
        expected.append(sum((gradient[name] * solution[name]).sum() for name in free))
    torch.testing.assert_close(factors.self_influence(inputs, labels, 0.05), torch.stack(expected), rtol=1e-9, atol=0)
    monkeypatch.setattr("auditor.influence.ekfac._GRADIENTS", 2 * sum(value.numel() for value in free.values()))
    torch.testing.assert_close(factors.self_influence(inputs, labels, 0.05), torch.stack(expected), rtol=1e-9, atol=0)
