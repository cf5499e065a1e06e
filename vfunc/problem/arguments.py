"""Refuses in one line what is no problem, theta, phi, direction or task, at every entry point."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem.contract import ValueProblem
from vfunc.simulate import AutomaticRule, TensorState

_P = ParamSpec("_P")
_R = TypeVar("_R")

ORDER = "the order is (problem, theta, phi)"

_UNFIT = re.compile(r"shape|size|dimension|must match|device|dtype|scalar type", re.IGNORECASE)
"""What torch says where tensors do not fit together."""


def entry(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A public function whose arguments of usual names are looked at before all else.

    Names, types, dtypes and shapes alone are read: no device is waited for. What a type checker
    finds later is a fault of the package.
    """
    names = list(inspect.signature(function).parameters)
    checked = [(i, name) for i, name in enumerate(names) if name in _CHECKS]

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given: dict[str, Any] = {
            name: args[i] if i < len(args) else kwargs[name]
            for i, name in checked
            if i < len(args) or name in kwargs
        }
        for name, value in given.items():
            _CHECKS[name](name, value)
        _require_together(**given)
        return function(*args, **kwargs)

    return call


def require_problem(name: str, value: object) -> None:
    """Check that something is a `ValueProblem`.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, ValueProblem):
        raise UserError(f"{name} must be a ValueProblem, not a {type(value).__name__}; {ORDER}")


def require_params(name: str, value: object) -> None:
    """Check that something is a flat dict of real floating-point tensors by name.

    Args:
        name: of the argument, for messages.
        value: what was passed.

    Raises:
        UserError: it is not; the message says what is wrong, and of which entry.
    """
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a dict of tensors by name, {_instead(value)}")
    if not value:
        raise UserError(f"{name} is empty: it needs at least one tensor")
    for key, x in value.items():
        if not isinstance(key, str):
            raise UserError(f"{name} has the key {key!r}; its tensors go by names, which are text")
        if isinstance(x, Mapping):
            raise UserError(
                f"{name}[{key!r}] is a {type(x).__name__}: {name} is flat, with names such as "
                f"'{key}.{next(iter(x), 'weight')}'"
            )
        if not isinstance(x, Tensor):
            raise UserError(f"{name}[{key!r}] must be a tensor, not a {type(x).__name__}")
        if not x.dtype.is_floating_point:
            dtype = str(x.dtype).removeprefix("torch.")
            raise UserError(
                f"{name}[{key!r}] is of {dtype}; parameters are real floating-point numbers"
            )
        if x.is_inference() and not torch.is_inference_mode_enabled():
            raise UserError(
                f"{name}[{key!r}] was made under torch.inference_mode(), and can have no gradient; "
                "make it outside, or give its clone()"
            )


def require_construction(name: str, value: object) -> None:
    """Check that something is a `Construction`.

    Raises:
        UserError: it is not.
    """
    if not hasattr(value, "designed") or not hasattr(value, "task"):
        raise UserError(
            f"{name} must be what construct_task(problem, phi, batch) returns, not a "
            f"{type(value).__name__}"
        )


def require_estimator(name: str, value: object) -> None:
    """Check that something may be an estimator, or the name of one.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, type):
        raise UserError(f"{name} is the class {value.__name__}; give one: {value.__name__}()")
    if value is not None and not isinstance(value, str) and not callable(value):
        kind = type(value).__name__
        raise UserError(f"{name} must be an estimator or the name of one, not a {kind}")


