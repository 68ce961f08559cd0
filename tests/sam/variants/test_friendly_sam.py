from __future__ import annotations

import torch

from auditor.sam import Past, make_perturbation
from auditor.sam.variants.friendly_sam import friendly_ascent, next_average
from auditor.sam.variants.sam import sam_ascent

F64 = torch.float64
PARAMETERS = {"w": torch.tensor([1.0, 2.0], dtype=F64)}
GRADIENT = {"w": torch.tensor([3.0, 6.0], dtype=F64)}
PAST = Past({"average.w": torch.tensor([0.0, 4.0], dtype=F64)})


def test_perturbation_by_hand():
    """g − σ e = (3, 6 − 0.5 · 4) = (3, 4), of norm 5."""
    epsilon = friendly_ascent(PARAMETERS, GRADIENT, PAST, rho=0.1, sigma=0.5)
    torch.testing.assert_close(epsilon["w"], torch.tensor([0.06, 0.08], dtype=F64))


def test_without_sigma_it_is_sam():
    epsilon = friendly_ascent(PARAMETERS, GRADIENT, PAST, rho=0.1, sigma=0.0)
    torch.testing.assert_close(epsilon, sam_ascent(PARAMETERS, GRADIENT, 0.1))


def test_the_average_is_the_authors_from_the_first_step_on():
    """e₁ = g₁, e₂ = λ e₁ + (1 − λ) g₂, e₃ = λ e₂ + (1 − λ) g₃; each step ascends with the one before."""
    variant = make_perturbation("friendly_sam", 0.1, sigma=1.0, decay=0.9)
    gradients = [torch.tensor([1.0, step], dtype=F64) for step in (1.0, -2.0, 5.0)]
    memory = variant.initial_memory(PARAMETERS)
    for step, gradient in enumerate(gradients):
        memory = variant.at(step).remember({"w": gradient}, {}, Past(memory))
    expected = 0.9 * (0.9 * gradients[0] + 0.1 * gradients[1]) + 0.1 * gradients[2]
    torch.testing.assert_close(memory["average.w"], expected)


def test_an_average_of_one_and_the_same_gradient_is_that_gradient():
    found = next_average(GRADIENT, {}, Past({"average.w": GRADIENT["w"]}), decay=0.7)
    torch.testing.assert_close(found["average.w"], GRADIENT["w"])


def test_a_batch_like_all_before_is_not_perturbed():
    epsilon = friendly_ascent(PARAMETERS, GRADIENT, Past({"average.w": GRADIENT["w"]}), rho=0.1, sigma=1.0)
    assert not bool(epsilon["w"].any())
