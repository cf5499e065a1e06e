"""The walk of a reader through one training step: which files it enters, and how often it changes.

    python tests/structure/walk.py            # counts
    python tests/structure/walk.py --path     # and every move, in order

One tiny language run is followed through its first optimizer step with a designer update. A *move*
is a call from a function of one file of the package into one of another; a call that is repeated at
once (for each parameter, say) is one move. What runs outside the package, and the checks of
annotations, arguments, purity and optimizers that stand around functions, are no part of the walk;
nor is attention's kernel, which torch calls.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import vfunc

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

ROOT = f"{Path(vfunc.__file__).parent}/"
CHECKS = {
    f"{ROOT}{name}"
    for name in ("typecheck.py", "problem/arguments.py", "problem/purity.py",
                 "problem/pieces_of_code.py", "pullback/missing.py",
                 "simulate/overrides.py", "pullback/overridden/attention.py",
                 "pullback/overridden/frozen_weights.py")
}  # fmt: skip
"""Files that stand around functions: what is called within them is on the way."""

LOOKS = {
    *(
        f"{ROOT}pullback/{name}"
        for name in (
            *("stop_gradients.py", "held_constant.py"),
            *("custom_functions.py", "lost_tangents.py"),
        )
    ),
    f"{ROOT}language/soft_targets/gates.py",
}
"""Files that nobody has to follow: they look at a loss once for each piece of code, or say in the
log what was made."""


@dataclass
class Walk:
    """The calls from file to file within the package, in order.

    Attributes:
        calls: of each move the file it leaves, the file it enters and the function there.
    """

    calls: list[tuple[str, str, str]] = field(default_factory=list)
    _stack: list[str] = field(default_factory=list)
    _looking: int = 0

    @property
    def moves(self) -> list[tuple[str, str, str]]:
        """The calls without those that repeat the one before."""
        pairs = zip(self.calls, [None, *self.calls], strict=False)
        return [call for call, before in pairs if call != before]

    @property
    def entered(self) -> Counter[str]:
        """How many moves end in each file; the file where the walk begins is one of them."""
        first = Counter({source: 0 for source, _, _ in self.calls[:1]})
        first.update(file for _, file, _ in self.moves)
        return first

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note an event of `sys.setprofile`."""
        name = frame.f_code.co_filename
        if not name.startswith(ROOT) or name in CHECKS:
            return
        if name in LOOKS:
            self._looking += {"call": 1, "return": -1}.get(event, 0)
        if name in LOOKS or self._looking:
            return
        if event == "call":
            name = name.removeprefix(ROOT)
            if self._stack and self._stack[-1] != name:
                self.calls.append((self._stack[-1], name, frame.f_code.co_name))
            self._stack.append(name)
        elif event == "return" and self._stack:
            self._stack.pop()


def walked(function: Callable[[], object]) -> Walk:
    """The walk of one call."""
    walk, before = Walk(), sys.getprofile()
    sys.setprofile(walk)
    try:
        function()
    finally:
        sys.setprofile(before)
    return walk


def first_step() -> Walk:
    """The walk of a small language run's first step, with a designer update in it."""
    from small_run import new_run

    from vfunc.training.loop import one_step

    one_step(new_run())  # what is looked at once for each piece of code
    run = new_run()
    walk = walked(lambda: one_step(run))
    assert run.state.counters.updates == 1
    return walk


if __name__ == "__main__":
    found = first_step()
    print(f"{len(found.entered)} files, {len(found.moves)} moves from file to file")
    for file, count in found.entered.most_common():
        print(f"{count:5} {file}")
    if "--path" in sys.argv:
        for source, file, function in found.moves:
            print(f"{source:32} {file:32} {function}")