def require_engine(name: str, value: object) -> None:
    """Check that something may be an engine, or the name of one.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, type):
        raise UserError(f"{name} is the class {value.__name__}; give one: {value.__name__}()")
    if not isinstance(value, str) and not hasattr(value, "refusal"):
        kind = type(value).__name__
        raise UserError(f"{name} must be auto, an engine or the name of one, not a {kind}")


def require_task(task: object) -> None:
    """Check what `construct` has returned.

    Raises:
        UserError: it is no dict of tensors by name.
    """
    if not isinstance(task, dict):
        raise UserError(
            f"construct returned a {type(task).__name__}; it has to return a dict of tensors by "
            "name, the task"
        )
    for name, x in task.items():
        if not isinstance(name, str):
            raise UserError(f"construct returned the key {name!r}; a task's names are text")
        if not isinstance(x, Tensor):
            raise UserError(
                f"construct returned a {type(x).__name__} as {name!r}; every entry of a task is a "
                "tensor, and what is none belongs in the batch or in the loss"
            )
        if x.layout is not torch.strided:
            raise UserError(f"construct returned a sparse tensor as {name!r}; give its to_dense()")
        if x.is_complex():
            raise UserError(
                f"construct returned complex numbers as {name!r}; a task is real: give "
                "torch.view_as_real of it"
            )


def scalar(name: str, loss: object) -> Tensor:
    """A loss, checked to be one real number with a graph's dtype.

    Args:
        name: of the function that returned it.
        loss: what it returned.

    Raises:
        UserError: it is no tensor, or not a real scalar.
    """
    if not isinstance(loss, Tensor):
        raise UserError(
            f"{name} returned a {type(loss).__name__}; it has to return a scalar tensor with its "
            "graph: no .item(), no float()"
        )
    if loss.ndim:
        raise UserError(
            f"{name} returned a tensor of shape {tuple(loss.shape)}; reduce it to a scalar, such "
            "as by .mean()"
        )
    if not loss.dtype.is_floating_point:
        dtype = str(loss.dtype).removeprefix("torch.")
        raise UserError(f"{name} returned a scalar of {dtype}; a loss is a real number")
    return loss


@contextlib.contextmanager
def blaming(function: str, **given: Mapping[str, Tensor]) -> Iterator[None]:
    """Say in one line which argument a problem's own function could not use.

    Only names that are missing, and tensors that do not fit together, are told so; whatever else
    the function raises is its own affair.

    Args:
        function: which of the problem's.
        **given: the arguments that it was given.

    Raises:
        UserError: in place of a KeyError for a name that no argument has, and of torch's complaint
            of shapes, dtypes, devices, inference tensors or a leaf that is written to.
    """
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or any(name in entries for entries in given.values()):
            raise
        raise UserError(f"{function} asks for {name!r}, and has {_told(given)}; {ORDER}") from error
    except RuntimeError as error:
        said = str(error).strip().partition("\n")[0]
        if "Inference tensors" in said:
            raise UserError(
                f"{function} uses a tensor that was made under torch.inference_mode(), such as one "
                "of a batch, which has no place in a gradient: make it outside, or give its clone()"
            ) from error
        if "use_reentrant" in said:
            raise UserError(
                f"{function} recomputes activations (torch.utils.checkpoint, use_reentrant=True), "
                "which no estimate can: switch it off"
            ) from error
        if "leaf Variable that requires grad" in said and "in-place" in said:
            raise UserError(
                f"{function} works in place on {_told(given)}, which stays as it is: look for "
                "operations that end in _, such as mul_, and for inplace=True"
            ) from error
        if type(error) is not RuntimeError or not _UNFIT.search(said):
            raise
        raise UserError(f"{function} cannot use {_told(given)}: {said}") from error


def _told(given: Mapping[str, Mapping[str, Tensor]]) -> str:
    return " and ".join(f"{name} {trees.described(entries)}" for name, entries in given.items())


def _instead(value: object) -> str:
    """What was given in place of a dict of tensors, and what to give."""
    kind = type(value).__name__
    if isinstance(value, nn.Module):
        return f"not a {kind}: vfunc.functional(module).theta"
    if hasattr(value, "theta"):
        return f"not a {kind}: give its .theta"
    if isinstance(value, ValueProblem):
        return f"not a {kind}: {ORDER}"
    return f"not a {kind}"


def _require_askable(name: str, value: object) -> None:
    if torch.is_inference_mode_enabled():
        raise UserError(
            "nothing has a gradient under torch.inference_mode(): ask outside of it (no_grad does "
            "no harm)"
        )
    functorch: Any = torch._C
    if functorch._functorch.peek_interpreter_stack() is not None:
        raise UserError(
            "an estimate differentiates by itself, and cannot be made inside torch.func.grad, jvp "
            "or vmap: ask outside of them"
        )
    if parametrize._cache_enabled:
        raise UserError(
            "an estimate asks at more than one theta, and torch's parametrize.cached() keeps the "
            "weights of the first: ask outside of it"
        )
    require_problem(name, value)


def _require_together(
    problem: ValueProblem | None = None,
    theta: trees.Params | None = None,
    w: trees.Params | None = None,
    **_: Any,
) -> None:
    """Check arguments against each other."""
    if problem is not None and theta is not None:
        _require_of_the_learner(problem, theta)
    if theta is not None and w is not None:
        trees.require_same_structure("w (shaped like theta)", w, theta)


def _require_of_the_learner(problem: ValueProblem, theta: trees.Params) -> None:
    """Check theta against what the optimizer and the means know of the learner's parameters."""
    for i, mean in enumerate(problem.means):
        trees.require_same_structure(f"means[{i}] (shaped like theta)", mean, theta)
    for name, x in (problem.rule.accumulated or {}).items():
        if name in theta and x.shape != theta[name].shape:
            raise UserError(
                f"theta[{name!r}] is of shape {tuple(theta[name].shape)}, the rule's accumulated "
                f"gradient of it {tuple(x.shape)}"
            )
    rules = problem.rule.rules
    if isinstance(rules, Mapping):
        foreign = next((name for name in theta if name not in rules), None)
        if foreign is not None:
            raise UserError(
                f"theta has {foreign!r}, which the problem's optimizer step does not know; it has "
                f"{', '.join(list(rules)[:4])}{', ...' if len(rules) > 4 else ''}; {ORDER}"
            )
    for name, state in problem.state.items():
        if not isinstance(state, TensorState):
            raise UserError(
                f"state[{name!r}] is a {type(state).__name__}; take the state from "
                "vfunc.from_optimizer(optimizer, parameters), or write vfunc.simulate.TensorState"
            )
    # a layer that has just been unfrozen has no state yet, beside those of others that rules know
    known = rules if isinstance(rules, Mapping) else theta
    if problem.state and not known.keys() & problem.state.keys():
        raise UserError(
            f"the optimizer's state is of {', '.join(list(problem.state)[:3])}, and of none of "
            f"theta's {', '.join(list(theta)[:3])}: give both the same names (a wrapper puts a "
            "prefix before them), or an empty state where none of theta has taken a step yet; "
            f"{ORDER}"
        )
    for name, state in problem.state.items():
        if name not in theta or isinstance(problem.rule.rule(name), AutomaticRule):
            continue  # a rule of one's own knows the shapes of its buffers
        for buffer, x in state.buffers.items():
            if x.shape != theta[name].shape:
                raise UserError(
                    f"theta[{name!r}] is of shape {tuple(theta[name].shape)}, the optimizer's "
                    f"{buffer} of it {tuple(x.shape)}"
                )


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "problem": _require_askable,
    "theta": require_params,
    "phi": require_params,
    "w": require_params,
    "construction": require_construction,
    "estimator": require_estimator,
    "engine": require_engine,
}
