"""The allocation counter against storages that are counted by hand."""

from __future__ import annotations

import torch

from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.trees import tangent_along

CPU = torch.device("cpu")

MEGA = 2**20


def test_it_counts_what_lives_and_the_most_that_did():
    with counting_peak(CPU) as counter:
        kept = torch.zeros(MEGA, dtype=torch.uint8)
        for _ in range(3):
            gone = kept + 1  # the old one lives until the new one is there
        assert counter.live == 2 * MEGA
        del gone
        assert counter.live == MEGA
    assert counter.peak == 3 * MEGA
    del kept
    assert counter.live == 0


def test_views_and_in_place_operations_take_no_memory():
    x = torch.zeros(MEGA, dtype=torch.uint8)
    with counting_peak(CPU) as counter:
        x.view(-1, 2).t()[0].add_(1)
        assert counter.peak == 0


def test_a_storage_that_grows_in_place_counts_as_far_as_it_grew():
    there = torch.zeros(MEGA, dtype=torch.uint8)
    source = torch.zeros(3 * MEGA, dtype=torch.uint8)
    with counting_peak(CPU) as counter:
        made = torch.zeros(MEGA, dtype=torch.uint8)
        made.resize_(2 * MEGA)
        assert counter.live == 2 * MEGA
        there.resize_(3 * MEGA)
        assert counter.live == 4 * MEGA
        empty = torch.empty(0, dtype=torch.uint8)
        torch.neg(source, out=empty)
        assert counter.live == 7 * MEGA
        torch.neg(source, out=empty)  # there is room
        assert counter.live == 7 * MEGA
    assert counter.peak == 7 * MEGA
    del made, empty
    assert counter.live == 2 * MEGA
    del there
    assert counter.live == 0


def test_it_sees_what_a_graph_keeps_and_a_transform_makes():
    x = torch.randn(MEGA // 4, requires_grad=True)
    with counting_peak(CPU) as counter:
        y = x
        for _ in range(4):
            y = torch.tanh(y)  # each output is saved for the backward pass
        assert counter.live == 4 * MEGA
    with counting_peak(CPU) as transformed:
        at = {"x": x.detach()}
        tangent_along(lambda at: torch.tanh(at["x"]), at, at)
    assert transformed.peak >= 2 * MEGA  # the value and its tangent


def test_a_storage_that_is_resized_by_itself_is_seen_when_it_is_next_taken():
    with counting_peak(CPU) as counter:
        made = torch.zeros(2 * MEGA, dtype=torch.uint8)
        made.untyped_storage().resize_(0)  # as sharded parameters are freed
        made[:0] + 1
        assert counter.live == 0
        made.untyped_storage().resize_(3 * MEGA)
        made.add_(1)
        assert counter.live == counter.peak == 3 * MEGA
    del made
    assert counter.live == 0
