"""Predicts what V-pretraining costs at any size: FLOPs, bytes in memory, bytes between processes.

Formulas in the learner's sizes, the subset S, the tokens and r; `docs/scaling.md` states and
explains them, and a test holds them against FLOPs counted by operation. Multiply-adds count twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfunc.studies.shapes import Shape

SIZES = {
    "0.5B": Shape(896, 24, 14, 2, 4864, 151_936, 4, 512, (256, 224, 192, 160), 256, 6, 64),
    "7B": Shape(3584, 28, 28, 4, 18_944, 152_064, 4, 512, (256, 224, 192, 160), 256, 6, 64),
    "70B": Shape(8192, 80, 64, 8, 29_568, 152_064, 4, 512, (256, 224, 192, 160), 256, 6, 64),
}
"""Qwen2.5's 0.5B, 7B and 72B, with the paper's designer and K (Table 10)."""


@dataclass(frozen=True)
class Machine:
    """What a prediction assumes of GPUs and their links.

    Attributes:
        flops: FLOPs a second of one, as reached and not as advertised.
        near: bytes a second from one GPU to others of its machine.
        far: the same to those of other machines.
        together: GPUs in a machine.
        memory: bytes of one.
    """

    flops: float = 4e14
    near: float = 4e11
    far: float = 4e10
    together: int = 8
    memory: float = 80e9


@dataclass(frozen=True)
class Cost:
    """What a meta period of r micro-batches costs, of one process.

    Attributes:
        baseline: FLOPs of the learner's own steps.
        designing: FLOPs of the designer's forward passes for their tasks.
        estimate: FLOPs of g_down, the pullback and the designer's own step.
        steps: bytes that a process sums for the learner's steps.
        summed: bytes that it sums beside, for g_down and the designer's gradient.
        held: bytes of parameters, gradients and optimizer state.
        added: bytes beside them: the designer's, and g_down.
        below: bytes of the parameters of blocks below S, which `--shard-learner` spreads.
        period: r, micro-batches.
    """

    baseline: int
    designing: int
    estimate: int
    steps: int
    summed: int
    held: int
    added: int
    below: int
    period: int

    def held_in_shards(self, processes: int) -> float:
        """Bytes that a process holds where what is below S is spread over so many."""
        return self.held + self.added - 4 * self.below * (1 - 1 / processes)

    @property
    def steps_in_shards(self) -> float:
        """As `steps`, in bytes of sums: a block is gathered twice, and its gradient scattered.

        Each of the three sends a number once, where a sum sends it twice.
        """
        return self.steps + self.below * self.period / 2

    @property
    def lost(self) -> float:
        """The share of tokens a second that designing costs, by FLOPs alone."""
        added = self.designing + self.estimate
        return added / (self.baseline + added)


def cost(shape: Shape, last: int | None, *, bytes_a_number: int = 4) -> Cost:
    """What first-order value by the `linear` engine costs.

    Args:
        shape: the sizes of learner, batches and designer.
        last: blocks in S, the last ones; None is the whole learner.
        bytes_a_number: of parameters, gradients and moments.
    """
    blocks = shape.layers if last is None else last
    tied = 1 if last is None else 0  # the head's own weights are in S
    texts = (shape.length,) * shape.batch
    own = 3 * (forward(shape, shape.layers, texts) + head(shape, texts))
    own += shape.layers * attention(shape, texts) // 2  # fused, it computes scores anew
    g_down = (
        forward(shape, shape.layers, shape.feedback)
        + 2 * forward(shape, blocks, shape.feedback)
        + (2 + tied) * head(shape, shape.feedback)
    )
    pullback = 3 * forward(shape, blocks, texts) + (2 + tied) * head(shape, texts)
    designer = designer_forward(shape, texts)
    phi, theta = designer_numbers(shape), learner_numbers(shape)
    s = theta if last is None else last * block_numbers(shape)
    return Cost(
        own * shape.period,
        designer * shape.period,
        g_down + pullback + 3 * designer,
        theta * bytes_a_number * shape.period,
        (s + phi) * bytes_a_number,
        4 * theta * bytes_a_number,
        (4 * phi + s) * bytes_a_number,
        (shape.layers - blocks) * block_numbers(shape) * bytes_a_number,
        shape.period,
    )


def block_numbers(shape: Shape) -> int:
    """Numbers in a block's matrices."""
    across = shape.width // shape.heads
    attention = 2 * shape.width * (shape.heads + shape.pairs) * across
    return attention + 3 * shape.width * shape.inner


def learner_numbers(shape: Shape) -> int:
    """The learner's parameters, without norms and biases, with one embedding for both ends."""
    return shape.layers * block_numbers(shape) + shape.vocabulary * shape.width


def designer_numbers(shape: Shape) -> int:
    """phi: the embedding, and the matrices of the blocks, the gate and the scores."""
    w = shape.designer_width
    return shape.vocabulary * w + shape.designer_layers * 12 * w * w + 4 * w * w


