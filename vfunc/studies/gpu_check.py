"""Makes every figure that needs a GPU in one go: both modalities run, engines agree, what it costs.

Each section is a check, or a table, and has a share of the time; one that fails says so and leaves
the others their turn, since a machine with a GPU may be there once. On a CPU the same code runs at
tiny size, which is its test.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vfunc import trees
from vfunc.estimators import FirstOrder, Unrolled
from vfunc.problem import ValueEstimate
from vfunc.studies.bench import question, warm
from vfunc.studies.engines_bench import engine_costs, engines_markdown
from vfunc.studies.shapes import SHAPES, Shape, shaped_run
from vfunc.studies.training_bench import training_cost, training_markdown
from vfunc.studies.vision_bench import Row, rows_of
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import assemble
from vfunc.training.run import run
from vfunc.training.run_command_line import parse
from vfunc.training.start import start_arm

SUBSETS = ("last:2", "all")

RUNS = {
    "language": ("--batch-size", "4", "--eval-size", "16"),
    "vision": (
        *("--modality", "vision", "--batch-size", "4", "--meta-batch-size", "2"),
        *("--eval-size", "16", "--fit-size", "16", "--probe-steps", "10"),
    ),
}
"""Options of a run of each modality, from embedded data."""

VIT_B = ("vit_base_patch16_224", {})
TINY_VIT = (
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
)


@dataclass(frozen=True)
class Check:
    """What a section found.

    Attributes:
        name: the section.
        verdict: `ok`, `FAILED`, or `left out` where no time was left.
        said: figures, or why, in a line.
        table: a table for people, or "".
        seconds: how long it took.
    """

    name: str
    verdict: str
    said: str
    table: str = ""
    seconds: float = 0.0


def gpu_check(device: torch.device, *, tiny: bool, repeats: int, minutes: float) -> list[Check]:
    """Go through all sections, the quick ones first.

    Args:
        device: a GPU; or the CPU, at tiny size.
        tiny: whether shapes are for a look that it works.
        repeats: paired repeats of each time.
        minutes: the time that there is: no section begins after it.
    """
    shape = "tiny" if tiny else "qwen2.5-0.5b"
    sections: dict[str, Callable[[], Check]] = {
        **{f"a run, {name}": lambda name=name: _run(name, device) for name in RUNS},
        "engines agree": lambda: _agreement(SHAPES["tiny" if tiny else "scaled"], device),
        "as on the CPU": lambda: _as_on_the_cpu(device),
        "bfloat16": lambda: _bfloat16(device),
        **{
            f"training, S = {align}": lambda align=align: _training(shape, align, repeats, device)
            for align in SUBSETS
        },
        "vision, ViT-B with DINO": lambda: _vision(device, repeats, tiny=tiny),
        **{
            f"engines, S = {align}": lambda align=align: _engines(shape, align, repeats, device)
            for align in SUBSETS
        },
    }
    end, found = time.perf_counter() + 60 * minutes, []
    for name, section in sections.items():
        began = time.perf_counter()
        if began >= end:
            found.append(Check(name, "left out", f"no time left of {minutes:g} minutes"))
            continue
        try:
            check = section()
        except Exception as error:  # whatever it is: the others have their turn
            check = Check(name, "FAILED", f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - began
        found.append(dataclasses.replace(check, name=name, seconds=seconds))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def check_markdown(checks: Sequence[Check], device: torch.device) -> str:
    """What was found, for people.

    Args:
        checks: the sections.
        device: where.
    """
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        f"On {where}, torch {torch.__version__}.",
        "",
        "| section | | | seconds |",
        "|---|---|---|---|",
        *(
            f"| {c.name} | {c.verdict} | {' '.join(c.said.split())} | {c.seconds:.0f} |"
            for c in checks
        ),
    ]
    for check in checks:
        if check.table:
            lines += ["", f"## {check.name}", "", check.table.strip()]
    return "\n".join(lines) + "\n"


def check_json(checks: Sequence[Check]) -> str:
    """The same as JSON."""
    return json.dumps([dataclasses.asdict(check) for check in checks], indent=2) + "\n"


def _run(modality: str, device: torch.device) -> Check:
    """A whole run through the command's own code: certified, trained, probed, evaluated, drawn."""
    with tempfile.TemporaryDirectory() as runs:
        given = [
            *RUNS[modality],
            *("--arms", "baseline,vpretraining", "--budget", "4steps", "--probe-batches", "2"),
            *("--device", str(device), "--runs-dir", runs, "--name", "check"),
        ]
        run(parse(given))
        results = json.loads((Path(runs) / "check" / "metrics.json").read_text(encoding="utf-8"))
    steps = {name: arm["steps"] for name, arm in results["arms"].items()}
    return Check("", "ok" if set(steps.values()) == {4} else "FAILED", f"steps {steps}")


