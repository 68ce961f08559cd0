from __future__ import annotations

import pytest
import torch
from torch.func import hessian, jacrev

from auditor.sam import MicroBatch, Past, make_perturbation
from auditor.sam.perturbation import sample_losses
from auditor.sam.step import micro_batch_pass
from auditor.sam.variants.obf import obf_losses
from tests.influence.networks import F64, network, samples

LOGITS = torch.tensor([[4.0, 0.0, -1.0], [0.1, 0.0, 0.2], [-3.0, 2.0, 1.0], [0.0, 0.0, 9.0]], dtype=F64)
LABELS = torch.tensor([0, 1, 0, 2])


def stated(logits, labels, gamma, threshold, hold):
    """(1 − α) CE(p, y) − CE(p, u) as it is written."""
    likely = logits.softmax(dim=1)
    own = likely[torch.arange(len(labels)), labels]
    alpha = gamma * ((1 - threshold / own) / (1 - threshold)).clamp_min(0)
    alpha = alpha.detach() if hold else alpha
    return -(1 - alpha) * own.log() + likely.log().mean(dim=1)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4])
def test_the_gradient_is_that_of_the_stated_loss_with_alpha_held(gamma, threshold):
    logits = LOGITS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(stated(logits, LABELS, gamma, threshold, hold=True).sum(), logits)
    (found,) = torch.autograd.grad(obf_losses(logits, LABELS, gamma, threshold).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_the_gradient_in_the_logits_by_hand():
    """(u − α p − (1 − α) e_y), as in the authors' code; two samples are more certain than λ, two are not."""
    gamma, threshold = 0.8, 0.4
    found = jacrev(lambda logits: obf_losses(logits, LABELS, gamma, threshold).sum())(LOGITS)
    for row, (logits, label) in enumerate(zip(LOGITS, LABELS, strict=True)):
        likely = logits.softmax(dim=0)
        alpha = gamma * max(0.0, (1 - threshold / float(likely[label])) / (1 - threshold))
        assert (alpha > 0) == (row in (0, 3))
        expected = torch.full((3,), 1 / 3, dtype=F64) - alpha * likely
        expected[label] -= 1 - alpha
        torch.testing.assert_close(found[row], expected)


def test_the_hessian_is_the_derivative_of_that_gradient_alpha_moving():
    logits, label = LOGITS[1:2], LABELS[1:2]

    def gradient(at):
        likely = at.softmax(dim=1)
        alpha = 0.8 * (1 - 0.2 / likely[0, label]) / (1 - 0.2)
        own = torch.zeros_like(at).index_fill(1, label, 1.0)
        return 1 / 3 - alpha * likely - (1 - alpha) * own

    found = hessian(lambda at: obf_losses(at, label, 0.8, 0.2).sum())(logits)
    torch.testing.assert_close(found, jacrev(gradient)(logits))
    held = hessian(lambda at: stated(at, label, 0.8, 0.2, hold=True).sum())(logits)
    assert float((found - held).abs().max()) > 1e-3


def test_one_sample_of_two_classes_is_perturbed_as_by_sam():
    """With two classes there is but one way to be less certain, down the margin."""
    net = network("none")
    inputs = samples(1)[0]
    batch = MicroBatch(inputs, torch.tensor([0]), torch.ones(1, dtype=F64), 0)

    def epsilon(name, loss_of):
        def of_two(logits, labels):
            return loss_of(logits[:, :2], labels)

        gradient = micro_batch_pass(net, net.parameters(), {}, batch, of_two).gradient
        return make_perturbation(name, 0.1).ascent(net.parameters(), gradient, Past({}))

    forgetting, plain = epsilon("obf", make_perturbation("obf", 0.1).ascent_loss), epsilon("sam", sample_losses)
    for name, value in plain.items():
        torch.testing.assert_close(forgetting[name], value)


def test_losses_beyond_any_power_stay_finite():
    logits = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    for threshold in (0.0, 0.1):
        (found,) = torch.autograd.grad(obf_losses(logits, torch.tensor([0]), 1.0, threshold).sum(), logits)
        assert bool(found.isfinite().all())
