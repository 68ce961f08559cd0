from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.sam.perturbation import global_norm
from auditor.sam.variants.sam import sam_ascent

GRADIENT = {"a": torch.tensor([3.0, 0.0], dtype=torch.float64), "b": torch.tensor([[-4.0]], dtype=torch.float64)}


def flat(tensors):
    return torch.cat([value.flatten() for value in tensors.values()])


def test_plain_sam_is_the_gradient_scaled_to_rho():
    epsilon = sam_ascent({}, GRADIENT, rho=0.5)
    torch.testing.assert_close(epsilon["a"], torch.tensor([0.3, 0.0], dtype=torch.float64))
    torch.testing.assert_close(epsilon["b"], torch.tensor([[-0.4]], dtype=torch.float64))


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, 8.0])
def test_p_norm_form_matches_the_papers_expression(p):
    g = flat(GRADIENT)
    q = p / (p - 1)
    expected = 0.1 * g.sign() * g.abs() ** (q - 1) / (g.abs() ** q).sum() ** (1 / p)
    torch.testing.assert_close(flat(sam_ascent({}, GRADIENT, rho=0.1, p=p)), expected)


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).filter(lambda g: max(map(abs, g)) > 1e-100),
    p=st.floats(1.2, 10.0),
    rho=st.floats(1e-3, 10.0),
)
def test_perturbation_has_norm_rho_and_attains_the_dual_norm(values, p, rho):
    gradient = {"w": torch.tensor(values, dtype=torch.float64)}
    epsilon = sam_ascent({}, gradient, rho=rho, p=p)
    q = p / (p - 1)
    assert float(global_norm(epsilon.values(), p)) == pytest.approx(rho, rel=1e-6)
    attained = float((epsilon["w"] * gradient["w"]).sum())
    assert attained == pytest.approx(rho * float(global_norm(gradient.values(), q)), rel=1e-6)


def test_general_form_at_two_is_plain_sam():
    near = sam_ascent({}, GRADIENT, rho=0.2, p=2.0 + 1e-9)
    torch.testing.assert_close(flat(near), flat(sam_ascent({}, GRADIENT, rho=0.2)))


@pytest.mark.parametrize("p", [2.0, 3.0])
@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_vanishing_gradient_gives_zero_perturbation(p, size):
    epsilon = sam_ascent({}, {"w": torch.full((3,), size)}, rho=0.1, p=p)
    assert torch.equal(epsilon["w"], torch.zeros(3))


def test_small_gradients_keep_the_radius_in_single_precision():
    gradient = {"w": torch.tensor([1e-9, -2e-9])}  # to the sixth power, nothing of them is left
    epsilon = sam_ascent({}, gradient, rho=0.1, p=1.2)
    assert float(global_norm(epsilon.values(), 1.2)) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_entries_without_gradient_do_not_spoil_the_derivative(p):
    gradient = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    epsilon = sam_ascent({}, {"w": gradient}, rho=0.1, p=p)["w"]
    (slope,) = torch.autograd.grad(epsilon[1], gradient)
    assert bool(slope.isfinite().all())
    moved = torch.tensor([0.0, 1.0, 2.0 + 1e-6], dtype=torch.float64)
    numeric = (sam_ascent({}, {"w": moved}, rho=0.1, p=p)["w"][1] - epsilon[1]) / 1e-6
    assert float(slope[2]) == pytest.approx(float(numeric), rel=1e-4)