def _agreement(shape: Shape, device: torch.device) -> Check:
    """Every engine's gradient beside reverse's, in float32."""
    arm = warm(shaped_run(shape, "vpretraining", "last:2", device), 3)
    exact = _asked(arm, FirstOrder(engine="reverse"))
    apart = {
        engine: _apart(_asked(arm, FirstOrder(engine=engine)), exact)
        for engine in ("linear", "forward", "finite_difference")
    }
    right = max(apart["linear"], apart["forward"]) < 1e-3 and apart["finite_difference"] < 0.1
    return _verdict(right, {f"{name} from reverse": far for name, far in apart.items()})


def _as_on_the_cpu(device: torch.device) -> Check:
    """First order's and unrolled's gradients, in float32, beside the same on the CPU."""
    apart = {}
    for name, estimator in (("first_order", FirstOrder()), ("unrolled", Unrolled(1))):
        here, there = (
            _asked(shaped_run(SHAPES["tiny"], "vpretraining", "all", d), estimator)
            for d in (device, torch.device("cpu"))
        )
        there = dataclasses.replace(there, grad={n: x.to(device) for n, x in there.grad.items()})
        apart[name] = _apart(here, there)
    return _verdict(max(apart.values()) < 1e-2, apart)


def _bfloat16(device: torch.device) -> Check:
    """The embedded language learner's gradient in mixed precision beside float32's."""
    found = {}
    for precision in ("float32", "bfloat16"):
        given = ["--batch-size", "4", "--precision", precision, "--device", str(device)]
        arm = start_arm("vpretraining", assemble(parse(given)))
        found[precision] = _asked(arm, FirstOrder()).grad
    cosine = float(trees.cosine(found["bfloat16"], found["float32"]))
    return _verdict(cosine > 0.9, {"1 - cosine of the two gradients": 1 - cosine})


def _training(shape: str, align: str, repeats: int, device: torch.device) -> Check:
    found = training_cost(SHAPES[shape], align, repeats, device, _precision(device))
    said = f"tokens a second {found.speed}, memory {found.memory:.3f}, floor {1 / found.floor:.3f}"
    return Check("", "ok", said, training_markdown(shape, [found]))


def _engines(shape: str, align: str, repeats: int, device: torch.device) -> Check:
    found = engine_costs(SHAPES[shape], align, repeats, device=device, dtype=_precision(device))
    return Check("", "ok", f"{len(found.rows)} rows", engines_markdown(shape, [found]))


def _precision(device: torch.device) -> torch.dtype | None:
    """What learners are trained in there."""
    return torch.bfloat16 if device.type == "cuda" else None


def _vision(device: torch.device, repeats: int, *, tiny: bool) -> Check:
    """What a designer's update costs beside DINO on a ViT-B of random weights."""
    from vfunc.vision.encoder.architecture import Architecture
    from vfunc.vision.encoder.encoder_file import save_encoder
    from vfunc.vision.encoder.timm_vit import build_encoder

    name, arguments = TINY_VIT if tiny else VIT_B
    sizes = ("32", "16", "4", "2") if tiny else ("224", "96", "16", "4")
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(build_encoder(Architecture(name, arguments), seed=0), Path(folder))
        named = ("--image-size", "--local-size", "--batch-size", "--meta-batch-size")
        given = [word for pair in zip(named, sizes, strict=True) for word in pair]
        given += ["--problem", "repetitive"]  # which has local crops, as DINO does
        given += ["--modality", "vision", "--learner", folder, "--device", str(device)]
        given += ["--precision", "float32" if tiny else "bfloat16", "--align", "last:2"]
        rows = rows_of(assemble(parse(given)), max(repeats, 1))
    said = "; ".join(f"{row.name} {row.ratio[0]:.2f}" for row in rows)
    return Check("", "ok", f"over a plain step: {said}", _vision_table(rows))


def _vision_table(rows: Sequence[Row]) -> str:
    lines = ["| piece | over a plain step | floor |", "|---|---|---|"]
    for row in rows:
        middle, least, most = row.ratio
        lines.append(f"| {row.name} | {middle:.2f} ({least:.2f}-{most:.2f}) | {row.floor:.2f} |")
    return "\n".join(lines)


def _asked(arm: ArmRun, estimator: FirstOrder | Unrolled) -> ValueEstimate:
    """The estimate of the arm's next step."""
    problem, _ = question(arm, 1)
    assert arm.state.designer is not None
    phi = trees.detach(dict(arm.state.designer.named_parameters()))
    return estimator(problem, arm.state.functional.theta, phi)


def _apart(one: ValueEstimate, other: ValueEstimate) -> float:
    """The distance of two gradients over the size of the second."""
    return float(trees.norm(trees.axpy(-1.0, other.grad, one.grad)) / trees.norm(other.grad))


def _verdict(right: bool, figures: dict[str, float]) -> Check:
    said = ", ".join(f"{name} {number:.1e}" for name, number in figures.items())
    return Check("", "ok" if right else "FAILED", said)
