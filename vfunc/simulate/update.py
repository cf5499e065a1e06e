"""U: the step of a whole parameter dict, and its exact pullback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vfunc import trees
from vfunc.simulate.clip import Clip
from vfunc.simulate.rule import Buffers, OptimizerState, Rule, TensorState
from vfunc.trees import Params


@dataclass(frozen=True)
class UpdateRule:
    """U for a whole parameter dict: accumulate, clip, then each tensor's own rule.

    Attributes:
        rules: one rule for all parameters, or one a name (from parameter groups).
        clip: full-model norm clipping, if any.
        accumulated: what the accumulation window holds so far, detached; the step uses
            accumulated + weight * g.
        weight: this micro-batch's share of its window, 1 / n.
        closes_window: whether the live optimizer steps right after this micro-batch; elsewhere
            the simulated step leaves out what the window has yet to add.
    """

    rules: Rule | Mapping[str, Rule]
    clip: Clip | None = None
    accumulated: Params | None = None
    weight: float = 1.0
    closes_window: bool = True

    def rule(self, name: str) -> Rule:
        """The rule of one parameter."""
        return self.rules[name] if isinstance(self.rules, Mapping) else self.rules

    def learning_rate(self, name: str) -> float:
        """eta of one parameter."""
        return self.rule(name).lr

    @property
    def eta(self) -> float:
        """The step size eta: the largest, where parameter groups differ."""
        if isinstance(self.rules, Mapping):
            return max(rule.lr for rule in self.rules.values())
        return self.rules.lr

    def later(self) -> UpdateRule:
        """The rule of the steps after the next one: a fresh accumulation window."""
        return replace(self, accumulated=None, weight=1.0, closes_window=True)

    def notes(self, steps: int = 1) -> dict[str, bool]:
        """Where simulated steps are approximations of the live ones, for the diagnostics.

        - `window_incomplete`: micro-batches that the window has yet to add are left out.
        - `clip_outside_held`: the norm outside S enters the clipping as a constant.
        - `later_steps_single`: steps after the next one take one micro-batch where the live ones
          average a window of them. They keep the present step size, too.

        Args:
            steps: how many steps are simulated.
        """
        return {
            "window_incomplete": self.weight != 1.0 and not self.closes_window,
            "clip_outside_held": self.clip is not None and self.clip.outside is not None,
            "later_steps_single": steps > 1 and self.weight != 1.0,
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
            state: optimizer state by name; names that are absent start fresh.
            g: this micro-batch's gradient, shaped like theta.

        Returns:
            The next parameters and state, as new tensors.
        """
        g = self.effective(g)
        moved = {
            name: self.rule(name).step(p, state.get(name, TensorState()), g[name])
            for name, p in theta.items()
        }
        return {n: m[0] for n, m in moved.items()}, {n: m[1] for n, m in moved.items()}

    def vjp(
        self,
        theta: Params,
        state: OptimizerState,
        g: Params,
        theta_bar: Params,
        state_bar: Mapping[str, Buffers],
    ) -> tuple[Params, dict[str, Buffers], Params]:
        """(dU)^T at (theta, state, g), g's dependence on theta not included.

        Args:
            theta: the point of the step.
            state: the state before it.
            g: the gradient it used.
            theta_bar: cotangent of the next parameters.
            state_bar: cotangents of the next buffers, by name; absent means zero.

        Returns:
            Cotangents of theta, of the state's buffers, and of g.
        """
        seen = self.effective(g)
        back = {
            name: self.rule(name).vjp(
                p,
                state.get(name, TensorState()),
                seen[name],
                theta_bar[name],
                state_bar.get(name, {}),
            )
            for name, p in theta.items()
        }
        g_bar = {name: b[2] for name, b in back.items()}
        if self.clip is not None:
            g_bar = self.clip.vjp(self._window(g), g_bar)
        g_bar = trees.scale(g_bar, self.weight) if self.weight != 1.0 else g_bar
        return {n: b[0] for n, b in back.items()}, {n: b[1] for n, b in back.items()}, g_bar

    def _window(self, g: Params) -> Params:
        g = trees.scale(g, self.weight) if self.weight != 1.0 else g
        return g if self.accumulated is None else trees.axpy(1.0, g, self.accumulated)
