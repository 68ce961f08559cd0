from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.sam.variants.asam import asam_ascent
from auditor.sam.variants.sam import sam_ascent

F64 = torch.float64
PARAMETERS = {"a": torch.tensor([2.0, 0.0], dtype=F64), "b": torch.tensor([[-1.0]], dtype=F64)}
GRADIENT = {"a": torch.tensor([2.0, 100.0], dtype=F64), "b": torch.tensor([[-3.0]], dtype=F64)}


def test_perturbation_by_hand():
    """T g = (2·2, 0·100, 1·−3) has norm 5, so ε = ρ T² g / 5."""
    epsilon = asam_ascent(PARAMETERS, GRADIENT, rho=0.5, eta=0.0)
    torch.testing.assert_close(epsilon["a"], torch.tensor([0.5 * 8 / 5, 0.0], dtype=F64))
    torch.testing.assert_close(epsilon["b"], torch.tensor([[0.5 * -3 / 5]], dtype=F64))


def test_eta_moves_parameters_that_are_zero():
    epsilon = asam_ascent(PARAMETERS, GRADIENT, rho=0.5, eta=0.1)
    scaled = torch.tensor([2.1 * 2, 0.1 * 100, 1.1 * -3], dtype=F64)
    assert float(epsilon["a"][1]) == pytest.approx(0.5 * 0.1 * float(scaled[1] / scaled.norm()))


vectors = st.lists(st.floats(-10, 10), min_size=5, max_size=5).map(lambda values: torch.tensor(values, dtype=F64))


@settings(deadline=None, max_examples=50)
@given(theta=vectors, gradient=vectors.filter(lambda g: g.norm() > 1e-3), rho=st.floats(1e-3, 2.0))
def test_perturbation_reaches_the_edge_of_the_ellipsoid_where_the_gradient_says(theta, gradient, rho):
    epsilon = asam_ascent({"w": theta}, {"w": gradient}, rho=rho, eta=0.01)["w"]
    scale = theta.abs() + 0.01
    assert float((epsilon / scale).norm()) == pytest.approx(rho, rel=1e-9)
    assert float(epsilon @ gradient) == pytest.approx(rho * float((scale * gradient).norm()), rel=1e-9)


def test_parameters_of_one_size_make_it_sam_of_that_radius():
    ones = {name: torch.ones_like(value) for name, value in GRADIENT.items()}
    adaptive, plain = asam_ascent(ones, GRADIENT, rho=0.3, eta=1.0), sam_ascent(ones, GRADIENT, rho=0.6)
    for name, value in plain.items():
        torch.testing.assert_close(adaptive[name], value)


def test_rescaling_a_layer_rescales_its_perturbation():
    """f(θ / c) has gradient c g at c θ: both reach the same network, which is what ASAM is for."""
    scaled = {name: 7.0 * value for name, value in PARAMETERS.items()}
    flatter = {name: value / 7.0 for name, value in GRADIENT.items()}
    for name, value in asam_ascent(PARAMETERS, GRADIENT, rho=0.5, eta=0.0).items():
        torch.testing.assert_close(asam_ascent(scaled, flatter, rho=0.5, eta=0.0)[name], 7.0 * value)


def test_vanishing_gradient_gives_zero():
    still = {name: torch.zeros_like(value) for name, value in GRADIENT.items()}
    assert all(not bool(value.any()) for value in asam_ascent(PARAMETERS, still, rho=0.5, eta=0.01).values())
