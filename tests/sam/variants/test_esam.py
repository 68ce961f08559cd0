from __future__ import annotations

import pytest
import torch

from auditor.sam import Past, make_perturbation
from auditor.sam.variants.esam import esam_ascent, most_sensitive
from auditor.sam.variants.sam import sam_ascent

F64 = torch.float64
GRADIENT = {"a": torch.linspace(1, 2, 3000, dtype=F64), "b": torch.linspace(-1, 3, 2000, dtype=F64)}


def test_with_all_entries_and_all_samples_it_is_sam():
    epsilon = esam_ascent({}, GRADIENT, Past({}, 5), rho=0.1, beta=1.0)
    torch.testing.assert_close(epsilon, sam_ascent({}, GRADIENT, 0.1))
    given = torch.arange(8.0)
    assert torch.equal(most_sensitive(given, torch.rand(8), torch.rand(8), gamma=1.0), given)


def test_entries_are_kept_with_the_probability_and_made_longer_by_it():
    whole = sam_ascent({}, GRADIENT, 0.1)
    epsilon = esam_ascent({}, GRADIENT, Past({}, 5), rho=0.1, beta=0.6)
    kept = torch.cat([value != 0 for value in epsilon.values()])
    assert float(kept.double().mean()) == pytest.approx(0.6, abs=0.03)
    for name, value in epsilon.items():
        torch.testing.assert_close(value, torch.where(value != 0, whole[name] / 0.6, 0.0))


def test_the_seed_of_the_micro_batch_draws_the_entries():
    first, again, other = (esam_ascent({}, GRADIENT, Past({}, seed), 0.1, 0.5) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert any(bool(((value != 0) != (other[name] != 0)).any()) for name, value in first.items())


def test_those_whose_loss_grows_most_make_up_the_descent():
    losses, perturbed = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([1.5, 2.1, 3.9, 0.3])
    given = torch.tensor([1.0, 1.0, 0.5, 1.0])
    assert most_sensitive(given, perturbed, losses, gamma=0.5).tolist() == [2.0, 0.0, 1.0, 0.0]
    assert most_sensitive(given, perturbed, losses, gamma=0.01).tolist() == [0.0, 0.0, 2.0, 0.0]


def test_it_knows_its_settings():
    assert make_perturbation("esam", 0.1, beta=0.5, gamma=0.5).descent_weights is not None
