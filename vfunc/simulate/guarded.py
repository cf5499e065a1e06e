"""Asks a rule for its step and its pullback so that nothing of the live learner's can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from vfunc.errors import UserError
from vfunc.simulate.rule import Buffers, Rule, TensorState

_OWN = f"{__package__}."
"""Where the rules are that are known to return new tensors."""


def guarded_step(
    rule: Rule, p: Tensor, state: TensorState, g: Tensor
) -> tuple[Tensor, TensorState]:
    """A rule's step; a rule of the user's is given copies, and is refused if it writes to them.

    Args:
        rule: anybody's.
        p: the parameter, which may be the live learner's own memory.
        state: its state, likewise.
        g: its gradient.

    Returns:
        What the rule returns, checked.

    Raises:
        UserError: it returns something else than a parameter and its state, or it writes to what it
            is given, or the state is another optimizer's; nothing that was passed in has changed.
    """
    if type(rule).__module__.startswith(_OWN):
        after, moved = rule.step(p, state, g)
        _require_known(rule, state, moved)
        return after, moved
    p, g, given = p.clone(), g.clone(), _copied(state.buffers)
    state = replace(state, buffers=dict(given))
    seen = {"p": p, "g": g, **given}
    versions = {name: x._version for name, x in seen.items()}
    returned: object = rule.step(p, state, g)
    _require_unchanged(rule, "step", seen, versions)
    _require_same_buffers(rule, state.buffers, given)
    return _checked(rule, returned)


def guarded_vjp(
    rule: Rule, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
) -> tuple[Tensor, Buffers, Tensor]:
    """A rule's pullback, as `guarded_step` asks for its step; see `Rule.vjp`.

    Raises:
        UserError: it writes to what it is given; nothing that was passed in has changed.
    """
    if type(rule).__module__.startswith(_OWN):
        return rule.vjp(p, state, g, p_bar, buffers_bar)
    p, g, p_bar, given = p.clone(), g.clone(), p_bar.clone(), _copied(state.buffers)
    bars = _copied(buffers_bar)
    seen = {"p": p, "g": g, "p_bar": p_bar, **given}
    seen |= {f"cotangent of {name}": x for name, x in bars.items()}
    versions = {name: x._version for name, x in seen.items()}
    returned = rule.vjp(p, replace(state, buffers=dict(given)), g, p_bar, dict(bars))
    _require_unchanged(rule, "vjp", seen, versions)
    return returned


def _require_known(rule: Rule, before: TensorState, moved: TensorState) -> None:
    """Refuse a state that is another optimizer's: what it lacks would count as zero.

    One may hold more: torch keeps a momentum that has been switched off.
    """
    if not before.buffers or moved.buffers.keys() <= before.buffers.keys():
        return
    given, kept = (", ".join(sorted(x.buffers)) or "nothing" for x in (before, moved))
    raise UserError(
        f"the optimizer's state holds {given}, and {type(rule).__name__} keeps {kept}: take rule "
        "and state of one optimizer (vfunc.from_optimizer), or leave the state empty before the "
        "first step"
    )


def _copied(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in buffers.items()}


def _checked(rule: Rule, returned: object) -> tuple[Tensor, TensorState]:
    """What a step returns: rules are written by users, too."""
    match returned:
        case (Tensor() as after, TensorState() as moved):
            _require_tensors(rule, moved)
            return after, moved
    raise UserError(
        f"{type(rule).__name__}.step returned {_told(returned)}; it has to return the next "
        "parameter and its TensorState"
    )


def _require_tensors(rule: Rule, state: TensorState) -> None:
    """Refuse numbers among the buffers, through which no adjoint runs."""
    held: Mapping[str, object] = state.buffers
    for name, x in held.items():
        if not isinstance(x, Tensor):
            raise UserError(
                f"{type(rule).__name__} keeps a {type(x).__name__} as its buffer {name!r}; buffers "
                "are tensors (torch.tensor of it), and the count of steps is the state's `step`"
            )


def _told(returned: object) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {', '.join(type(x).__name__ for x in returned) or 'nothing'}"
    return f"a {type(returned).__name__}"


def _require_unchanged(
    rule: Rule, function: str, seen: Mapping[str, Tensor], versions: Mapping[str, int]
) -> None:
    """Refuse a rule that works in place: what it is given is the live learner's."""
    for name, x in seen.items():
        if x._version != versions[name]:
            raise UserError(
                f"{type(rule).__name__}.{function} changes its {name} in place, which may be the "
                "live learner's own: it has to return new tensors"
            )


def _require_same_buffers(
    rule: Rule, buffers: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    """Refuse a rule that puts its next buffers into the state that it is given."""
    changed = [n for n in {**given, **buffers} if buffers.get(n) is not given.get(n)]
    if changed:
        raise UserError(
            f"{type(rule).__name__}.step changes {changed[0]!r} of the state that it is given: it "
            "has to return a new TensorState"
        )
