"""Options of the learner, its optimizer, the designer and the estimator."""

# ruff: noqa: RUF009 (`option` returns a dataclass field, as `field` does)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.config.option import option
from vfunc.language.targets import Form

EMBEDDED = "embedded"

ESTIMATOR_OPTIONS = (
    "value",
    "lookahead_steps",
    "truncate",
    "checkpoint_every",
    "damping",
    "curvature",
    "solver",
    "solver_tolerance",
    "solver_steps",
    "inner_steps",
    "nystrom_rank",
    "precondition",
    "engine",
)
"""Options that an estimator takes by these names; the registry refuses those it has not."""


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """The model that is trained."""

    learner: str = option(
        "A directory or Hub id that transformers loads, or 'embedded', the small base that comes "
        "with the package. Vision: any ViT of timm by its name, or a directory.",
        default=EMBEDDED,
        metavar="DIR|ID",
    )
    lora_rank: int = option("Train LoRA adapters of this rank; 0 trains all.", default=0, least=0)
    lora_alpha: float | None = option("Scale of the adapters.", shown="twice --lora-rank", above=0)
    lora_dropout: float = option("Dropout on the adapters' input.", default=0.05, least=0, below=1)
    precision: Literal["float32", "bfloat16"] = option("Of the learner.", default="float32")
    device: str = option(
        "auto (a GPU if there is one), cpu, cuda or cuda:N.", default="auto", metavar="DEVICE"
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the learner takes its steps."""

    optimizer: Literal["adamw", "sgd"] = option("The learner's optimizer.", default="adamw")
    lr: float = option(
        "Peak learning rate.",
        shown="1e-3 for the embedded learner, else 1.5e-5, or 2e-4 with LoRA; vision: 5e-4 for "
        "the embedded learner, else 4.15e-6; none for sgd",
        above=0,
    )
    betas: tuple[float, float] = option(
        "AdamW's decay rates of the first and second moment.",
        shown="0.9 0.99 for the embedded learner, else 0.9 0.999",
        metavar="B1 B2",
        least=0,
        below=1,
    )
    momentum: float = option("sgd's momentum.", default=0.0, least=0, below=1)
    weight_decay: float = option(
        "Weight decay (decoupled in AdamW).", default=0.0, shown="0; vision: 0.04", least=0
    )
    clip: float = option("Largest norm of the gradient; 0 never clips.", default=1.0, least=0)
    warmup: float = option(
        "Fraction of the budget over which the learning rate rises.",
        shown="0.05 for the embedded learner and for vision, else 0.03",
        least=0,
        below=1,
    )
    final_lr: float = option(
        "Learning rate at the end, as a fraction of the peak; it falls linearly.",
        default=0.1,
        least=0,
        most=1,
    )
    accumulate: int = option("Micro-batches in an optimizer step.", default=1, least=1)


@dataclass(frozen=True, kw_only=True)
class DesignerOptions:
    """The model that turns each text into soft targets, or each picture into a view."""

    targets: Form | None = option(
        "What is learned of the targets: the gate between text and learner; also a bounded shift "
        "of the learner's probabilities; or a free distribution over candidates (the paper's).",
        shown="gate on the embedded problem, else free",
    )
    alpha_max: float | None = option(
        "Largest share of target mass that may leave the text's own token.",
        shown="1 for gate, else 0.5",
        least=0,
        most=1,
    )
    shift_bound: float = option(
        "Largest shift of a log-probability for --targets bounded, in nats.", default=1.0, above=0
    )
    top_k: int | None = option(
        "Candidate tokens at each position: the text's own, and the learner's best others.",
        shown="16 on the embedded problem, else 64",
        least=2,
    )
    designer_width: int = option(
        "Hidden size. Vision: channels at half resolution, or the transformer's hidden size.",
        shown="48 for the embedded learner, else 256; vision: 8 or 32 (photometric 16 or 32, dit "
        "48 or 192)",
        least=2,
    )
    designer_layers: int = option(
        "Transformer blocks. Vision: of a U-Net the levels below full resolution, of a photometric "
        "head the convolutions.",
        shown="1 for the embedded learner, else 6; vision: 3, dit 2 or 4",
        least=1,
    )
    designer_heads: int = option("Attention heads; they divide the width.", default=4, least=1)
    designer_features: bool = option(
        "Let the designer see the learner's log-probabilities of the candidates.", default=True
    )
    designer_lr: float = option(
        "Learning rate of the designer's Adam.",
        shown="4e-3 for the embedded learner, else 1e-4; vision: 3e-3 or 1.54e-4",
        above=0,
    )
    gate_penalty: float | None = option(
        "Weight of the penalty on the mean gate.", shown="0.3 for bounded, else 0", least=0
    )
    moved_penalty: float = option(
        "Weight of the penalty on the mean target mass that is off the text's own token.",
        default=0.0,
        least=0,
    )
    designer: str | None = option(
        "Start from a saved designer; its size and form of targets (vision: its kind, keep ratio "
        "and blur) hold.",
        default=None,
        shown="a new one",
        metavar="PATH",
    )
    freeze_designer: bool = option("Use --designer as it is, without training.", default=False)


@dataclass(frozen=True, kw_only=True)
class EstimatorOptions:
    """How the value of a task is estimated. An option that the estimator lacks is refused."""

    estimator: str = option(
        "first_order, unrolled, implicit, random or zero (two controls), or your own, "
        "package.module:Name.",
        default="first_order",
        metavar="NAME",
    )
    value: Literal["dot", "cosine", "preconditioned"] | None = option(
        "first_order: what to raise: the product of the two gradients, their cosine, or the "
        "product after the optimizer's own preconditioning.",
        default=None,
        shown="dot",
    )
    lookahead_steps: int | None = option(
        "unrolled: learner steps to look ahead.", default=None, shown="1", least=1
    )
    truncate: int | None = option(
        "unrolled: steps to differentiate through, counted from the last; approximate below "
        "--lookahead-steps.",
        default=None,
        shown="all",
        least=1,
    )
    checkpoint_every: int | None = option(
        "unrolled: steps between stored states; those between are made again.",
        default=None,
        shown="1, every step is stored",
        least=1,
    )
    damping: float | None = option(
        "implicit: weight of the proximal term, an inverse step size.",
        default=None,
        shown="1 / learning rate",
        above=0,
    )
    curvature: Literal["hessian", "gauss_newton"] | None = option(
        "implicit: the curvature in its linear systems; gauss_newton is approximate, and never "
        "negative.",
        default=None,
        shown="hessian",
    )
    solver: Literal["cg", "neumann", "nystrom", "dense"] | None = option(
        "implicit: how the adjoint's linear system is solved.", default=None, shown="cg"
    )
    solver_tolerance: float | None = option(
        "implicit: relative residual at which its solvers stop.",
        default=None,
        shown="1e-4",
        above=0,
        below=1,
    )
    solver_steps: int | None = option(
        "implicit: products that cg or terms that neumann spends on the adjoint, whatever the "
        "residual; approximate.",
        default=None,
        shown="until --solver-tolerance",
        least=1,
    )
    inner_steps: int | None = option(
        "implicit: Newton steps of the proximal problem, whatever the gap that remains; "
        "approximate.",
        default=None,
        shown="until --solver-tolerance",
        least=1,
    )
    nystrom_rank: int | None = option(
        "implicit with --solver nystrom: rank of the approximation.",
        default=None,
        shown="20",
        least=1,
    )
    precondition: Literal["none", "optimizer"] | None = option(
        "implicit with --solver cg: optimizer preconditions by AdamW's second moments.",
        default=None,
        shown="none",
    )
    engine: Literal["auto", "linear", "forward", "reverse", "finite_difference"] | None = option(
        "How the value is differentiated in the designer.", default=None, shown="auto"
    )
    align: str = option(
        "Parameters over which value is taken: all, last:N (blocks), lora, lora:last:N or "
        "re:PATTERN.",
        shown="all for the embedded learner, else last:2, or lora:last:2 with LoRA; vision: last:2",
        metavar="SUBSET",
    )
    meta_period: int = option(
        "Micro-batches between designer updates.", default=8, shown="8; vision: 4", least=1
    )
    burn_in: int = option(
        "Micro-batches before the designer's first update; until then its arm is the baseline.",
        default=0,
        least=0,
    )
    estimate_mode: Literal["eval", "train"] = option(
        "The learner's mode in estimates; train repeats its step's own dropout.", default="eval"
    )
