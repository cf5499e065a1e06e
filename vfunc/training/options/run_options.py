"""The options of what a run compares, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.arms import ARMS
from vfunc.conditions import DESIGNED, EMBEDDED_LEARNER, SHORTCUT, TRAINED
from vfunc.config.declared import By, Cases, Options, option
from vfunc.config.values import listed, nearest
from vfunc.errors import UserError
from vfunc.training.budget import Budget, parse_budget

LANGUAGE, VISION = "language", "vision"
ModalityName = Literal["language", "vision"]


def on_shortcut(options: Options) -> bool:
    """Whether the run is on vision's embedded scenes with a shortcut, or their clean twin."""
    return options["modality"] == VISION and SHORTCUT.holds(options)


def _check_arms(arms: tuple[str, ...], where: str) -> None:
    for arm in arms:
        if arm not in ARMS:
            known = ", ".join(ARMS)
            raise UserError(f"{where}: unknown arm {arm!r}{nearest(arm, ARMS)}; known: {known}")
        if arms.count(arm) > 1:
            raise UserError(f"{where} names {arm} twice")
    if not arms:
        raise UserError(f"{where} names no arm; known: {', '.join(ARMS)}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to compare, for how long."""

    modality: ModalityName = option(
        "What is learned on: text, or pictures. Each has options of its own; --help shows those "
        "of the one that is given with it.",
        default=LANGUAGE,
    )
    arms: tuple[str, ...] = option(
        "Ways of training to compare, separated by commas, each from the same start: "
        + ", ".join(ARMS)
        + " (known_wrong where the data tell what is wrong in them; vision has the first four, "
        "known_objects, which is told where the objects are, matched_uniform, which keeps as "
        "much as the designer of vpretraining did, everywhere alike, and oracle, which blurs by "
        "the value of pixels, without a designer; mixing and sft train on the "
        "feedback itself; trl_sft, grpo and sft+grpo do so by TRL, with the extra trl).",
        default=("baseline", "vpretraining"),
        shown="baseline,vpretraining",
        metavar="ARM,ARM",
        parse=listed,
        check=_check_arms,
    )
    budget: Budget = option(
        "What each arm may spend: 500steps, 2Mtokens, 50kimages, 60s, 10min, 1h. Evaluation and "
        "saving do not count.",
        default=By(
            "modality",
            {
                LANGUAGE: Budget(300, "steps"),
                VISION: Cases(((EMBEDDED_LEARNER, Budget(120, "steps")),), Budget(300, "steps")),
            },
        ),
        metavar="BUDGET",
        parse=parse_budget,
    )
    seed: int = option("Of everything that is drawn.", default=0, least=0, most=2**32 - 1)
    eval_every: float = option(
        "Fraction of the budget between evaluations on held-out data; 0 evaluates at the end only.",
        default=0.1,
        least=0,
        most=1,
    )
    save_every: float = option(
        "Fraction of the budget between checkpoints; 0 saves at the end only.",
        default=0.25,
        least=0,
        most=1,
    )
    probe_batches: int = option(
        "Batches of the one-step probe, which compares predicted with realised decrease; 0 skips "
        "it.",
        default=16,
        least=0,
        needs=(DESIGNED,),
    )
    certify: bool = option(
        "Check the designer's gradient against finite differences before training: seconds, or not "
        "at all where it would take longer, and the run says so.",
        default=True,
        needs=(DESIGNED, TRAINED),
    )
    threads: int = option(
        "CPU threads; 0 leaves the choice to torch.", default=0, least=0, most=4096
    )