def forward(shape: Shape, blocks: int, texts: Sequence[int]) -> int:
    """FLOPs of a forward pass of so many blocks over texts of these lengths, padded alike."""
    matrices = 2 * len(texts) * max(texts) * block_numbers(shape)
    return blocks * (matrices + attention(shape, texts))


def attention(shape: Shape, texts: Sequence[int]) -> int:
    """FLOPs of a block's scores and of the means by them, as if none were masked."""
    return 4 * len(texts) * max(texts) ** 2 * shape.width


def head(shape: Shape, texts: Sequence[int]) -> int:
    """FLOPs of the logits of all tokens."""
    return 2 * len(texts) * max(texts) * shape.vocabulary * shape.width


def designer_forward(shape: Shape, texts: Sequence[int]) -> int:
    """FLOPs of the designer's forward: its blocks, its gate, and scores of K candidates a token."""
    tokens, longest, w = len(texts) * max(texts), max(texts), shape.designer_width
    trunk = shape.designer_layers * (24 * w * w + 4 * longest * w)
    gate = 2 * (2 * w + 4) * w + 2 * w
    scores = 2 * w * w + shape.top_k * (2 * (w + 3) * w + 2 * w)
    return tokens * (trunk + gate + scores)


@dataclass(frozen=True)
class Prediction:
    """What is lost at a size, on so many GPUs, each with its own micro-batches.

    Attributes:
        size: the learner.
        align: the subset S.
        gpus: how many.
        held: GB that a process holds without activations, all of it replicated.
        fits: whether that is less than a GPU's memory.
        flops_lost: the share of tokens a second that designing costs, by FLOPs.
        lost: the same with the time that sums take, none of it hidden behind arithmetic.
        steps: the share of the baseline's own time that its sums take.
        held_in_shards: as `held`, with the blocks below S in shards; None where there is nothing
            to spread.
        fits_in_shards: whether that is less than a GPU's memory.
        steps_in_shards: as `steps`, with what shards send.
    """

    size: str
    align: str
    gpus: int
    held: float
    fits: bool
    flops_lost: float
    lost: float
    steps: float
    held_in_shards: float | None
    fits_in_shards: bool
    steps_in_shards: float


def predictions(machine: Machine | None = None) -> list[Prediction]:
    """What is lost at 0.5B, 7B and 70B parameters on 1, 8 and 256 GPUs.

    Args:
        machine: the GPUs and links; None is the default's.
    """
    machine = machine or Machine()
    found = []
    for size, shape in SIZES.items():
        for align, last in (("last:2", 2), ("all", None)):
            for gpus in (1, 8, 256):
                found.append(_predicted(size, align, cost(shape, last), gpus, machine))
    return found


def scaling_markdown(rows: Sequence[Prediction], machine: Machine | None = None) -> str:
    """The predictions as a table for people.

    Args:
        rows: the predictions.
        machine: what they assume.
    """
    machine = machine or Machine()
    lines = [
        f"Predicted for GPUs of {machine.flops / 1e12:g} TFLOP/s as reached and "
        f"{machine.memory / 1e9:g} GB, {machine.near / 1e9:g} GB/s between {machine.together} of a "
        f"machine and {machine.far / 1e9:g} GB/s beyond; not measured.",
        "",
        "| learner | S | GPUs | held by each | tokens/s lost, FLOPs | with sums | "
        "sums in the baseline's time | held in shards | what these send in its time |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r.size} | {r.align} | {r.gpus} | {_held(r.held, r.fits)} | "
            f"{100 * r.flops_lost:.1f} % | {100 * r.lost:.1f} % | {100 * r.steps:.0f} % | "
            f"{_shards(r)} |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _held(gigabytes: float, fits: bool) -> str:
    return f"{gigabytes:.0f} GB{'' if fits else ' (too much)'}"


def _shards(row: Prediction) -> str:
    if row.held_in_shards is None:
        return "– | –"
    return f"{_held(row.held_in_shards, row.fits_in_shards)} | {100 * row.steps_in_shards:.0f} %"


def _predicted(size: str, align: str, spent: Cost, gpus: int, machine: Machine) -> Prediction:
    steps = sum_seconds(spent.steps, gpus, machine)
    arithmetic = spent.baseline / machine.flops
    plain = arithmetic + steps
    spread = bool(spent.below) and gpus > 1
    sent = sum_seconds(spent.steps_in_shards, gpus, machine)
    in_shards = spent.held_in_shards(gpus)
    added = (spent.designing + spent.estimate) / machine.flops
    added += sum_seconds(spent.summed, gpus, machine)
    held = spent.held + spent.added
    return Prediction(
        size,
        align,
        gpus,
        held / 1e9,
        held < machine.memory,
        spent.lost,
        added / (plain + added),
        steps / plain,
        in_shards / 1e9 if spread else None,
        in_shards < machine.memory,
        sent / (arithmetic + sent),
    )


def sum_seconds(held: float | int, processes: int, machine: Machine) -> float:
    """Seconds to sum so many bytes over processes, ring by ring: each sends them nearly twice."""
    if processes == 1:
        return 0.0
    link = machine.near if processes <= machine.together else machine.far
    return 2 * (processes - 1) / processes * held / link
