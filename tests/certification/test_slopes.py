"""Finite differences that know how good they are."""

from __future__ import annotations

import math

import pytest
import torch

from vfunc.certification.slopes import slope


@pytest.mark.parametrize(
    ("function", "expected"),
    [(torch.sin, 1.0), (lambda x: torch.exp(3 * x), 3.0), (lambda x: torch.tanh(x - 0.4), None)],
)
def test_a_smooth_slope_is_found_within_its_own_error(function, expected):
    expected = 1 - math.tanh(0.4) ** 2 if expected is None else expected
    found = slope(lambda h: function(torch.tensor(h, dtype=torch.float64)))
    assert abs(float(found.value) - expected) <= found.error <= 1e-8


def test_a_vector_has_a_slope_in_every_entry():
    rates = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = slope(lambda h: torch.exp(rates * h))
    assert torch.allclose(found.value, rates, rtol=0, atol=found.error + 1e-15)


def test_it_stops_when_that_is_good_enough():
    def cubed(h):
        return torch.tensor((1 + h) ** 5, dtype=torch.float64)

    assert slope(cubed, enough=1e-4).evaluations < slope(cubed).evaluations


def test_measured_noise_enters_the_error():
    draw = torch.Generator().manual_seed(0)

    def noisy(h):
        return torch.tensor(math.sin(h)) + 1e-4 * torch.randn((), generator=draw)

    found = slope(noisy, unit=torch.finfo(torch.float32).eps, measure_noise=True)
    assert abs(float(found.value) - 1) <= found.error
    assert found.error > 1e-4


def test_what_is_not_finite_has_no_slope():
    assert slope(lambda h: torch.tensor(float("nan"))).error == math.inf
