"""The options of how a designer is trained, for both modalities."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc.conditions import DESIGNED, EMBEDDED_LEARNER, SHORTCUT, TRAINED
from vfunc.config.declared import By, Cases, Computed, Need, option
from vfunc.training.options.run_options import LANGUAGE, VISION, on_shortcut


@dataclass(frozen=True, kw_only=True)
class DesignerOptions:
    """How the model is trained that makes soft targets of each text, or a view of each picture."""

    designer_lr: float = option(
        "Learning rate of the designer's Adam.",
        default=By(
            "modality",
            {
                LANGUAGE: Cases(((EMBEDDED_LEARNER, 4e-3),), 1e-4),
                VISION: Cases(((SHORTCUT, 2e-2), (EMBEDDED_LEARNER, 3e-3)), 1.54e-4),
            },
        ),
        above=0,
        needs=(DESIGNED, TRAINED),
    )
    designer: str | None = option(
        "Start from a saved designer; its size and what else is saved with it hold.",
        default=None,
        shown="a new one",
        metavar="PATH",
        reads=True,
        needs=(DESIGNED,),
    )
    designer_final_lr: float | None = option(
        "Learning rate of the designer at the end, as a fraction of --designer-lr; it falls "
        "linearly over the budget.",
        default=None,
        shown="1, and it stays",
        least=0,
        most=1,
        needs=(DESIGNED, TRAINED),
    )
    designer_warmup: int | None = option(
        "Updates of the designer before the first learner step that it makes a task for, on the "
        "next micro-batches, with the learner held; the learner steps on these afterwards as ever.",
        default=Computed(
            "0; 60 on vision's problems shortcut and clean",
            lambda options: 60 if on_shortcut(options) else None,
            None,
        ),
        least=0,
        needs=(DESIGNED, TRAINED),
    )
    freeze_designer: bool = option(
        "Use --designer as it is, without training.",
        default=False,
        needs=(
            DESIGNED,
            Need(
                lambda options: options["designer"] is not None,
                "a new designer has to be trained; give --designer PATH",
            ),
        ),
    )
