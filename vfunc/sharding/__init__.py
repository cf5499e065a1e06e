"""Learners that no device holds whole: their blocks below S are shards over the processes."""

from __future__ import annotations

from vfunc.sharding.learner import ShardedLearner, require_spreadable, spread
from vfunc.sharding.shards import (
    clip_shards,
    gathered,
    held_numbers,
    is_shard,
    norm_with_shards,
    put_back,
    put_back_optimizer,
    replicated,
)

__all__ = [
    "ShardedLearner",
    "clip_shards",
    "gathered",
    "held_numbers",
    "is_shard",
    "norm_with_shards",
    "put_back",
    "put_back_optimizer",
    "replicated",
    "require_spreadable",
    "spread",
]
