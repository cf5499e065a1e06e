"""Assembles the parts of a vision run from its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.modality import Modality, Reporting
from vfunc.storage.overflow import GIB, Overflow
from vfunc.training.build.vision_config import VisionConfig
from vfunc.training.build.vision_sources import read_data
from vfunc.vision.data.public import parse_public
from vfunc.vision.data.vision_data import VisionData
from vfunc.vision.designers.view_designer import ViewDesignerConfig, load_view_designer
from vfunc.vision.encoder.embedded_encoder import FOUR_BLOCKS
from vfunc.vision.encoder.named_encoder import EMBEDDED, Encoder, make_encoder
from vfunc.vision.evaluation.revisited import load_revisited
from vfunc.vision.objectives.dino import Dino, DinoLearner
from vfunc.vision.objectives.dino_file import load_dino
from vfunc.vision.objectives.ijepa import IJepa
from vfunc.vision.objectives.objective import Objective
from vfunc.vision.reporting import vision_reporting, vision_saving
from vfunc.vision.workload import VisionWorkload


def vision_parts(config: VisionConfig, device: torch.device) -> tuple[nn.Module, Modality]:
    """The start learner, on the CPU, and the modality.

    Args:
        config: resolved, of a vision run.
        device: the device of the run.

    Raises:
        UserError: something is missing or does not fit together.
    """
    encoder = encoder_of(config, pretrained=config.views.pretrained)
    learner, news = learner_of(config, encoder)
    sources = read_data(config, encoder.patch)
    workload = workload_of(config, encoder, sources, device)
    return learner, Modality(workload, _reporting(config, sources, news), vision_saving())


def learner_of(config: VisionConfig, encoder: Encoder) -> tuple[nn.Module, list[str]]:
    """The live learner around an encoder, and what to say of its start.

    Where DINO's head and teacher were saved beside the encoder, it begins with them.
    """
    learner = objective_of(config, encoder).learner(encoder, config.run.seed)
    if not isinstance(learner, DinoLearner) or not config.views.pretrained:
        return learner, []
    why = load_dino(learner, _directory(config))
    if why is None:
        return learner, ["DINO goes on with the head and teacher that lie beside the encoder"]
    return learner, [f"DINO begins with a new head, and a teacher like its student: {why}"]


def _directory(config: VisionConfig) -> str:
    """The name that the encoder is made from; the embedded one goes with the problem."""
    name, small = config.learner.learner, config.data.problem in ("shortcut", "clean")
    return str(FOUR_BLOCKS) if name == EMBEDDED and small else name


def encoder_of(
    config: VisionConfig, *, pretrained: bool, device: torch.device | str = "cpu"
) -> Encoder:
    """The encoder, as configured, checked against the features that are asked of it.

    Raises:
        UserError: there is no such encoder, or it has fewer blocks.
    """
    encoder = make_encoder(
        _directory(config),
        image_size=config.views.image_size,
        pretrained=pretrained,
        seed=config.run.seed,
        device=device,
    )
    layers = config.dense.heads["layers"]
    if layers > encoder.depth:
        raise UserError(f"--feature-layers {layers}: the learner has {encoder.depth} blocks")
    return encoder


def objective_of(config: VisionConfig, encoder: Encoder) -> Objective:
    """The self-supervised objective, as configured."""
    objective = config.views.objective
    return objective() if objective.make is Dino else objective(patch=encoder.patch)


def workload_of(
    config: VisionConfig, encoder: Encoder, sources: Sequence[VisionData], device: torch.device
) -> VisionWorkload:
    """The loop's side of the modality on these data."""
    views, dense = config.views, config.dense
    there = _labelled(sources)
    _require_feedback(config, sources)
    return VisionWorkload(
        stream=sources[0].stream,
        sources=tuple(sources),
        objective=objective_of(config, encoder),
        designer=_designer_config(config, encoder.patch),
        start_designer=config.designer.designer,
        batch_size=config.data.batch_size,
        meta_batch_size=views.meta_batch_size,
        feedback_batch_size=min(config.data.feedback_batch_size, there["feedback"]),
        head_size=min(dense.head_size, there["heads"]),
        weights=_weights(config, sources),
        normalise=config.data.normalise_feedback,
        heads=dense.heads(),
        probes=dense.probes(eigen_crop=_eigen_crop(config)),
        fixed_alpha=views.fixed_alpha,
        oracle_blur=views.oracle_blur,
        fit_size=dense.fit_size,
        eval_size=config.data.eval_size,
        retrieval=None if dense.retrieval is None else load_revisited(dense.retrieval),
        device=device,
        dtype=torch.bfloat16 if config.learner.precision == "bfloat16" else None,
        seed=config.run.seed,
        overflow=Overflow(config.data.in_memory * GIB),
        workers=config.data.loader_workers,
    )


