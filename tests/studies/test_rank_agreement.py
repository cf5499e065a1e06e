"""Correlations, slope, regret and their bootstrap, against slow references and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vfunc.studies.score.rank_agreement import (
    Paired,
    agreement,
    correlation,
    draws_of,
    lost_by_picking,
    rank_correlation,
)

SOURCE = np.random.default_rng(3)


def pair(count, draws=1, ties=False):
    predicted, effect = SOURCE.normal(size=(draws, count)), SOURCE.normal(size=count)
    return Paired(predicted.round() if ties else predicted, effect.round() if ties else effect)


def score(pairs, repeats=50):
    return agreement(pairs, draws_of([len(p.effect) for p in pairs], repeats, 0))


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties):
    one = pair(12, ties=ties)
    p, e = one.predicted[0], one.effect
    both = one.predicted, e[None]
    assert rank_correlation(*both)[0] == pytest.approx(stats.spearmanr(p, e).statistic)
    assert correlation(*both)[0] == pytest.approx(stats.pearsonr(p, e).statistic)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9])
def test_predictions_that_do_not_differ_score_zero_and_pick_blindly(value):
    effect = np.array([1.0, -2.0, 0.5])
    found = score([Paired(np.full((1, 3), value), effect)])
    assert found.spearman.value == found.pearson.value == found.slope.value == 0
    if value == 0:  # the text as it is is as good
        assert found.regret.value == pytest.approx(1.0)
        assert found.lost.value == pytest.approx(1.0 - (1 - 2 + 0.5 + 0) / 4)


def test_the_text_as_it_is_can_be_picked_and_can_be_best():
    bad = np.array([[-1.0, -3.0], [-1.0, -3.0]])
    lost, blind = lost_by_picking(np.array([[-0.1, -0.2], [0.1, 0.2]]), bad)
    assert lost == pytest.approx([0.0, 3.0]) and blind == pytest.approx([4 / 3, 4 / 3])


def test_a_sign_turns_every_figure_around():
    effect = SOURCE.normal(size=20)
    right = score([Paired(effect[None] * 3, effect)])
    wrong = score([Paired(effect[None] * -3, effect)])
    assert right.spearman.value == right.pearson.value == pytest.approx(1)
    assert right.slope.value == pytest.approx(1 / 3)
    assert wrong.spearman.value == wrong.pearson.value == pytest.approx(-1)
    assert wrong.slope.value == pytest.approx(-1 / 3)
    assert right.regret.value == 0 and wrong.regret.value > 1
    assert right.spearman.low == right.spearman.high == pytest.approx(1)


def test_the_bootstrap_is_the_slow_one():
    pairs = [pair(7), pair(9, draws=3), pair(5)]
    draws = draws_of([7, 9, 5], 40, 11)
    found = agreement(pairs, draws)
    taken = [iter(tasks) for tasks in draws.tasks]
    spearman, slope, regret = [], [], []
    for states in draws.states:
        rhos, together, alone, lost, blind = [], 0.0, 0.0, 0.0, 0.0
        for s in states:
            tasks = next(taken[s])
            e = pairs[s].effect[tasks]
            each = [p[tasks] for p in pairs[s].predicted]
            rhos.append(np.mean([stats.spearmanr(p, e).statistic for p in each]))
            together += np.mean([np.sum((p - p.mean()) * (e - e.mean())) for p in each])
            alone += np.mean([np.sum((p - p.mean()) ** 2) for p in each])
            for p in each:
                whole_p, whole_e = [*p, 0.0], [*e, 0.0]
                picked = [x for x, y in zip(whole_e, whole_p, strict=True) if y == max(whole_p)]
                lost += (max(whole_e) - np.mean(picked)) / len(each)
                blind += (max(whole_e) - np.mean(whole_e)) / len(each)
        spearman.append(np.mean(rhos))
        slope.append(together / alone)
        regret.append(lost / blind)
    for name, slow in (("spearman", spearman), ("slope", slope), ("regret", regret)):
        figure = getattr(found, name)
        assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))))
    means = [np.mean([stats.spearmanr(p, q.effect).statistic for p in q.predicted]) for q in pairs]
    assert found.spearman.value == pytest.approx(np.mean(means))


def test_states_are_drawn_too():
    """Two states that disagree: an interval over tasks alone would not hold both."""
    effect = np.arange(30.0)
    found = score([Paired(effect[None], effect), Paired(-effect[None], effect)], repeats=200)
    assert found.spearman.value == 0
    assert (found.spearman.low, found.spearman.high) == (pytest.approx(-1), pytest.approx(1))
