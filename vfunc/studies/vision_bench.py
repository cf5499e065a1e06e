"""Measures what a designer's update costs in vision, piece by piece, over a plain step."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import tyro
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vfunc import trees
from vfunc.arms import ARMS
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.problem import ValueProblem, construct_task, feedback_gradient
from vfunc.pullback import pull_back
from vfunc.split import Whole
from vfunc.studies.bench_command import refuse_idle_of_run
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled, assemble
from vfunc.training.build.vision_config import VisionConfig
from vfunc.training.run_command_line import parse, run_guarded
from vfunc.training.start import start_arm
from vfunc.training.step import micro_batch, optimizer_step, value_problem
from vfunc.vision.workload import VisionWorkload
from vfunc.workload import Workload

DESCRIPTION = """Time a designer's update against a plain self-supervised step, piece by piece.

It takes run.py's options for --modality vision (see run.py --help). The *plain step* is the
baseline's: teacher, student, backward, clipping, optimizer, teacher's average; crops are cut
beforehand. The *meta step* is the pullback of g_down to the designer, the regularisers, and the
designer's optimizer step, on --meta-batch-size pictures. The gradient of L_down and the heads'
refit have rows of their own. The floor is the same ratio counted in floating-point operations of
matrix products, convolutions and attention.

Every piece is timed in turn with a plain step in the same process; the table shows the median
ratio, and the least and the most.

Examples:
  %(prog)s
  %(prog)s --engine forward --align last:1
  %(prog)s --objective ijepa --repeats 50"""


@dataclass(frozen=True)
class BenchOptions:
    """How often to measure."""

    repeats: Annotated[int, tyro.conf.arg(help="Paired repeats of each piece.")] = 20


@dataclass(frozen=True)
class Row:
    """One piece: its name, its time over a plain step's (median, least, most), and the floor."""

    name: str
    ratio: tuple[float, float, float]
    floor: float


def main(argv: Sequence[str], program: str) -> int:
    """Carry out a command line; errors and exit codes are those of `run`.

    Args:
        argv: options.
        program: name of the command, for `--help`.
    """
    debug = [word for word in argv if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: _measure(argv, program), debug)


def _measure(argv: Sequence[str], program: str) -> None:
    with refused_in_a_line(argv):
        options, rest = tyro.cli(
            BenchOptions,
            args=list(argv),
            prog=program,
            description=DESCRIPTION.replace("%(prog)s", program),
            return_unknown_args=True,
        )
    if options.repeats < 1:
        raise UserError("--repeats must be at least 1")
    words = ["--modality", "vision", *rest]
    refuse_idle_of_run(words)
    config = parse(words)
    assert isinstance(config, VisionConfig)
    parts = assemble(config)
    rows = rows_of(parts, options.repeats)
    console = SafeConsole(width=None if sys.stdout.isatty() else 100)
    console.print(
        f"{config.options['objective']}, S = {config.estimator.align}, {config.data.batch_size} "
        f"pictures a step, {config.views.meta_batch_size} of them in an estimate, on "
        f"{parts.device} with {torch.get_num_threads()} threads",
        highlight=False,
    )
    console.print(table(rows))


def rows_of(parts: Assembled, repeats: int) -> list[Row]:
    """The pieces, each over a plain step: with the split at S's lower edge and without."""
    run = start_arm("vpretraining", parts)
    workload, functional = run.workload, run.state.functional
    assert isinstance(workload, VisionWorkload)
    batch, feedback = workload.batch(0), workload.feedback(0)
    plain = _plain_step(run, batch)
    observed = (workload.look_ahead(run.state.learner, batch),)
    problem = value_problem(run, observed, 0)
    uncut = replace(run.estimated, split=Whole("not cut, to compare"))
    whole = value_problem(replace(run, estimated=uncut), observed, 0)
    _, g_down = feedback_gradient(problem, functional.theta)

    def refit() -> None:
        workload.measured(functional, feedback.heads, feedback.meta)

    pieces: dict[str, Callable[[], object]] = {
        "meta step, split": _meta_step(run, problem, g_down),
        "meta step, whole": _meta_step(run, whole, g_down),
        "gradient of L_down": lambda: feedback_gradient(problem, functional.theta),
        "refit of the heads": refit,
    }
    if not problem.split.startswith("the lower"):  # nothing to cut off
        pieces["meta step"] = pieces.pop("meta step, whole")
        del pieces["meta step, split"]
    for piece in (plain, *pieces.values()):  # first calls set kernels up
        piece()
    own = _flops(plain)
    rows = []
    for name, piece in pieces.items():
        ratios = []
        for _ in range(repeats):
            step = _seconds(plain, parts.device)
            ratios.append(_seconds(piece, parts.device) / step)
        rows.append(
            Row(name, (statistics.median(ratios), min(ratios), max(ratios)), _flops(piece) / own)
        )
    return rows


def table(rows: Sequence[Row]) -> Table:
    """The measurements, a row a piece."""
    drawn = Table(box=None, header_style="bold")
    drawn.add_column("piece")
    drawn.add_column("time over a plain step", justify="right")
    drawn.add_column("floor (operations)", justify="right")
    for row in rows:
        drawn.add_row(row.name, "{:.2f} ({:.2f}-{:.2f})".format(*row.ratio), f"{row.floor:.2f}")
    return drawn


def _plain_step(run: ArmRun, batch: object) -> Callable[[], None]:
    """The baseline's own step, on crops that are there."""
    baseline = replace(
        run,
        arm=ARMS["baseline"],
        estimator=None,
        workload=_Ready(run.workload, batch),
        options=replace(run.options, accumulate=1),
    )

    def step() -> None:
        taken = micro_batch(baseline)
        optimizer_step(baseline)
        run.workload.stepped(run.state.learner, [taken.carried], 0.5)

    return step


class _Ready:
    """A workload whose every micro-batch is one that has been cut already."""

    def __init__(self, workload: Workload, batch: object) -> None:
        self._workload, self._batch = workload, batch

    def __getattr__(self, name: str) -> object:
        return getattr(self._workload, name)

    def batch(self, position: int) -> object:
        return self._batch


def _meta_step(run: ArmRun, problem: ValueProblem, w: trees.Params) -> Callable[[], None]:
    """Pullback, regularisers, and the designer's optimizer step."""
    designer, optimizer = run.state.designer, run.state.designer_optimizer
    assert designer is not None and optimizer is not None
    engine = getattr(run.estimator, "engine", "auto")
    workload, penalties = run.workload, run.options.penalties
    theta = run.state.functional.theta

    def step() -> None:
        phi = trees.detach(dict(designer.named_parameters()))
        construction = construct_task(problem, phi, problem.batches[0])
        ascent = pull_back(problem, theta, construction, w, engine).grad
        leaves = trees.leaves(phi)
        terms = workload.regularisers(designer, leaves, problem.batches[0])
        weighted = (penalties[name] * terms[name] for name in penalties)
        penalty = sum(weighted, torch.zeros(()))
        descent = trees.axpy(-1.0, ascent, trees.gradient(penalty, leaves))
        for name, parameter in designer.named_parameters():
            parameter.grad = descent[name]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class _Operations(TorchDispatchMode):
    """Counts floating-point operations.

    torch's own counter follows modules too, by hooks that a double backward does not bear.
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


def _flops(piece: Callable[[], object]) -> float:
    # fused attention on a CPU is in no registry: its plain formula is
    with sdpa_kernel(SDPBackend.MATH), _Operations() as counter:
        piece()
    return float(counter.total)


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
