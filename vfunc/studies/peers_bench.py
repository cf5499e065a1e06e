"""Measures this package's lookahead beside other packages' on the same problem.

d L_down(theta_K) / d phi of a twelve-layer MLP in float32, K steps of SGD with momentum or AdamW
from a fresh state (see `mlp_problem`). What differentiates the weights of data alone is asked for
those, and so are autograd and this package beside it. Adam, one step, is for what has no AdamW.

Everything is told over naive autograd, a double backward through all steps, in turns with it: time,
FLOPs, and the gradient's error, both relative to naive autograd's gradient in float64. Memory is
peak bytes of tensors over those of one plain gradient of L_pre. Copies of theta in it count; theta
itself does not. It is the same count for all. The resident memory of the process differs from it by
what its allocator holds back between tensors (more where many sizes come and go), by the files that
the kernel keeps for a package that writes its states to disk, and by buffers that such a package
serialises in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from vfunc import trees
from vfunc.errors import UserError
from vfunc.evaluation.flops import Flops
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.extras import MissingExtraError
from vfunc.studies.peers.mlp_problem import (
    SIZES,
    Kind,
    Lookahead,
    MlpSizes,
    Step,
    Tuned,
    lookahead,
    plain_gradient,
)
from vfunc.studies.peers.other_packages import by_bergson, by_higher, by_torchopt
from vfunc.studies.peers.own_estimators import own_lookahead
from vfunc.studies.peers.plain_loops import naive_autograd, nested_func
from vfunc.studies.training_bench import Spread, seconds_of
from vfunc.trees import Params

Peer = Callable[[Lookahead], Params]

NAIVE = "naive autograd"

PEERS: dict[str, Peer] = {
    NAIVE: naive_autograd,
    "vfunc": own_lookahead(),
    "vfunc, checkpoint_every=4": own_lookahead(checkpoint_every=4),
    "vfunc, states=disk": own_lookahead(states="disk"),
    "vfunc, engine forward": own_lookahead("forward"),
    "nested torch.func": nested_func,
    "TorchOpt": by_torchopt,
    "higher": by_higher,
    "bergson": by_bergson,
}
"""All by name, naive autograd first."""

WRONG = 30.0
"""Error over naive autograd's above which a gradient is called wrong."""

QUESTIONS: tuple[tuple[Kind, Tuned, tuple[int, ...]], ...] = (
    ("adamw", "designer", (1, 4, 16)),
    ("sgd", "designer", (1, 4, 16)),
    ("adam", "designer", (1,)),
    ("adamw", "weights", (1, 4, 16)),
)
"""The learner's optimizer, what phi is, and K."""

LEFT_OUT: dict[tuple[Kind, Tuned], tuple[str, ...]] = {
    ("adam", "designer"): (
        "vfunc, checkpoint_every=4",
        "vfunc, states=disk",
        "vfunc, engine forward",
        "bergson",
    ),
    ("adamw", "weights"): ("vfunc, engine forward", "nested torch.func", "TorchOpt", "higher"),
}
"""Rows that would say nothing new."""


@dataclass(frozen=True)
class PeerCost:
    """What one package did on one question.

    Attributes:
        peer: its name.
        optimizer: the learner's.
        tuned: what phi is.
        steps: K.
        time: seconds over naive autograd's; None where time is not measured.
        memory: peak bytes over a plain gradient's, over the same of naive autograd.
        copies: the former in copies of theta.
        flops: FLOPs over naive autograd's.
        error: of the gradient, relative to float64; of the first draw of the problem.
        over_naive: the error over naive autograd's, over the draws of the problem: in one it is
            above or below by a few percent for any order of the same sums.
        said: what is wrong, or why there is no figure; "" where all is well.
    """

    peer: str
    optimizer: str
    tuned: str
    steps: int
    time: Spread | None = None
    memory: float | None = None
    copies: float | None = None
    flops: float | None = None
    error: float | None = None
    over_naive: Spread | None = None
    said: str = ""


@dataclass(frozen=True)
class _Run:
    """One counted call: its gradient, FLOPs and peak bytes."""

    grad: Params
    flops: int
    peak: int


