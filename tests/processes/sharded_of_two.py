"""Learners in shards of two processes, beside whole ones of one process with all the examples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from interrupted_two import new_arm, stopped_and_resumed
from loops_of_two import LANGUAGE, apart, started, state_of
from small_run import SMALL
from torch import nn

import vfunc
from vfunc.config.layers import Layer
from vfunc.sharding import gathered, held_numbers, spread
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve
from vfunc.training.foretelling.foresight import foresee
from vfunc.training.loop import evaluate_arm, follow, run_arm
from vfunc.training.mapping import map_values

SHARDED = {
    "first_order": {"gate_penalty": 0.3, "clip": 0.1},
    "cosine": {"value": "cosine"},
    "deflated": {"value": "deflated", "mean_bank": 3, "feedback_every": 2},
    # not as many parts in each process
    "bank": {"feedback_bank": 7, "value": "deflated", "mean_batches": 2, "means": 0},
    "cut": {"meta_seq_len": 60, "meta_batch_size": 2, "designer_warmup": 1},
    "hidden": {"designer_features": "hidden", "engine": "reverse"},
    "unrolled": LANGUAGE["unrolled"],
    "implicit": {"estimator": "implicit", "solver_tolerance": 1e-3},
}
OPTIONS = SMALL | {"feedback_batch_size": 3, "lr": 1e-3, "align": "last:1"}


def distances(processes: vfunc.Processes) -> dict[str, dict[str, float]]:
    """How far runs in shards are from whole ones, by their options."""
    twice = {k: 2 * OPTIONS[k] for k in ("batch_size", "feedback_batch_size")}
    found = {}
    for name, given in SHARDED.items():
        more = dict(twice)
        if "meta_batch_size" in given:
            more["meta_batch_size"] = 2 * given["meta_batch_size"]
        run = started(OPTIONS | given | {"shard_learner": True}, processes)
        found[name] = apart(run, started(OPTIONS | given | more, vfunc.Processes()))
    return found


def told(processes: vfunc.Processes) -> dict[str, object]:
    """What is told of a learner in shards and of a whole one, before it trains; and numbers held."""
    twice = {k: 2 * OPTIONS[k] for k in ("batch_size", "feedback_batch_size")}
    more = {"probe_batches": 2, "feedback_size": 32, "eval_size": 32}
    run = started(OPTIONS | more | {"shard_learner": True}, processes)
    whole = started(OPTIONS | more | twice, vfunc.Processes())
    mine, theirs = Events(), Events()
    for arm, log in ((run, mine), (whole, theirs)):
        arm = dataclasses.replace(arm, log=log)
        log.event("foresight", foresee(arm))
        map_values(arm, "start")
        arm.state.counters = dataclasses.replace(arm.state.counters, step=200)
        follow(arm)  # the probe
        evaluate_arm(arm, final=False)
    learner = run.state.learner
    names = {n for n, p in learner.named_parameters() if hasattr(p, "device_mesh")}
    return {
        "mine": mine.found,
        "theirs": theirs.found,
        "held": held_numbers(learner),
        "all": sum(p.numel() for p in learner.parameters()),
        "below": sum(p.numel() for n, p in whole.state.learner.named_parameters() if n in names),
        "in S": sorted(names & set(run.state.functional.names)),
    }


class Events:
    """A log that keeps the events."""

    def __init__(self) -> None:
        self.found: dict[str, dict] = {}

    def event(self, kind, fields):
        self.found[kind] = dict(fields)

    def progress(self, fraction, fields):
        pass

    def checkpoint(self, state):
        pass


def interrupted(processes: vfunc.Processes, folder: Path) -> dict[str, object]:
    """As `interrupted_two`, in shards; and how far steps in float32 are from a whole learner's."""
    found = stopped_and_resumed(processes, folder, {"shard_learner": True, "align": "last:1"})
    ended = []
    for more in ({}, {"shard_learner": True}):  # one after the other: both draw dropout
        run = new_arm(processes, folder / "float32.pt", {"align": "last:1", **more}, stopping=False)
        run_arm(run)
        ended.append(state_of(run))
    far = (float((x - ended[1][name]).abs().max()) for name, x in ended[0].items())
    return found | {"float32": max(far)}


class OneOfTwo(nn.Module):
    """A block that asks one of its experts; which, it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.asked = 0

    def forward(self, x):
        return x + self.experts[self.asked](x)


def experts(processes: vfunc.Processes) -> float:
    """How far a gradient in shards is off, where each process asks another expert."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Sequential(*(OneOfTwo() for _ in range(3))), nn.LayerNorm(4))
    live = spread(start, "last:1", torch.device("cpu"), processes).live
    texts = torch.randn(2, 3, 4)
    for rank, x in enumerate(texts):
        _asking(start, rank)(x).square().sum().backward()
    _asking(live, processes.rank)(texts[processes.rank]).square().sum().backward()
    whole = {name: p.grad for name, p in start.named_parameters()}
    own = {n: p.grad for n, p in live.named_parameters() if hasattr(p, "device_mesh")}
    assert len(own) == 8
    return max(
        float("inf") if g is None else float((g - whole[name]).abs().max())
        for name, g in gathered(own).items()
    )


def _asking(learner: nn.Module, expert: int) -> nn.Module:
    for block in learner.modules():
        if isinstance(block, OneOfTwo):
            block.asked = expert
    return learner


def refused(processes: vfunc.Processes) -> list[str]:
    """What is said of learners that cannot be spread."""
    said = []
    for spoil in (_tied, _other_numbers, _tied_below, _of_two_dtypes):
        learner = assemble(resolve(Layer(OPTIONS))).learner
        spoil(learner, processes.rank)
        try:
            spread(learner, "last:1", torch.device("cpu"), processes)
        except vfunc.UserError as error:
            said.append(str(error))
    return said


def _tied(learner: nn.Module, rank: int) -> None:
    layers = learner.model.layers
    layers[0].input_layernorm.weight = layers[2].input_layernorm.weight


def _tied_below(learner: nn.Module, rank: int) -> None:
    layers = learner.model.layers
    layers[0].input_layernorm.weight = layers[1].input_layernorm.weight


def _of_two_dtypes(learner: nn.Module, rank: int) -> None:
    learner.model.layers[1].input_layernorm.bfloat16()


def _other_numbers(learner: nn.Module, rank: int) -> None:
    with torch.no_grad():
        learner.model.layers[0].input_layernorm.weight.add_(rank)


def trial(processes: vfunc.Processes, folder: Path) -> dict[str, object]:
    """All of it."""
    return {
        "distances": distances(processes),
        "told": told(processes),
        "interrupted": interrupted(processes, folder),
        "refused": refused(processes),
        "experts": experts(processes),
    }
