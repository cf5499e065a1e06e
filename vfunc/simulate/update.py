"""Simulates U, the step of a whole parameter dict, with its exact pullback."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.simulate.clip import Clip
from vfunc.simulate.guarded import guarded_step, guarded_vjp
from vfunc.simulate.optimizers.adafactor import Adafactor
from vfunc.simulate.optimizers.muon import Muon
from vfunc.simulate.optimizers.rprop import Rprop
from vfunc.simulate.optimizers.sgd import SGD
from vfunc.simulate.plain_numbers import plain_number, plain_rules, with_plain_numbers
from vfunc.simulate.rule import Buffers, OptimizerState, Rule, TensorState
from vfunc.simulate.schedule import Later, Rules
from vfunc.simulate.windows import Shares, Taken, equal_windows, given_windows
from vfunc.trees import Params


@dataclass(frozen=True, repr=False)
class UpdateRule:
    """U for a whole parameter dict: accumulate, clip, then each tensor's own rule.

    Attributes:
        rules: one rule for all parameters, or one a name (from parameter groups).
        clip: full-model norm clipping, if any.
        accumulated: what the accumulation window holds so far, detached; the step uses
            accumulated + weight * g.
        weight: this micro-batch's share of its window, 1 / n.
        closes_window: whether the live optimizer steps right after this micro-batch; elsewhere
            one step of it leaves out what the window has yet to add, and a lookahead takes it
            from the batches that follow.
        windows: the shares of what each step takes, this window from this micro-batch on and later
            ones. None: later windows are of 1 / weight equal shares, and this one too, where
            nothing has been accumulated yet.
        later: k -> the rules of the k-th step after the next one, where their step sizes follow a
            schedule; None keeps the present ones.
        base: the rules at the sizes that a schedule starts from, where it has put all of them to
            zero and its later steps are not known: what `at_unit` is proportional to.
        origin: the live optimizer and the parameters that the rule was read from, for `check_step`.
        cleared: parameters whose `.grad` is zero rather than absent: they are stepped where the
            loss does not reach them, too.
    """

    rules: Rules
    clip: Clip | None = None
    accumulated: Params | None = None
    weight: float = 1.0
    closes_window: bool = True
    windows: tuple[Shares, ...] | None = None
    later: Later | None = field(default=None, compare=False)
    cleared: Mapping[str, Tensor] = field(default_factory=dict)
    base: Rules | None = field(default=None, compare=False)
    origin: tuple[torch.optim.Optimizer, Mapping[str, Tensor]] | None = field(
        default=None, compare=False
    )

    def __post_init__(self) -> None:
        for name, x in (self.accumulated or {}).items():
            if not isinstance(x, Tensor):
                raise UserError(
                    f"accumulated[{name!r}] is {x!r:.40}, not a gradient: leave the entry out "
                    "where there is none yet"
                )
        rules = self.rules
        given: Iterable[object] = rules.values() if isinstance(rules, Mapping) else (rules,)
        for rule in given:
            if not hasattr(rule, "lr"):
                raise UserError(
                    f"{type(rule).__name__} has no `lr`, the step size that values are measured "
                    "by: give it a field of that name"
                )
        self._take_plain_numbers()
        for rule in self._each:
            # a schedule's sizes may be tensors of a device, which are not waited for
            if not isinstance(rule.lr, Tensor) and not _is_size(rule.lr):
                raise UserError(
                    f"{type(rule).__name__} has lr={rule.lr!r:.40}; a step size is a number from 0 "
                    "on, and finite, such as float(lr)"
                )
        if self.clip is not None and not isinstance(self.clip, Clip):
            raise UserError(
                f"clip is {self.clip!r:.40}; write vfunc.Clip(max_norm), as in vfunc.Clip(1.0)"
            )
        if self.clip is not None and not self.clip.max_norm > 0:
            raise UserError(f"{self.clip} clips to no norm: max_norm has to be above 0")
        if self.clip is not None and (self.clip.outside or 0.0) < 0:
            raise UserError(f"{self.clip}: the norm outside S, `outside`, is below 0")
        if self.windows is not None:
            now = self.windows[0]
            if now[0] != self.weight or (len(now) == 1) != self.closes_window:
                raise UserError(
                    f"windows begins with {now}, of this micro-batch on: `weight` is the first of "
                    "these, and `closes_window` whether it is the only one"
                )

    def _take_plain_numbers(self) -> None:
        """Fractions, decimals and the like become floats, as they do in an optimizer of torch's."""
        every = {id(one): one for one in (*self._each, self.clip)}
        given = [x for one in every.values() for x in getattr(one, "__dict__", {}).values()]
        if all(map(_is_plain, (self.weight, *given))):
            return
        object.__setattr__(self, "rules", plain_rules(self.rules))
        object.__setattr__(self, "weight", plain_number(self.weight))
        if isinstance(self.clip, Clip):
            object.__setattr__(self, "clip", with_plain_numbers(self.clip))

    def __repr__(self) -> str:
        rules, count = self.rules, ""
        if isinstance(rules, Mapping):
            different = list(dict.fromkeys(map(repr, rules.values())))
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            rules, count = f"{different[0]}{more}", f" for {len(rules)} parameters"
        clip = f", {self.clip}" if self.clip else ""
        window = f", weight={self.weight:g}" if self.weight != 1.0 else ""
        return f"UpdateRule({rules}{count}{clip}{window})"

    def rule(self, name: str) -> Rule:
        """The rule of one parameter."""
        return self.rules[name] if isinstance(self.rules, Mapping) else self.rules

    def learning_rate(self, name: str) -> float:
        """eta of one parameter."""
        return self.rule(name).lr

    def sized(self, g: Params) -> Params:
        """eta g, each parameter with its own group's eta: less of what a plain step takes.

        Raises:
            UserError: the optimizer climbs (`require_descent`).
        """
        self.require_descent("a value by eta g")
        return {name: self.learning_rate(name) * x for name, x in g.items()}

    @property
    def eta(self) -> float:
        """The step size eta: the largest, where parameter groups differ."""
        return max(rule.lr for rule in self._each)

    @property
    def unit(self) -> float:
        """The step size that a value is measured by: eta, or where it is zero (a warm-up) 1.

        Of Adafactor, whose steps are proportional to small sizes alone, a small one.
        """
        if self.eta:
            return self.eta
        return _SMALL if any(isinstance(rule, Adafactor) for rule in self._each) else 1.0

    @property
    def at_unit(self) -> UpdateRule:
        """The same rule; where eta is zero, with steps whose largest size is `unit`.

        Values are zero there, and what a designer follows, their gradient over `unit`, is that of
        any small step size: these steps are proportional to it. Parameter groups keep the
        proportion of the first later step that has a size, or of `base`; where neither is known
        they are alike.
        """
        if self.eta:
            return self
        model = self._first_sizes()
        if not isinstance(self.rules, Mapping):
            return replace(self, rules=_with_lr(self.rules, self.unit))
        sizes = dict.fromkeys(self.rules, 1.0)
        if isinstance(model, Mapping):
            largest = max(rule.lr for rule in model.values())
            sizes = {name: model[name].lr / largest for name in self.rules}
        rules = {name: _with_lr(r, self.unit * sizes[name]) for name, r in self.rules.items()}
        return replace(self, rules=rules)

    def _first_sizes(self) -> Rules | None:
        """The rules of the first later step that has a size, else `base`."""
        for k in range(1, _FORESEEN + 1) if self.later is not None else ():
            assert self.later is not None
            try:
                rules = self.later(k)
            except Exception:  # factors of zero say nothing, and a schedule may end
                break
            if any(r.lr for r in (rules.values() if isinstance(rules, Mapping) else (rules,))):
                return rules
        return self.base

    def require_descent(self, what: str) -> None:
        """Refuse what supposes a learner that goes down L_pre, where its optimizer climbs.

        Args:
            what: what supposes it, for the message.

        Raises:
            UserError: a rule has `maximize`.
        """
        if any(getattr(rule, "maximize", False) for rule in self._each):
            raise UserError(
                f"{what} supposes steps down the gradient, and the optimizer climbs "
                "(maximize=True): take first_order preconditioned or unrolled, which simulate the "
                "step, or let the optimizer minimise the negative loss"
            )

    def at(self, k: int) -> UpdateRule:
        """The rule of the k-th step from now: later ones have an empty accumulation window.

        Args:
            k: 0 is the next step.
        """
        if k == 0:
            return self
        rules = self.rules if self.later is None else self.later(k)
        return replace(
            self, rules=rules, accumulated=None, weight=1.0, closes_window=True, windows=None
        )

    def summed(self, k: int) -> UpdateRule:
        """The rule of the k-th step from now, for its micro-batches' gradients times their shares.

        Args:
            k: 0 is the next step, whose window may hold something already.
        """
        return replace(self.at(k), weight=1.0, closes_window=True, windows=None)

    def taken(self, steps: int, batches: int) -> Taken:
        """Which micro-batches each of the next steps takes.

        Args:
            steps: how many steps are simulated.
            batches: how many batches there are.
        """
        if self.windows is not None:
            windows = given_windows(self.windows)
        else:
            windows = equal_windows(
                self.weight, closes=self.closes_window, begins=self.accumulated is None
            )
        return windows.taken(steps, batches)

    def eta_over(self, first: int, stop: int) -> float:
        """The sum of eta over the steps `first` to `stop` - 1 from now."""
        return math.fsum(self.at(k).eta for k in range(first, stop))

    def in_full_precision(self) -> UpdateRule:
        """The rule without arithmetic in bfloat16 (Muon's): for finite differences of the step."""

        def wide(rule: Rule) -> Rule:
            return replace(rule, narrow=False) if isinstance(rule, Muon) else rule

        def all_of(rules: Rules) -> Rules:
            if isinstance(rules, Mapping):
                return {name: wide(rule) for name, rule in rules.items()}
            return wide(rules)

        later = self.later
        return replace(
            self,
            rules=all_of(self.rules),
            later=None if later is None else lambda k: all_of(later(k)),
        )

    def notes(self, steps: int = 1, batches: int | None = None) -> dict[str, bool]:
        """Where simulated steps are approximations of the live ones, for the diagnostics.

        - `window_incomplete`: micro-batches that this window has yet to add are left out.
        - `clip_outside_held`: the norm outside S enters the clipping as a constant.
        - `later_steps_single`: steps after the next one take one micro-batch where the live ones
          average a window of them: there are not so many batches.
        - `sign_step` (Rprop): the step is a sign, and its slope in the gradient is zero.
        - `bfloat16_step` (Muon): the value is that of bfloat16's iteration, the gradient that of
          the same iteration in full precision.

        Args:
            steps: how many steps are simulated.
            batches: how many batches there are for them; None is one a step.
        """
        taken = self.taken(steps, steps if batches is None else batches)
        kinds = {type(rule) for rule in self._each}
        said = {
            "sign_step": Rprop in kinds,
            "bfloat16_step": any(isinstance(r, Muon) and r.narrow for r in self._each),
        }
        return {
            "window_incomplete": not taken.open_full,
            "clip_outside_held": self.clip is not None and self.clip.outside is not None,
            "later_steps_single": not taken.later_full,
            **{name: True for name, holds in said.items() if holds},
        }

    def effective(self, g: Params) -> Params:
        """The gradient that the optimizer sees: accumulated and clipped."""
        g = self._window(g)
        return g if self.clip is None else trees.scale(g, self.clip.coefficient(g)[0])

    def step(
        self, theta: Params, state: OptimizerState, g: Params
    ) -> tuple[Params, OptimizerState]:
        """(theta+, state+) = U(theta, state, g).

        Args:
            theta: the learner's parameters (the subset S).
            state: optimizer state by name; absent names have taken no step.
            g: this micro-batch's gradient. A parameter without an entry, here and in
                `accumulated`, has no gradient: as in `torch.optim`, it and its state stay as
                they are.

        Returns:
            The next parameters and state; new tensors for those that move.
        """
        g = self.effective(g)
        after, moved = dict(theta), dict(state)
        for name, p in theta.items():
            if name in g:
                before = state.get(name, TensorState())
                after[name], moved[name] = guarded_step(self.rule(name), p, before, g[name])
        return after, moved

    def vjp(
        self,
        theta: Params,
        state: OptimizerState,
        g: Params,
        theta_bar: Params,
        state_bar: Mapping[str, Buffers],
        *,
        emptied: bool = False,
    ) -> tuple[Params, dict[str, Buffers], Params]:
        """(dU)^T at (theta, state, g), g's dependence on theta not included.

        Args:
            theta: the point of the step.
            state: the state before it.
            g: the gradient it used; see `step`.
            theta_bar: cotangent of the next parameters.
            state_bar: cotangents of the next buffers, by name; absent means zero.
            emptied: whether `state`, `g`, `theta_bar` and `state_bar` are dicts that may be emptied
                on the way, so that what has been read and what has been made are never all there.

        Returns:
            Cotangents of theta, of the state's buffers, and of g. The last is shaped like theta,
            zero where g has no entry; there the step is the identity, and so is its pullback.
        """
        seen, own = self.effective(g), tuple(g)
        states = dict(state) if not emptied else cast("dict[str, TensorState]", state)
        bars = dict(theta_bar) if not emptied else theta_bar
        buffers = dict(state_bar) if not emptied else cast("dict[str, Buffers]", state_bar)
        # clipping reads all of the gradient once more
        seen = dict(seen) if not emptied or self.clip is not None else seen
        moved = tuple(name for name in theta if name in seen)
        before: Params = {}
        buffers_before: dict[str, Buffers] = {}
        g_bar: Params = {}
        for name in moved:
            before[name], buffers_before[name], g_bar[name] = guarded_vjp(
                self.rule(name),
                theta[name],
                states.pop(name, TensorState()),
                seen.pop(name),
                bars.pop(name),
                buffers.pop(name, {}),
            )
        before = {name: before[name] if name in before else bars[name] for name in theta}
        buffers_before |= buffers
        if self.clip is not None:
            g_bar = self.clip.vjp(self._window(g), g_bar)
        g_bar = trees.scale(g_bar, self.weight) if self.weight != 1.0 else g_bar
        reached = {name: g_bar[name] for name in own if name in g_bar}
        return before, buffers_before, trees.filled(reached, theta)

    @property
    def affine(self) -> bool:
        """Whether the step is affine in (theta, state, g), so that `vjp` reads no gradient."""
        return self.clip is None and all(type(rule) is SGD for rule in self._each)

    @property
    def _each(self) -> Iterable[Rule]:
        return self.rules.values() if isinstance(self.rules, Mapping) else (self.rules,)

    def _window(self, g: Params) -> Params:
        """What `.grad` holds at the step: the window so far, and this micro-batch at its weight."""
        g = trees.scale(g, self.weight) if self.weight != 1.0 else g
        if self.accumulated is not None:
            held = self.accumulated
            g = held | {name: x + held[name] if name in held else x for name, x in g.items()}
        return {**self.cleared, **g} if self.cleared else g


_SMALL = 2.0**-20
"""The unit of a rule that is proportional to small sizes alone; a power of two loses no bit."""

_FORESEEN = 100
"""Later steps that are looked through for the first with a size."""


def _is_size(lr: object) -> bool:
    return isinstance(lr, float | int) and 0 <= lr < math.inf


def _is_plain(x: object) -> bool:
    if isinstance(x, tuple):
        return all(map(_is_plain, x))
    return type(x) in (float, int, bool) or not isinstance(x, Real | Decimal)


def _with_lr(rule: Rule, lr: float) -> Rule:
    """The rule at another step size; a rule that is no dataclass keeps its own."""
    known = is_dataclass(rule) and any(field.name == "lr" for field in fields(rule))
    return replace(cast("Any", rule), lr=lr) if known else rule
