from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.func import hessian, jacrev, vmap
from torch.nn.functional import cross_entropy

from auditor.influence.hif import System, flatten, gauss_newton_product, row_products, transposed_product, unflatten
from auditor.sam import MicroBatch, Perturbation, State, make_perturbation
from auditor.sam.perturbation import forgetful
from auditor.sam.step import ascend, micro_batch_pass, sam_micro_batch
from tests.influence.networks import F64, inner, moved, network, samples, tangent

ROWS = 6
STEP = 1e-6  # for p = 3 ε bends sharply where a gradient is near zero


def theta_scaled(parameters, gradient, rho):
    """A perturbation that depends on θ as well as on g: ρ |θ|² g / ‖|θ| g‖."""
    scaled = {name: parameters[name].abs() * value for name, value in gradient.items()}
    norm = torch.sqrt(sum((value**2).sum() for value in scaled.values()))
    return {name: rho * parameters[name].abs() * value / norm for name, value in scaled.items()}


def grown(given, losses, beside):
    """Smooth weights of a pass: more for a sample whose loss is larger there than beside it."""
    return given * (2.0 * (losses - beside)).exp()


PERTURBATIONS = {
    "p-2": make_perturbation("sam", 0.1),
    "p-3": make_perturbation("sam", 0.1, p=3.0),
    "gsam": make_perturbation("gsam", 0.1, alpha=0.3),
    "sparse-sam": make_perturbation("sparse_sam", 0.1, density=0.3),
    "obf": make_perturbation("obf", 0.1, gamma=0.8, threshold=0.3),
    "friendly-sam": make_perturbation("friendly_sam", 0.1),
    "reweighted-sam": make_perturbation("reweighted_sam", 0.1, temperature=0.2),
    "esam": make_perturbation("esam", 0.1, gamma=0.75),
    "weighed-descent": replace(make_perturbation("sam", 0.1), descent_weights=grown),
    "weighed-twice": replace(make_perturbation("reweighted_sam", 0.1, temperature=0.2), descent_weights=grown),
    "weighed-descent-without-g": replace(make_perturbation("momentum_sam", 0.1), descent_weights=grown),
    "momentum-sam": make_perturbation("momentum_sam", 0.1),
    "look-sam-between": make_perturbation("look_sam", 0.1).at(1),
    "theta-scaled": Perturbation(forgetful(partial(theta_scaled, rho=0.1))),
}


WITHOUT_EPSILON = ("momentum-sam", "weighed-descent-without-g", "look-sam-between")
"""Those whose ε does not depend on θ and the samples of the step, or that have none."""


class Problem:
    """One micro-batch of a small network."""

    def __init__(self, norm="batch", activation="gelu"):
        self.net = network(norm, activation)
        self.parameters, self.buffers = self.net.parameters(), self.net.buffers()
        self.inputs, self.labels = samples(ROWS, seed=5)
        self.v = tangent(self.parameters)

    def batch(self, weights=None):
        return MicroBatch(self.inputs, self.labels, torch.ones(ROWS, dtype=F64) if weights is None else weights, 3)

    def sam_gradient(self, perturbation, parameters, weights=None):
        state = self.state(perturbation, parameters)
        return sam_micro_batch(self.net, state, self.batch(weights), perturbation).direction

    def state(self, perturbation, parameters=None):
        """With something in the memory of a variant that has one."""
        kept = perturbation.initial_memory(self.parameters)
        memory = {name: torch.linspace(-1, 2, value.numel(), dtype=F64).view_as(value) for name, value in kept.items()}
        return State(parameters or self.parameters, {}, self.buffers, memory=memory)

    def call(self, function, system, perturbation, vector):
        return function(system, self.net, self.state(perturbation), self.batch(), perturbation, vector)

    def along(self, field):
        """⟨v, d field/dθ u⟩ by central differences, along u."""
        u = tangent(self.parameters, seed=8)
        ahead, behind = (field(moved(self.parameters, u, sign * STEP)) for sign in (1, -1))
        return (inner(self.v, ahead) - inner(self.v, behind)) / (2 * STEP), u


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_full_system_is_the_transposed_jacobian_of_the_sam_gradient(name, norm):
    problem, perturbation = Problem(norm), PERTURBATIONS[name]
    numeric, u = problem.along(lambda at: problem.sam_gradient(perturbation, at))
    found = problem.call(transposed_product, System.FULL, perturbation, problem.v)
    assert inner(found, u) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_held_system_leaves_epsilon_and_the_first_gradient_where_they_are(name):
    problem, perturbation = Problem(), PERTURBATIONS[name]
    state = problem.state(perturbation)
    first, perturbed = ascend(problem.net, state, problem.batch(), perturbation)
    gradient = first.gradient
    epsilon = {key: value - problem.parameters[key] for key, value in perturbed.items()}
    still = replace(
        perturbation,
        ascent=lambda *_: epsilon,
        descent=lambda now, moved, past: perturbation.descent(gradient if perturbation.perturbs else now, moved, past),
        descent_weights=None
        if (weighing := perturbation.descent_weights) is None
        else lambda given, moved, _: weighing(given, moved, first.losses),
    )
    numeric, u = problem.along(lambda at: problem.sam_gradient(still, at))
    found = problem.call(transposed_product, System.HELD, perturbation, problem.v)
    assert inner(found, u) == pytest.approx(numeric, rel=1e-5)


