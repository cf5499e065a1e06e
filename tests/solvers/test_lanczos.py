"""The look for negative eigenvalues from a random start."""

from __future__ import annotations

import measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vfunc
from vfunc.solvers import smallest_ritz_value

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)


def product(matrix):
    """x -> A x for x of two names, read in the order a, b."""

    def matvec(x):
        y = matrix @ torch.cat([x["a"], x["b"]])
        parts = {"a": y[: len(x["a"])], "b": y[len(x["a"]) :]}
        return {name: parts[name] for name in x}

    return matvec


def symmetric(seed, eigenvalues):
    """A matrix with these eigenvalues in a random basis."""
    n = len(eigenvalues)
    basis, _ = torch.linalg.qr(measures.normal(measures.generator(seed), n, n))
    return basis @ torch.diag(eigenvalues) @ basis.T


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@given(seed=SEEDS)
def test_it_is_the_smallest_value_on_the_krylov_space(steps, seed):
    matrix = symmetric(seed, torch.linspace(-0.5, 4.0, 8))
    like = {"a": torch.zeros(3), "b": torch.zeros(5)}
    value, spent = smallest_ritz_value(product(matrix), like, steps=steps, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    start = torch.cat([torch.randn(n, generator=draw, dtype=torch.float64) for n in (3, 5)])
    powers = [torch.linalg.matrix_power(matrix, k) @ start for k in range(steps)]
    basis, _ = torch.linalg.qr(torch.stack(powers, -1))
    want = torch.linalg.eigvalsh(basis.T @ matrix @ basis)[0]
    assert value == pytest.approx(float(want), rel=1e-8)
    assert value >= -0.5 - 1e-12
    assert spent == steps


@given(seed=SEEDS)
def test_it_stops_where_the_space_is_exhausted_and_is_then_an_eigenvalue(seed):
    matrix = symmetric(seed, torch.tensor([-1.5, 2.0, 2.0, 2.0, 2.0]))
    like = {"a": torch.zeros(2), "b": torch.zeros(3)}
    value, spent = smallest_ritz_value(product(matrix), like, steps=5, seed=seed)
    assert value == pytest.approx(-1.5)
    assert spent == 2


def test_the_start_follows_the_seed_and_not_the_order_of_parameters():
    matrix = product(symmetric(1, torch.linspace(0.1, 4.0, 8)))
    like = {"a": torch.zeros(3), "b": torch.zeros(5)}
    turned = {"b": like["b"], "a": like["a"]}
    value, _ = smallest_ritz_value(matrix, like, steps=2, seed=1)
    assert smallest_ritz_value(matrix, turned, steps=2, seed=1)[0] == pytest.approx(value)
    assert abs(smallest_ritz_value(matrix, like, steps=2, seed=2)[0] - value) > 1e-3


@pytest.mark.parametrize(
    ("negative", "steps", "found"), [(-1.0, 3, 10), (-0.1, 6, 9), (-0.03, 10, 9)]
)
def test_what_stands_out_is_found_in_few_steps(negative, steps, found):
    """999 eigenvalues that fall as 1 / j from 1, and one below zero."""
    spectrum = torch.cat([torch.tensor([negative]), 1 / torch.arange(1.0, 1000.0)])

    def matvec(x):
        return {"x": spectrum * x["x"]}

    like = {"x": torch.zeros(1000)}
    values = [smallest_ritz_value(matvec, like, steps=steps, seed=s)[0] for s in range(10)]
    assert sum(value < 0 for value in values) >= found
    assert min(values) >= negative - 1e-12


def test_no_steps_are_refused():
    with pytest.raises(vfunc.UserError, match="needs steps >= 1, not 0"):
        smallest_ritz_value(lambda x: x, {"x": torch.ones(2)}, steps=0)
