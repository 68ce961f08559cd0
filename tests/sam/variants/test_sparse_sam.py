from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.sam import Past
from auditor.sam.variants.sam import sam_ascent
from auditor.sam.variants.sparse_sam import sparse_sam, sparse_sam_ascent

F64 = torch.float64
GRADIENT = {"a": torch.tensor([3.0, 0.5, -1.0], dtype=F64), "b": torch.tensor([[-4.0, 0.0]], dtype=F64)}


def test_perturbation_by_hand():
    """Two of five entries: the largest of all parameters together, SAM's scale untouched by what is left out."""
    norm = (9 + 0.25 + 1 + 16) ** 0.5
    epsilon = sparse_sam_ascent({}, GRADIENT, rho=0.5, density=0.4)
    torch.testing.assert_close(epsilon["a"], torch.tensor([0.5 * 3 / norm, 0.0, 0.0], dtype=F64))
    torch.testing.assert_close(epsilon["b"], torch.tensor([[0.5 * -4 / norm, 0.0]], dtype=F64))


def test_everything_moves_at_density_one_which_is_sam():
    epsilon = sparse_sam(rho=0.2, density=1.0).ascent({}, GRADIENT, Past({}))
    for name, value in sam_ascent({}, GRADIENT, rho=0.2).items():
        assert torch.equal(epsilon[name], value)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), density=st.floats(0.01, 1.0))
def test_the_mask_keeps_its_share_and_no_choice_of_as_many_entries_climbs_more(seed, density):
    gradient = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=F64)
    epsilon = sparse_sam_ascent({}, {"w": gradient}, rho=0.1, density=density)["w"]
    kept = int((epsilon != 0).sum())
    assert kept == max(1, round(density * 40))
    largest = gradient.abs().sort(descending=True).values[:kept]
    assert float(epsilon @ gradient) == pytest.approx(0.1 * float(largest.square().sum() / gradient.norm()))


def test_entries_of_one_size_move_together():
    epsilon = sparse_sam_ascent({}, {"w": torch.tensor([1.0, -1.0, 1.0, 0.5])}, rho=0.1, density=0.25)["w"]
    assert (epsilon != 0).tolist() == [True, True, True, False]


def test_a_vanishing_gradient_gives_zero():
    assert not sparse_sam_ascent({}, {"w": torch.zeros(3)}, rho=0.1, density=0.5)["w"].any()