def test_the_plain_system_is_the_hessian_without_perturbation():
    problem = Problem()
    nothing = make_perturbation("sam", 0.0)
    numeric, u = problem.along(lambda at: problem.sam_gradient(nothing, at))
    found = problem.call(transposed_product, System.PLAIN, PERTURBATIONS["p-2"], problem.v)
    assert inner(found, u) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_both_parts_of_a_rows_product_make_up_the_derivative_in_its_weight(name):
    problem, perturbation = Problem(), PERTURBATIONS[name]
    held, through = problem.call(row_products, System.FULL, perturbation, problem.v)
    for row in range(ROWS):
        sides = []
        for sign in (1, -1):
            weights = torch.ones(ROWS, dtype=F64)
            weights[row] += sign * STEP
            sides.append(inner(problem.v, problem.sam_gradient(perturbation, problem.parameters, weights)))
        assert float(held[row] + through[row]) == pytest.approx((sides[0] - sides[1]) / (2 * STEP), rel=1e-5, abs=1e-9)
    assert (float(through.abs().max()) > 1e-3 * float(held.abs().max())) == (name not in WITHOUT_EPSILON)


def test_rows_of_the_plain_system_have_no_part_through_epsilon():
    problem = Problem("none")
    held, through = problem.call(row_products, System.PLAIN, PERTURBATIONS["p-2"], problem.v)
    assert not through.any()
    for row in range(ROWS):
        one = MicroBatch(problem.inputs[row : row + 1], problem.labels[row : row + 1], torch.ones(1, dtype=F64), 3)
        gradient = micro_batch_pass(problem.net, problem.parameters, problem.buffers, one).gradient
        assert float(held[row]) == pytest.approx(inner(gradient, problem.v) / ROWS)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_gauss_newton_product_equals_the_dense_matrix(norm):
    problem = Problem(norm)

    def logits(parameters):
        return problem.net.train(parameters, problem.buffers, problem.inputs, 3)[0]

    jacobians = jacrev(logits)(problem.parameters)
    jacobian = torch.cat([value.flatten(2) for value in jacobians.values()], dim=2)  # [m, classes, p]
    inner_hessian = vmap(hessian(cross_entropy))(logits(problem.parameters).detach(), problem.labels)
    dense = torch.einsum("kcp,kcd,kdq->pq", jacobian, inner_hessian, jacobian) / ROWS
    found = gauss_newton_product(problem.net, problem.parameters, problem.buffers, problem.batch(), problem.v)
    torch.testing.assert_close(flatten(found), dense @ flatten(problem.v), rtol=1e-9, atol=1e-12)
    assert inner(found, problem.v) > 0


@pytest.mark.parametrize("name", ["p-2", "obf", "friendly-sam"])
def test_the_held_gauss_newton_matrix_stands_at_the_perturbed_parameters(name):
    problem, perturbation = Problem(), PERTURBATIONS[name]
    _, perturbed = ascend(problem.net, problem.state(perturbation), problem.batch(), perturbation)
    expected = gauss_newton_product(problem.net, perturbed, problem.buffers, problem.batch(), problem.v)
    found = problem.call(transposed_product, System.HELD_GAUSS_NEWTON, perturbation, problem.v)
    torch.testing.assert_close(flatten(found), flatten(expected))


def test_a_vector_and_named_tensors_are_the_same_thing():
    parameters = network().parameters()
    back = unflatten(flatten(parameters), parameters)
    assert list(back) == list(parameters)
    for name, value in parameters.items():
        torch.testing.assert_close(back[name], value)
