"""Steps of the training loop on shared batches, beside those of one process, all in float64."""

from __future__ import annotations

import dataclasses

import torch
from small_run import SMALL
from small_vision_run import SMALL_VISION, tiny_learner
from torch import nn

import vfunc
from vfunc.config.layers import Layer
from vfunc.sharding import gathered
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve
from vfunc.training.loop import one_step
from vfunc.training.start import start_arm
from vfunc.vision.data.batches import LabelledBatch, UnlabeledBatch
from vfunc.vision.workload import VisionFeedback, VisionWorkload

STEPS = 3
LANGUAGE = {
    "first_order": {"gate_penalty": 0.3, "align": "last:1"},
    "unrolled": {
        "estimator": "unrolled",
        "lookahead_steps": 2,
        "accumulate": 2,
        "clip": 0.1,
        "optimizer": "sgd",
    },
    # the texts of one process may all be shorter
    "cut": {"meta_seq_len": 60, "gate_penalty": 0.3},
    "tasks": {"normalise_feedback": True, "value": "deflated", "clip": 0.1},
    "bank": {"feedback_bank": 7, "feedback_every": 2, "align": "last:1"},
}
VISION = {
    "dino": {"local_crops": 1},
    "normalised": {"normalise_feedback": True, "local_crops": 0},
    "bank of pictures": {"feedback_bank": 7, "normalise_feedback": True, "local_crops": 0},
}


class Doubled(VisionWorkload):
    """The same in float64."""

    def batch(self, position):
        found = super().batch(position)
        return dataclasses.replace(found, views=found.views.double(), locals=found.locals.double())

    def feedback(self, index):
        found = super().feedback(index)
        return VisionFeedback(*(tuple(map(_doubled, part)) for part in (found.heads, found.meta)))

    def bank(self, index, count):
        return tuple(
            tuple(lambda read=read: _doubled(read()) for read in parts)
            for parts in super().bank(index, count)
        )


class Joined(Doubled):
    """One process with the batches that two would have, one after the other.

    Crops are drawn batch by batch: those of a larger batch are other ones.
    """

    def batch(self, position):
        one, two = (self._share(rank).batch(position) for rank in (0, 1))
        views, inner = torch.cat([one.views, two.views], 1), torch.cat([one.locals, two.locals], 1)
        return UnlabeledBatch(views, inner)

    def feedback(self, index):
        one, two = (self._share(rank).feedback(index) for rank in (0, 1))
        return VisionFeedback(one.heads, (LabelledBatch(*_joined(one.meta[0], two.meta[0])),))

    def _share(self, rank):
        half = {
            name: max(1, getattr(self, name) // 2) for name in ("batch_size", "feedback_batch_size")
        }
        whole = dataclasses.replace(as_kind(Doubled, self), **half)
        return whole.among(vfunc.Processes(rank, 2))


def as_kind(kind: type, workload: VisionWorkload) -> VisionWorkload:
    """The workload as one of these."""
    return kind(**{f.name: getattr(workload, f.name) for f in dataclasses.fields(workload)})


def _doubled(batch: LabelledBatch) -> LabelledBatch:
    depth = None if batch.depth is None else batch.depth.double()
    return dataclasses.replace(batch, images=batch.images.double(), depth=depth)


def _joined(one, two):
    """Fields of two batches, row after row."""
    pairs = [(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one)]
    return [None if x is None else torch.cat([x, y]) for x, y in pairs]


def started(options: dict, processes: vfunc.Processes, kind: type | None = None) -> ArmRun:
    """An arm at its start, in float64 throughout; with pictures, its workload as one of a kind."""
    assembled = assemble(resolve(Layer(options)), processes)
    assembled.learner.double()
    workload = None if kind is None else as_kind(kind, assembled.workload)
    run = start_arm("vpretraining", assembled, workload=workload)
    run.state.designer.double()
    # Adam would make steps of rounding errors, where a gradient is zero but for them
    run.state.designer_optimizer = torch.optim.SGD(run.state.designer.parameters(), lr=0.1)
    return run


def state_of(run: ArmRun) -> dict[str, torch.Tensor]:
    modules: dict[str, nn.Module] = {"learner": run.state.learner, "designer": run.state.designer}
    return {
        f"{part}.{name}": x.detach().clone()
        for part, module in modules.items()
        for name, x in gathered(module.state_dict()).items()
        if x.is_floating_point()
    }


def apart(run: ArmRun, other: ArmRun) -> dict[str, float]:
    """Over steps of both: the largest distance of a tensor, over how far it came."""
    begun = state_of(run)
    taken = [(one_step(run), one_step(other)) for _ in range(STEPS)]
    ended, beside = state_of(run), state_of(other)
    far = {
        name: float((x - beside[name]).norm() / (x - begun[name]).norm())
        for name, x in ended.items()
        if not torch.equal(x, begun[name])
    }
    parts = {
        part: [x for n, x in far.items() if n.startswith(part)] for part in ("learner", "designer")
    }
    told = ("train_loss", "value", "gradient_norm", "gate", "kept")
    numbers = [
        abs(mine[name] - theirs[name]) / abs(theirs[name])
        for mine, theirs in taken
        for name in told
        if name in theirs
    ]
    assert run.state.counters.units == other.state.counters.units
    return {part: max(found) for part, found in parts.items()} | {"numbers": max(numbers)}


def summed_numbers(processes: vfunc.Processes) -> dict[str, int]:
    """How many numbers a step with an estimate sums, and how many the learner and designer have."""
    run, counted = started(SMALL | {"align": "last:1"}, processes), []

    class Counting(vfunc.Processes):
        def _sum_of(self, group):
            counted.append(sum(x.numel() for _, x in group))
            return super()._sum_of(group)

    counting = Counting(processes.rank, processes.size)
    one_step(dataclasses.replace(run, workload=run.workload.among(counting)))

    def size(tensors) -> int:
        return sum(x.numel() for x in tensors)

    state = run.state
    return {
        "summed": sum(counted),
        "learner": size(state.learner.parameters()),
        "S": size(state.functional.theta.values()),
        "designer": size(state.designer.parameters()),
    }


def distances(
    processes: vfunc.Processes, stream: str, feedback: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """How far loops are apart, by their options.

    Args:
        processes: this one and the other.
        stream: a file of text.
        feedback: files of two feedback tasks.
    """
    found = {}
    for name, given in LANGUAGE.items():
        options = SMALL | {"feedback_batch_size": 3, "lr": 1e-3} | given
        if name == "tasks":
            del options["stream_size"], options["feedback_size"], options["eval_size"]
            options |= {"stream": stream, "feedback": feedback, "eval": stream}
        twice = {k: 2 * options[k] for k in ("batch_size", "feedback_batch_size")}
        run = started(options, processes)
        found[name] = apart(run, started(options | twice, vfunc.Processes()))
    for name, given in VISION.items():
        options = SMALL_VISION | {"learner": tiny_learner(), "meta_batch_size": 3} | given
        run = started(options, processes, Doubled)
        twice = dict.fromkeys(("batch_size", "meta_batch_size", "feedback_batch_size"), 6)
        found[name] = apart(run, started(options | twice, vfunc.Processes(), Joined))
    return found
