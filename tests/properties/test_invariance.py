"""Names carry the structure: neither the order of parameters nor how S is written counts."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
from conformance import ALL
from hypothesis import given
from hypothesis import strategies as st
from optimizers import with_state

import vfunc

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 2**20)


def turned(entries):
    """The same entries, the last one first."""
    return dict(reversed(entries.items()))


def ids(case):
    return "-".join([case[0], *map(str, case[1].values())])


@pytest.mark.parametrize(("name", "options"), ALL, ids=[ids(case) for case in ALL])
@given(seed=SEEDS, case=st.sampled_from(cases.SMALL))
def test_the_order_of_parameters_does_not_count(name, options, seed, case):
    made = cases.situation(case, seed, "adamw")
    ask = vfunc.make_estimator(name, options)
    want = ask(made.problem, made.theta, made.phi)
    for state in (turned(made.problem.state), made.problem.state):  # in theta's new order or not
        problem = replace(made.problem, state=state)
        got = ask(problem, turned(made.theta), turned(made.phi))
        assert list(got.grad) == list(reversed(want.grad))
        assert measures.apart(got.grad, want.grad) <= 1e-9
        for one, other in ((got.value, want.value), (got.objective, want.objective)):
            assert float(one) == pytest.approx(float(other), rel=1e-9, abs=1e-14)


WRITTEN = {
    "all": ("all", "re:.*", lambda name, p: True),
    "last:1": ("last:1", r"re:^blocks\.1\.|^norm\.", lambda name, p: name.startswith(LAST)),
}
LAST = ("blocks.1.", "norm.")


@pytest.mark.parametrize("subset", WRITTEN)
@pytest.mark.parametrize(("name", "options"), ALL, ids=[ids(case) for case in ALL])
@given(seed=SEEDS)
def test_how_s_is_written_does_not_count(name, options, subset, seed):
    module = cases.seeded(cases.NormedNetwork, seed)
    found = []
    for written in WRITTEN[subset]:
        learner = vfunc.functional(module, written)
        made = cases._supervised(learner, measures.generator(seed), learner.theta, view=True)
        made = made.under(with_state("adamw", made.theta, seed))
        found.append(vfunc.make_estimator(name, options)(made.problem, made.theta, made.phi))
    for other in found[1:]:
        assert torch.equal(other.value, found[0].value)
        assert torch.equal(other.objective, found[0].objective)
        assert all(torch.equal(other.grad[n], x) for n, x in found[0].grad.items())


def test_the_last_block_of_a_transformer_by_its_pattern():
    module = cases.tiny_qwen2(0)
    pattern = r"re:^model\.layers\.1\.|^model\.norm\."
    assert vfunc.functional(module, "last:1").names == vfunc.functional(module, pattern).names
