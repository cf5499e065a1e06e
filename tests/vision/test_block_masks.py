"""I-JEPA's blocks: rectangles that hide, and a context that does not see them."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from tiny_learners import generator

from vfunc.errors import UserError
from vfunc.vision.objectives.block_masks import BlockMasks


def rectangle(indices, columns):
    """(rows, columns) of the rectangle that patches fill, or None if they fill none."""
    rows = [i // columns for i in indices]
    along = [i % columns for i in indices]
    high, wide = max(rows) - min(rows) + 1, max(along) - min(along) + 1
    return (high, wide) if high * wide == len(set(indices)) == len(indices) else None


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.integers(4, 17), st.integers(4, 17), st.integers(1, 9), st.integers(0, 99))
def test_blocks_are_what_they_say(rows, columns, count, seed):
    blocks = BlockMasks().sample(count, (rows, columns), generator(seed))
    assert blocks.targets.shape[:2] == (count, 4)
    assert blocks.context.shape[0] == count and blocks.context.shape[1] >= 1
    assert len({rectangle(t, columns) for p in blocks.targets.tolist() for t in p}) == 1
    assert None not in {rectangle(t, columns) for p in blocks.targets.tolist() for t in p}
    for context, targets in zip(blocks.context.tolist(), blocks.targets.tolist(), strict=True):
        assert sorted(set(context)) == context
        assert min(context) >= 0 and max(context) < rows * columns
        assert not set(context) & {i for block in targets for i in block}


def test_sizes_are_the_shares_asked_for():
    shares, aspects, contexts = [], [], []
    for seed in range(200):
        blocks = BlockMasks().sample(1, (20, 20), generator(seed))
        high, wide = rectangle(blocks.targets[0, 0].tolist(), 20)
        shares.append(high * wide / 400)
        aspects.append(high / wide)
        covered = len(set(blocks.targets.flatten().tolist()))
        contexts.append((blocks.context.shape[1] + covered) / 400)
    assert 0.135 < min(shares) < 0.155 and 0.19 < max(shares) < 0.21
    assert 0.65 < min(aspects) < 0.85 and 1.3 < max(aspects) < 1.7
    # what targets leave of a context of 0.85 to 1 of all patches (18 of 20 along a side at least)
    assert min(contexts) > 0.8 and max(contexts) <= 1
    # scale and aspect are drawn apart
    assert abs(torch.corrcoef(torch.tensor([shares, aspects]))[0, 1]) < 0.3


def test_every_patch_is_seen_and_hidden_as_often_as_its_mirror_image():
    blocks = BlockMasks().sample(4000, (6, 6), generator())
    hidden = blocks.targets.flatten().bincount(minlength=36).view(6, 6) / 4000
    seen = blocks.context.flatten().bincount(minlength=36).view(6, 6) / 4000
    for often in (hidden, seen):
        assert often.min() > 0
        assert (often - often.flip(0)).abs().max() < 0.05
        assert (often - often.flip(1)).abs().max() < 0.05


def test_contexts_are_trimmed_to_the_shortest_and_no_further():
    for seed in range(20):
        many = BlockMasks(context_scale=(1.0, 1.0)).sample(16, (8, 8), generator(seed))
        hidden = [64 - len(set(picture.flatten().tolist())) for picture in many.targets]
        assert many.context.shape[1] == min(hidden)


def test_targets_never_hide_everything():
    greedy = BlockMasks(
        targets=40, target_scale=(0.4, 0.45), context_scale=(0.9, 1.0), target_aspect=(1.0, 1.0)
    )
    blocks = greedy.sample(8, (8, 8), generator())
    assert blocks.context.shape[1] >= 4
    assert BlockMasks(targets=30).sample(64, (4, 4), generator()).context.shape[1] >= 1


def test_the_generator_alone_decides():
    before = torch.get_rng_state()
    once, again, other = (BlockMasks().sample(3, (8, 8), generator(s)) for s in (1, 1, 2))
    assert torch.equal(once.context, again.context) and torch.equal(once.targets, again.targets)
    assert not torch.equal(once.targets, other.targets)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("grid", [(3, 8), (8, 3), (1, 1)])
def test_a_grid_too_small_is_refused_in_a_line(grid):
    with pytest.raises(UserError, match="4 x 4 patches or more") as refused:
        BlockMasks().sample(2, grid, generator())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"targets": 0},
        {"target_scale": (0.3, 0.1)},
        {"context_scale": (0.1, 0.15)},
        {"target_aspect": (0.0, 1.0)},
        {"context_scale": (0.5, 1.5)},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        BlockMasks(**options)
