"""Checks a checkpoint's content before any of it is taken: names, shapes, finite numbers, counters.

A seal says that a file is as it was written; this says that what was written is an arm's state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.training.state import ArmState, Counters


def checked_counters(given: Mapping[str, Any]) -> Counters:
    """Counters from plain data.

    Raises:
        UserError: one is missing, of another type, below zero or not finite.
    """
    fresh = Counters()
    names = vars(fresh)
    if given.keys() != names.keys():
        raise UserError(f"its counters are {', '.join(map(str, given))}")
    for name, value in given.items():
        wanted = names[name]
        many = value if isinstance(wanted, tuple) else (value,)
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        fits = isinstance(value, tuple) == isinstance(wanted, tuple) and len(many) == len(kinds)
        if not fits or not all(_counts(x, kind) for x, kind in zip(many, kinds, strict=True)):
            raise UserError(f"its counter {name} is {value!r}")
    return Counters(**given)


def require_sound(content: Mapping[str, Any], state: ArmState) -> None:
    """Refuse what is not the state of such an arm.

    Args:
        content: of a checkpoint.
        state: a fresh arm of the same configuration.

    Raises:
        UserError: the first thing that is wrong, to continue `the checkpoint ...: `.
    """
    _require_module(content["learner"], state.learner, "learner")
    _require_optimizer(content["optimizer"], state.optimizer, "optimizer")
    for name, module in (("designer", state.designer),):
        if (content[name] is None) != (module is None):
            raise UserError(f"it has {'no' if module is not None else 'a'} {name}")
        if module is not None:
            _require_module(content[name], module, name)
    optimizer = state.designer_optimizer
    if (content["designer_optimizer"] is None) != (optimizer is None):
        raise UserError("its designer is trained in one of the two alone")
    if optimizer is not None:
        _require_optimizer(content["designer_optimizer"], optimizer, "designer's optimizer")
    _require_running(content.get("running"), state)
    _require_held(content.get("held_feedback"), state)
    _require_held_mean(content.get("held_mean"), state)
    _require_direct(content.get("direct"), state)
    fresh = torch.get_rng_state()
    if content["random"].shape != fresh.shape or content["random"].dtype != fresh.dtype:
        raise UserError("its random state is that of another version of torch")


def _require_running(found: Mapping[str, Any] | None, state: ArmState) -> None:
    """Check the running means of the learner's gradients."""
    if found is None or state.running is None:
        if found is not None or state.running is not None:
            told = "no" if found is None else "running"
            raise UserError(f"it has {told} means of the learner's gradients")
        return
    steps, means, live = found["steps"], found["means"], state.functional.live
    if tuple(found["decays"]) != state.running.decays or len(means) not in (
        {len(found["decays"])} if steps else {0}
    ):
        raise UserError("its running means have other decay rates")
    for mean in means:
        if mean.keys() != live.keys():
            raise UserError("its running means are of other parameters")
        for name, x in mean.items():
            if not isinstance(x, Tensor) or x.shape != live[name].shape:
                raise UserError(f"{name} of its running means has another shape")
            if not _finite(x):
                raise UserError(f"{name} of its running means is not finite")


def _require_held(held: Mapping[str, Any] | None, state: ArmState) -> None:
    if held is None:
        return
    theta, what = state.functional.theta, "held g_down"
    if held.keys() != {"updates", "loss", "gradient"} or not _counts(held["updates"], 0):
        raise UserError(f"its {what} is no such thing")
    if held["gradient"].keys() != theta.keys():
        raise UserError(f"the {what} is of other parameters")
    for name, x in (("loss", held["loss"]), *held["gradient"].items()):
        wanted = theta[name].shape if name in theta else torch.Size()
        if not isinstance(x, Tensor) or x.shape != wanted or not _finite(x):
            raise UserError(f"{name} of the {what} has another shape, or is not finite")


def _require_held_mean(held: Mapping[str, Any] | None, state: ArmState) -> None:
    if held is None:
        return
    theta, what = state.functional.theta, "held mean gradient"
    if held.keys() != {"updates", "gradient"} or not _counts(held["updates"], 0):
        raise UserError(f"its {what} is no such thing")
    if held["gradient"].keys() != theta.keys():
        raise UserError(f"the {what} is of other parameters")
    for name, x in held["gradient"].items():
        if not isinstance(x, Tensor) or x.shape != theta[name].shape or not _finite(x):
            raise UserError(f"{name} of the {what} has another shape, or is not finite")


def _require_direct(found: Mapping[str, Any] | None, state: ArmState) -> None:
    """Check where the arm is among its trainings, and what a divergence is from."""
    if found is None:
        return
    if found.keys() != {"phase", "reference"} or not _counts(found["phase"], 0):
        raise UserError("its training by TRL is no such thing")
    trained = {n: p for n, p in state.learner.named_parameters() if p.requires_grad}
    reference = found["reference"]
    if reference is not None and reference.keys() != trained.keys():
        raise UserError("its reference learner is of other parameters")
    for name, x in (reference or {}).items():
        if not isinstance(x, Tensor) or x.shape != trained[name].shape or not _finite(x):
            raise UserError(f"{name} of its reference learner has another shape, or is not finite")


def _require_module(found: Mapping[str, Any], module: nn.Module, what: str) -> None:
    wanted = module.state_dict()
    for name in wanted.keys() ^ found.keys():
        raise UserError(f"{name} of the {what} is in one of the two alone")
    for name, x in wanted.items():
        if not isinstance(x, Tensor):
            continue
        y = found[name]
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            raise UserError(f"{name} of the {what} has another shape or type")
        # a buffer may hold infinities by design: then its fresh copy does too
        if not _finite(y) and _finite(x):
            raise UserError(f"{name} of the {what} is not finite")


def _require_optimizer(
    found: Mapping[str, Any], optimizer: torch.optim.Optimizer, what: str
) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = [len(group["params"]) for group in found["param_groups"]]
    if groups != [len(group["params"]) for group in optimizer.param_groups]:
        raise UserError(f"the {what} is for other parameters")
    numbers = [i for group in found["param_groups"] for i in group["params"]]
    for index, kept in found["state"].items():
        if index not in numbers:
            raise UserError(f"the {what} is for other parameters")
        p = parameters[numbers.index(index)]
        for name, x in kept.items():
            if isinstance(x, Tensor) and x.dim() and not _suits(x, p):
                raise UserError(f"{name} of the {what} has another shape")
            if isinstance(x, Tensor) and not _finite(x):
                raise UserError(f"{name} of the {what} is not finite")
            if name == "step" and float(x) < 0:
                raise UserError(f"step of the {what} is {float(x):g}")
    for name, value in _numbers(found["param_groups"]):
        if not math.isfinite(value):
            raise UserError(f"{name} of the {what} is {value}")


def _suits(x: Tensor, p: Tensor) -> bool:
    """Whether a moment has a parameter's shape; factored ones have 1 in some places."""
    return x.dim() == p.dim() and all(n in (1, m) for n, m in zip(x.shape, p.shape, strict=True))


def _numbers(groups: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    for group in groups:
        for name, value in group.items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and name != "params":
                    yield name, float(number)


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(x.isfinite().all())


def _counts(value: object, like: object) -> bool:
    if isinstance(like, bool):
        return isinstance(value, bool)
    kinds = (int, float) if isinstance(like, float) else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    return math.isfinite(value) and value >= 0
