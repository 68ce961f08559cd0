from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.influence.solvers import SOLVERS, UnsolvableError, bicgstab, cg, gmres, neumann

F64 = torch.float64
SHIFTS = [0.003, 0.01, 0.1, 1.0]


def matrix(size, seed=0, lowest=0.05, skew=0.0):
    """A positive definite matrix with eigenvalues from `lowest` to 5, plus a skew part that makes it non-symmetric."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64))
    noise = torch.randn(size, size, generator=generator, dtype=F64)
    return basis @ torch.diag(torch.linspace(lowest, 5.0, size, dtype=F64)) @ basis.T + skew * (noise - noise.T)


def right_side(size, seed=1):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(a, b, shift):
    return torch.linalg.solve(a + shift * torch.eye(len(b), dtype=F64), b)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_equals_a_dense_solve_at_every_shift(name):
    a, b = matrix(12, skew=0.0 if name == "cg" else 0.1), right_side(12)
    found = SOLVERS[name](lambda v: a @ v, b, SHIFTS, 3000, 1e-9)
    for shift, solution in zip(SHIFTS, found, strict=True):
        assert solution.converged
        assert solution.residual <= 1e-9
        torch.testing.assert_close(solution.vector, dense(a, b, shift), rtol=1e-6, atol=1e-6)


@given(size=st.integers(1, 9), seed=st.integers(0, 50), tolerance=st.sampled_from([1e-1, 1e-4, 1e-8]))
@settings(max_examples=40, deadline=None)
def test_the_reported_residual_is_that_of_the_system_and_decides_convergence(size, seed, tolerance):
    a, b = matrix(size, seed, skew=0.3), right_side(size, seed + 1)
    for solution, shift in zip(gmres(lambda v: a @ v, b, SHIFTS, size, tolerance), SHIFTS, strict=True):
        left = b - a @ solution.vector - shift * solution.vector
        assert solution.residual == pytest.approx(float(left.norm() / b.norm()), rel=1e-6, abs=1e-14)
        assert solution.converged == (solution.residual <= tolerance)
        assert solution.iterations <= size


@pytest.mark.parametrize("solver", [gmres, cg], ids=["gmres", "cg"])
def test_one_basis_for_all_shifts_equals_separate_solves(solver):
    a, b = matrix(20), right_side(20)
    counted = []

    def product(vector):
        counted.append(1)
        return a @ vector

    together = solver(product, b, SHIFTS, 20, 1e-11)
    assert len(counted) <= 20 + len(SHIFTS)
    for shift, solution in zip(SHIFTS, together, strict=True):
        (alone,) = solver(lambda v: a @ v, b, [shift], 20, 1e-11)
        torch.testing.assert_close(solution.vector, alone.vector, rtol=1e-7, atol=1e-8)


def test_gmres_solves_indefinite_systems_too():
    a = matrix(10, lowest=-2.0)
    (found,) = gmres(lambda v: a @ v, right_side(10), [0.01], 10, 1e-9)
    torch.testing.assert_close(found.vector, dense(a, right_side(10), 0.01), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", [gmres, bicgstab, cg], ids=["gmres", "bicgstab", "cg"])
def test_too_few_iterations_are_reported_as_not_converged(solver):
    a, b = matrix(30), right_side(30)
    (found,) = solver(lambda v: a @ v, b, [0.0], 4, 1e-8)
    assert not found.converged
    assert found.residual > 1e-8
    assert found.iterations <= 4


def test_an_invariant_space_ends_the_basis_early():
    a, b = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64)), torch.tensor([1.0, 1.0, 0.0], dtype=F64)
    (found,) = gmres(lambda v: a @ v, b, [0.0], 3, 1e-14)
    assert found.iterations == 2
    np.testing.assert_allclose(found.vector, [1.0, 0.5, 0.0], rtol=1e-12)


def test_a_neumann_series_outside_the_unit_disc_is_refused_in_a_sentence():
    a = matrix(10, lowest=-0.5)
    with pytest.raises(UnsolvableError, match=r"does not converge .* eigenvalue near -0\.5"):
        neumann(lambda v: a @ v, right_side(10), [0.1], 100, 1e-3)
    (found,) = neumann(lambda v: a @ v, right_side(10), [0.6], 1000, 1e-6)
    assert found.converged


def test_conjugate_gradients_refuse_a_matrix_that_is_not_positive_definite():
    a = matrix(10, lowest=-3.0)
    with pytest.raises(FloatingPointError, match="positive curvature"):
        cg(lambda v: a @ v, right_side(10), [0.1], 100, 1e-8)


@pytest.mark.parametrize("solver", [gmres, cg], ids=["gmres", "cg"])
def test_products_that_are_no_numbers_stop_the_solver(solver):
    with pytest.raises(FloatingPointError):
        solver(lambda v: v * torch.nan, right_side(5), [0.1], 5, 1e-3)
