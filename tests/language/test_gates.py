from __future__ import annotations

import pytest
import torch

from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.gates import gate_notes
from vfunc.language.soft_targets.targets import mix
from vfunc.processes import ALONE, Processes


def batch_of(predict, wrong=None, domains=None) -> TokenBatch:
    predict = torch.tensor(predict, dtype=torch.bool)
    rows, columns = predict.shape
    mistaken = torch.zeros_like(predict) if wrong is None else torch.tensor(wrong, dtype=torch.bool)
    return TokenBatch(
        torch.zeros(rows, columns + 1, dtype=torch.long),
        predict,
        mistaken,
        None if domains is None else torch.tensor(domains),
    )


class Told(dict):
    """Means, and of how many tokens they are."""

    def __init__(self, means, counts):
        super().__init__(means)
        self.counts = counts


def notes(alpha, batch, *sources, processes=ALONE):
    """Of gates that move what they open for to one other token."""
    alpha = torch.tensor(alpha, dtype=torch.float64)
    q = mix(alpha, torch.tensor([0.0, 1.0], dtype=torch.float64).expand(*alpha.shape, 2))
    means, counts = gate_notes(alpha, q, batch, sources, processes)
    assert means.keys() == counts.keys()
    return Told(means, counts)


ALPHA = [[0.1, 0.2, 0.9], [0.4, 0.6, 0.8]]
PREDICT = [[1, 1, 0], [1, 1, 1]]


def test_means_are_over_predicted_tokens_alone():
    told = notes(ALPHA, batch_of(PREDICT))
    assert told == {"gate": pytest.approx(0.42), "moved": pytest.approx(0.42)}


def test_mistaken_tokens_are_told_apart():
    told = notes(ALPHA, batch_of(PREDICT, wrong=[[1, 0, 1], [0, 0, 1]]))
    assert told["gate_on_wrong"] == pytest.approx(0.45)
    assert told["gate_on_right"] == pytest.approx(0.4)
    assert told.counts == {"gate": 5, "moved": 5, "gate_on_wrong": 2, "gate_on_right": 3}


def test_sources_are_told_apart():
    told = notes(ALPHA, batch_of(PREDICT, domains=[1, 0]), "a", "b", "c")
    assert told["gate_of/a"] == pytest.approx(0.6)
    assert told["gate_of/b"] == pytest.approx(0.15)
    assert "gate_of/c" not in told
    alone = notes(ALPHA, batch_of(PREDICT), "a", "b")
    assert alone["gate_of/a"] == pytest.approx(0.42) and "gate_of/b" not in alone


def test_gates_of_nothing_are_not_told():
    """A batch whose predictions are all cut off, or all mistaken: no means of no tokens."""
    quarter = [[0.25] * 3] * 2
    assert notes(quarter, batch_of([[0, 0, 0], [0, 0, 0]], domains=[0, 1]), "a", "b") == {}
    wrong = batch_of(PREDICT, wrong=PREDICT)
    assert notes(quarter, wrong) == {"gate": 0.25, "moved": 0.25, "gate_on_wrong": 0.25}
    outside = batch_of(PREDICT, wrong=[[0, 0, 1], [0, 0, 0]])
    assert notes(quarter, outside) == {"gate": 0.25, "moved": 0.25}


class Two(Processes):
    """Two processes that hold the same part."""

    def totals(self, *numbers):
        return tuple(2 * n for n in numbers)


@pytest.mark.parametrize("wrong", [None, [[1, 0, 1], [0, 0, 1]], PREDICT])
@pytest.mark.parametrize("domains", [None, [1, 0]])
def test_several_processes_tell_what_one_does(wrong, domains):
    two = Two(size=2)
    batch = batch_of(PREDICT, wrong, domains)
    told = notes(ALPHA, batch, "a", "b", processes=two)
    alone = notes(ALPHA, batch, "a", "b")
    assert told == pytest.approx(alone)
    assert told.counts == {name: 2 * count for name, count in alone.counts.items()}
    assert notes(ALPHA, batch_of([[0] * 3] * 2), "a", "b", processes=two) == {}