def peer_costs(
    sizes: MlpSizes,
    optimizer: Kind,
    tuned: Tuned,
    steps: int,
    repeats: int,
    peers: dict[str, Peer] | None = None,
    draws: int = 3,
) -> list[PeerCost]:
    """Ask all one question.

    Args:
        sizes: of the MLP and its batches.
        optimizer: the learner's.
        tuned: what phi is.
        steps: K.
        repeats: paired repeats of each time, half as many of a long lookahead; 0 measures none.
        peers: those asked, naive autograd among them; by default all that the question is for.
        draws: of the problem that errors are told over.

    Returns:
        A row each. One that does not run, or gives another gradient, says so in its row.
    """
    step = Step(optimizer)
    if peers is None:
        left = LEFT_OUT.get((optimizer, tuned), ())
        peers = {name: peer for name, peer in PEERS.items() if name not in left}
    asked = lookahead(sizes, steps, step, tuned)
    exact = naive_autograd(lookahead(sizes, steps, step, tuned, torch.float64))
    with counting_peak(torch.device("cpu")) as plain:
        plain_gradient(asked)
    runs: dict[str, _Run] = {}
    failed: dict[str, str] = {}
    first = lookahead(sizes, 1, step, tuned)
    for name, peer in peers.items():
        found = _counted(peer, asked, first)
        if isinstance(found, _Run):
            runs[name] = found
        else:
            failed[name] = found
    ran = {name: peers[name] for name in runs}
    times = _times(ran, asked, _often(steps, repeats))
    naive = runs[NAIVE]
    errors = [{name: _error(run.grad, exact) for name, run in runs.items()}]
    for seed in range(1, draws):
        again, wide = (
            lookahead(sizes, steps, step, tuned, dtype, seed)
            for dtype in (torch.float32, torch.float64)
        )
        exact = naive_autograd(wide)
        errors.append({})
        for name, peer in ran.items():
            found = _counted(peer, again, first)
            if isinstance(found, _Run):
                errors[-1][name] = _error(found.grad, exact)
            else:
                failed[name] = f"of draw {seed + 1}: {found}"
    theta = sum(x.numel() * x.element_size() for x in asked.theta.values())
    rows = []
    for name in peers:
        row = PeerCost(name, optimizer, tuned, steps, said=failed.get(name, ""))
        if name in runs:
            run = runs[name]
            error = errors[0][name]
            there = [one for one in errors if name in one]
            over = [one[name] / one[NAIVE] for one in there]
            if not all(ratio <= WRONG for ratio in over):  # NaN is wrong, too
                worst = max((one[name] for one in there), key=lambda x: (math.isnan(x), x))
                failed[name] = f"wrong: its error is {worst:.2g} of the gradient"
            row = replace(
                row,
                time=Spread.of(times[name]) if repeats else None,
                memory=(run.peak - plain.peak) / (naive.peak - plain.peak),
                copies=(run.peak - plain.peak) / theta,
                flops=run.flops / naive.flops,
                error=error,
                over_naive=Spread.of(over),
                said=failed.get(name, ""),
            )
        rows.append(row)
    return rows


def _counted(peer: Peer, asked: Lookahead, first: Lookahead) -> _Run | str:
    """A call of a peer, counted, after one of a shorter question; or why it does not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other packages' own
            peer(first)
            with counting_peak(torch.device("cpu")) as peak, Flops() as flops:
                grad = peer(asked)
    except MissingExtraError as error:
        return f"not installed: pip install 'vfunc[peers]' ({error.name})"
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever it is that a package of others does
        return f"does not run: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return _Run(trees.detach(grad), flops.total, peak.peak)


def _often(steps: int, repeats: int) -> int:
    """How often a question is timed: half as often where it takes long."""
    return repeats if steps <= 4 else (repeats + 1) // 2


def _times(peers: dict[str, Peer], asked: Lookahead, repeats: int) -> dict[str, list[float]]:
    """Seconds over naive autograd's, all in turns."""
    found: dict[str, list[float]] = {name: [] for name in peers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            seconds = {
                name: seconds_of(partial(peer, asked), torch.device("cpu"))
                for name, peer in peers.items()
            }
            for name, taken in seconds.items():
                found[name].append(taken / seconds[NAIVE])
    return found


def _error(grad: Params, exact: Params) -> float:
    """|grad - exact| / |exact|."""
    apart = {name: grad[name].double() - x for name, x in exact.items()}
    return float(trees.norm(apart) / trees.norm(exact))


def peers_markdown(shape: str, rows: Sequence[PeerCost]) -> str:
    """The measurements as a table for people.

    Args:
        shape: name of the shape.
        rows: the measurements.
    """
    sizes = SIZES[shape]
    names = ("K", "time", "memory", "copies of theta", "FLOPs", "error", "over naive's", "")
    lines = [
        f"Shape {shape}: {sizes.layers} layers of {sizes.width}, batches of {sizes.batch}, "
        "float32. Time, memory and FLOPs are over naive autograd's (memory over a plain "
        "gradient's), error is relative to float64, and over naive's in the median (least-most) "
        "of some draws of the problem.",
    ]
    for optimizer, tuned in dict.fromkeys((row.optimizer, row.tuned) for row in rows):
        what = "a designer" if tuned == "designer" else "weights of data"
        lines += ["", f"{optimizer}, phi is {what}", ""]
        lines += ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        own = [row for row in rows if (row.optimizer, row.tuned) == (optimizer, tuned)]
        lines += [
            f"| {row.peer} | {row.steps} | " + " | ".join(_figures(row)) + " |" for row in own
        ]
    return "\n".join(lines) + "\n"


def _figures(row: PeerCost) -> list[str]:
    if row.error is None:
        return [""] * 6 + [row.said.replace("|", "/")]
    return [
        "" if row.time is None else str(row.time),
        f"{row.memory:.2f}",
        f"{row.copies:.1f}",
        f"{row.flops:.2f}",
        f"{row.error:.1e}",
        str(row.over_naive),
        row.said,
    ]
