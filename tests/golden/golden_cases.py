"""The golden cases: command lines of experiments/, small enough for seconds each.

A case is a list of commands, carried out one after another in a folder of its own. Only command
lines stand here, nothing of the package: cases outlive any change of what is inside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

LANGUAGE = {
    "--runs-dir": "runs", "--threads": "1", "--device": "cpu", "--no-certify": "",
    "--stream-size": "64", "--feedback-size": "32", "--eval-size": "4", "--batch-size": "4",
    "--budget": "2steps", "--eval-every": "0", "--probe-batches": "0", "--meta-period": "1",
}  # fmt: skip
FILES = {k: v for k, v in LANGUAGE.items() if k != "--stream-size"} | {
    "--stream": "text.jsonl", "--feedback": "sums.jsonl differences.jsonl",
    "--eval": "held_out.jsonl", "--feedback-fields": "prompt=ask,completion=tell",
    "--learner": "embedded", "--seq-len": "64",
}  # fmt: skip
VISION = LANGUAGE | {
    "--modality": "vision", "--problem": "repetitive", "--learner": "vit", "--image-size": "32", "--stream-size": "16",
    "--heads-size": "8", "--feedback-size": "8", "--fit-size": "5", "--eval-size": "5",
    "--batch-size": "3", "--meta-batch-size": "2", "--feedback-batch-size": "3",
    "--head-size": "4", "--head-steps": "4", "--probe-steps": "4", "--designer-width": "4",
    "--designer-layers": "1", "--lr": "1e-2", "--designer-lr": "1e-2",
}  # fmt: skip
DINO = VISION | {
    "--local-size": "16", "--local-crops": "1", "--output-dim": "8", "--colour": "0.2",
}  # fmt: skip
NOTHING: Mapping[str, str] = {"--runs-dir": "runs"}


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        script: a file of experiments/.
        words: what follows it.
        code: the exit code that it has to have.
        interrupt_after: Ctrl-C after so many optimizer steps, of learner and designer together.
    """

    script: str
    words: tuple[str, ...]
    code: int = 0
    interrupt_after: int | None = None


def run(base: Mapping[str, str], options: str, *, without: str = "", **rest: int) -> Command:
    """run.py with these options, and those of `base` that they do not give or leave out."""
    return Command("run.py", _words(base, options, without), **rest)


def compare(base: Mapping[str, str], options: str, *, without: str = "") -> Command:
    """The same for compare.py."""
    return Command("compare.py", _words(base, options, without))


def _words(base: Mapping[str, str], options: str, without: str) -> tuple[str, ...]:
    given = shlex.split(options)
    dropped = {*given, *without.split()} | ({"--no-certify"} if "--certify" in given else set())
    kept = [w for k, v in base.items() if k not in dropped for w in (k, *shlex.split(v))]
    return (*kept, *given)


ALL_ARMS = "baseline,vpretraining,random_feedback,uniform_smoothing,self_distillation"