def _reporting(
    config: VisionConfig, sources: Sequence[VisionData], news: Sequence[str] = ()
) -> Reporting:
    """The report's side; it says where a batch is smaller than configured, and what to know."""
    there = _labelled(sources)
    wanted = (
        ("--feedback-batch-size", config.data.feedback_batch_size, there["feedback"]),
        ("--head-size", config.dense.head_size, there["heads"]),
    )
    lowered = [
        f"{flag} is {most} and not {size}: that is all there is"
        for flag, size, most in wanted
        if size > most
    ]
    retrieval = config.dense.retrieval is not None
    said = [*lowered, *news, *_warnings(config)]
    return vision_reporting(sources, retrieval=retrieval, lowered=said)


def _warnings(config: VisionConfig) -> list[str]:
    """What a run does that its options do not say."""
    arms, found = config.run.arms, []
    crops, masked = config.options["local_crops"], [a for a in arms if a != "baseline"]
    if config.views.objective.make is Dino and crops and masked:
        found.append(
            f"{crops} local crops of each picture are not designed: what a mask hides in the views "
            "is still to be seen in them (--local-crops 0 makes none)"
        )
    if any(ARMS[name].designed for name in arms) and _steps_ahead(config) > 1:
        found.append(
            "a lookahead keeps the heads that were fitted before its first step: they are not "
            "refitted, and a change of features counts as a loss that new heads would not have"
        )
    return found


def _steps_ahead(config: VisionConfig) -> float:
    """Learner steps from the heads' fit to where L_down is asked; of implicit more than one."""
    if config.options["estimator"] == "implicit":
        return math.inf
    return float(getattr(config.estimator.estimator, "lookahead_steps", 1))


def _require_feedback(config: VisionConfig, sources: Sequence[VisionData]) -> None:
    """All feedback pictures are the most that a bank can hold.

    Raises:
        UserError: a source has fewer.
    """
    bank, there = config.estimator.feedback_bank, min(len(s.feedback) for s in sources)
    if bank is not None and bank > there:
        raise UserError(
            f"--feedback-bank {bank} is more than the {there} feedback pictures that there are; "
            f"give at most {there}, or more pictures (--feedback-size)"
        )


def _labelled(sources: Sequence[VisionData]) -> dict[str, int]:
    """How many pictures every source has for heads; and for feedback, held-out feedback too."""
    heads, *measured = (
        min(len(getattr(source, split)) for source in sources)
        for split in ("heads", "feedback", "held_out")
    )
    return {"heads": heads, "feedback": min(measured)}


def _weights(
    config: VisionConfig, sources: Sequence[VisionData]
) -> tuple[Mapping[str, float], ...]:
    """What is asked of each source, and what it weighs.

    Raises:
        UserError: a task that no source holds, or several do; a source that nothing is asked of;
            nothing with a weight.
    """
    given = config.dense.weights
    held = [task for source in sources for task in source.tasks]
    asked = config.dense.labels or tuple(dict.fromkeys(held))
    missing = [task for task in asked if task not in held]
    if missing:
        raise UserError(
            f"--labels {' '.join(missing)}: the feedback pictures hold {', '.join(held)} alone"
        )
    twice = sorted({task for task in asked if held.count(task) > 1})
    if twice:
        raise UserError(
            f"two --feedback hold {' and '.join(twice)}: leave one of them out, or name by "
            "--labels what they are asked"
        )
    for name, source in zip(config.data.feedback or (), sources, strict=False):
        if not set(source.tasks) & set(asked):
            raise UserError(
                f"--labels {' '.join(asked)}: {name} holds {' and '.join(source.tasks)} alone; "
                "leave it out of --feedback"
            )
    if not any(given[task] for task in asked):
        raise UserError(f"every label has weight 0; give {asked[0]} a --{asked[0]}-weight above 0")
    return tuple({task: given[task] for task in s.tasks if task in asked} for s in sources)


def _eigen_crop(config: VisionConfig) -> bool:
    """Whether depth is NYUv2's, whose custom it is."""
    public = [parse_public(name) for name in config.data.feedback or ()]
    return any(found is not None and found[0] == "nyuv2" for found in public)


def _designer_config(config: VisionConfig, patch: int) -> ViewDesignerConfig:
    """The designer's; I-JEPA's patches see a mask that is constant over each.

    Raises:
        UserError: a saved one makes no masks, and an arm takes their mean.
    """
    path, design = config.designer.designer, config.views.design
    if path is not None:
        saved = load_view_designer(Path(path)).config
        following = [name for name in config.run.arms if ARMS[name].follows]
        if following and not saved.masks:  # of a new one the options tell
            raise UserError(
                f"the arm {following[0]} takes the mean of masks, and --designer {path} "
                f"({saved.kind}) makes none; take it out of --arms, or name another designer"
            )
        return saved
    hides_patches = config.views.objective.make is IJepa and design["kind"] != "photometric"
    return design(patch=patch, block=patch if hides_patches else None)
