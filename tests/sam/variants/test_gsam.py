from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.sam import Past
from auditor.sam.variants.gsam import gsam, gsam_descent
from auditor.sam.variants.sam import sam_ascent

F64 = torch.float64


def test_direction_by_hand():
    """G along the first axis of three: what g has along the others is taken away, α of it."""
    perturbed = {"a": torch.tensor([4.0, 0.0], dtype=F64), "b": torch.tensor([0.0], dtype=F64)}
    gradient = {"a": torch.tensor([3.0, 2.0], dtype=F64), "b": torch.tensor([-1.0], dtype=F64)}
    found = gsam_descent(gradient, perturbed, alpha=0.5)
    torch.testing.assert_close(found["a"], torch.tensor([4.0, -1.0], dtype=F64))
    torch.testing.assert_close(found["b"], torch.tensor([0.5], dtype=F64))


vectors = (
    st.lists(st.floats(-10, 10), min_size=4, max_size=4)
    .map(lambda values: torch.tensor(values, dtype=F64))
    .filter(lambda vector: vector.norm() > 1e-2)
)


@settings(deadline=None, max_examples=50)
@given(gradient=vectors, perturbed=vectors, alpha=st.floats(0, 2))
def test_what_is_taken_away_is_orthogonal_to_the_perturbed_gradient_and_lowers_the_descent_at_theta(
    gradient, perturbed, alpha
):
    removed = perturbed - gsam_descent({"w": gradient}, {"w": perturbed}, alpha)["w"]
    assert abs(float(removed @ perturbed)) < 1e-9
    assert float(removed @ gradient) > -1e-9
    remaining = alpha * gradient - removed
    torch.testing.assert_close(
        remaining, alpha * (gradient @ perturbed) / perturbed.square().sum() * perturbed, rtol=1e-9, atol=1e-9
    )


def test_alpha_zero_is_sam():
    gradient, perturbed = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([2.0, 1.0])}
    variant = gsam(rho=0.1, alpha=0.0)
    assert torch.equal(variant.ascent({}, gradient, Past({}))["w"], sam_ascent({}, gradient, rho=0.1)["w"])
    assert torch.equal(variant.descent(gradient, perturbed, Past({}))["w"], perturbed["w"])


def test_a_vanished_perturbed_gradient_leaves_finite_numbers():
    found = gsam_descent({"w": torch.tensor([1.0, 2.0])}, {"w": torch.zeros(2)}, alpha=0.5)
    torch.testing.assert_close(found["w"], torch.tensor([-0.5, -1.0]))