GROUPS: dict[str, dict[str, list[Command]]] = {
    "estimators": {
        "gate_dot_certified": [
            run(LANGUAGE, "--certify --budget 3steps --probe-batches 1 --eval-every 0.5")
        ],
        "gate_cosine_sgd": [
            run(
                LANGUAGE,
                "--name a --value cosine --engine forward --optimizer sgd --lr 0.1 --momentum 0.9"
                " --weight-decay 0.01 --accumulate 2 --meta-period 2",
            )
        ],
        "bounded_preconditioned": [
            run(LANGUAGE, "--name a --targets bounded --value preconditioned --engine reverse"
                " --clip 0.5 --warmup 0.5")
        ],
        "free_finite_difference": [
            run(LANGUAGE, "--name a --targets free --engine finite_difference --align last:1"
                " --no-designer-features --moved-penalty 0.1")
        ],
        "unrolled": [
            run(LANGUAGE, "--name a --estimator unrolled --lookahead-steps 2 --gate-penalty 0.1")
        ],
        "unrolled_truncated": [
            run(LANGUAGE, "--name a --estimator unrolled --lookahead-steps 3 --truncate 2"
                " --checkpoint-every 2 --targets bounded --optimizer sgd --lr 0.1 --momentum 0.9"
                " --engine forward --budget 1steps")
        ],
        "implicit_cg": [
            run(LANGUAGE, "--name a --estimator implicit --precondition optimizer"
                " --align last:1 --budget 1steps")
        ],
        "implicit_nystrom": [
            run(LANGUAGE, "--name a --estimator implicit --solver nystrom --nystrom-rank 4"
                " --align re:norm --damping 1e3 --budget 1steps")
        ],
        "implicit_neumann": [
            run(LANGUAGE, "--name a --estimator implicit --solver neumann --solver-steps 4"
                " --inner-steps 2 --align re:norm --targets free --damping 1e3 --budget 1steps")
        ],
        "implicit_gauss_newton": [
            run(LANGUAGE, "--name a --estimator implicit --curvature gauss_newton"
                " --align last:1 --damping 1e3 --solver-tolerance 1e-3 --budget 1steps")
        ],
        "zero_and_random": [
            run(LANGUAGE, "--name a --estimator zero --arms vpretraining"),
            run(LANGUAGE, "--name b --estimator random --arms vpretraining --burn-in 1 --seed 3"),
        ],
    },
    "workflows": {
        "all_arms": [
            run(LANGUAGE, "--name a --problem random_slips --fixed-alpha 0.3"
                f" --arms {ALL_ARMS},confidence_gate,known_wrong")
        ],
        "lora_dropout": [
            run(LANGUAGE, "--name a --lora-rank 2 --lora-dropout 0.5 --estimate-mode train")
        ],
        "bfloat16": [run(LANGUAGE, "--name a --precision bfloat16 --targets free")],
        "styles": [
            run(LANGUAGE, "--name a --feedback-tasks styles --feedback-weights 0.7 0.3"
                " --normalise-feedback --batch-size 8"),
            run(LANGUAGE, "--name b --feedback-tasks styles --feedback-combine matched"
                " --batch-size 8 --estimator unrolled --arms vpretraining"),
        ],
        "reward": [
            run(LANGUAGE, "--name a --feedback-kind reward --reward-samples 2"
                " --reward-temperature 1.5")
        ],
        "own_files": [run(FILES, "--name a --stream-limit 12 --feedback-size 6")],
        "frozen_designer": [
            run(LANGUAGE, "--name a --arms vpretraining --careless-styles forum"),
            run(LANGUAGE, "--name b --designer runs/a/designers/vpretraining.safetensors"
                " --freeze-designer", without="--meta-period --no-certify"),
        ],
        "preset_and_config": [
            run(LANGUAGE, "--name a --preset paper_targets --seed 5"),
            run(NOTHING, "--name b --config runs/a/config.toml --levels 1 0 0"),
        ],
        "larger_budget": [
            run(LANGUAGE, "--name a --arms baseline,vpretraining", code=130, interrupt_after=1),
            run(NOTHING, "--resume a --budget 3steps"),
        ],
        "interrupted": [
            run(LANGUAGE, "--name a --budget 3steps --probe-batches 1 --accumulate 2",
                code=130, interrupt_after=7),
            run(NOTHING, "--resume a"),
        ],
        "compare": [
            compare(LANGUAGE, "--name a --seeds 0 1 --vary value=dot,cosine"
                " --budget 1steps"),
            compare({}, "--from runs/a/value=dot --output runs/b --primary loss"),
        ],
    },
    "vision": {
        "dino_unet_certified": [run(DINO, "--certify --budget 3steps --probe-batches 1")],
        "dino_dit": [
            run(DINO, "--name a --augmentor dit --value cosine --engine forward"
                " --labels segmentation depth classification --normalise-feedback")
        ],
        "dino_photometric": [
            run(DINO, "--name a --augmentor photometric --value preconditioned"
                " --engine finite_difference --accumulate 2 --strength-penalty 0.3")
        ],
        "ijepa": [
            run(VISION, "--name a --objective ijepa --augmentor dit --keep 0.8 --tv-penalty 0.1"),
            run(VISION, "--name b --objective ijepa --precision bfloat16 --arms vpretraining"),
        ],
        "vision_unrolled": [
            run(DINO, "--name a --estimator unrolled --lookahead-steps 2 --feature-layers 2")
        ],
        "vision_implicit": [
            run(DINO, "--name a --estimator implicit --damping 1e4 --align last:1 --budget 1steps")
        ],
        "vision_arms": [
            run(DINO, "--name a --budget 1steps"
                " --arms baseline,vpretraining,random_feedback,uniform_smoothing"),
            run(DINO, "--name b --designer runs/a/designers/vpretraining.safetensors"
                " --freeze-designer", without="--no-certify --meta-period --designer-lr --designer-width"
                " --designer-layers --meta-batch-size"),
        ],
        "own_pictures": [
            run(DINO, "--name a --feedback pictures --void-label 3 --feedback-size 4"
                " --heads-size 4", without="--stream-size --problem")
        ],
        "vision_interrupted": [
            run(DINO, "--name a --budget 3steps", code=130, interrupt_after=5),
            run(NOTHING, "--resume a"),
        ],
    },
}  # fmt: skip

CASES = {name: commands for group in GROUPS.values() for name, commands in group.items()}
