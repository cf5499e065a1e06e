"""Options of the arms that TRL trains on the feedback itself: `trl_sft`, `grpo`, `sft+grpo`."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc.arms import ARMS
from vfunc.conditions import any_arm
from vfunc.config.declared import Need, option

GRPO_ARMS = tuple(name for name, arm in ARMS.items() if "grpo" in arm.phases)
_GRPO = Need(any_arm(GRPO_ARMS), f"it is for the arms {' and '.join(GRPO_ARMS)}")


@dataclass(frozen=True, kw_only=True)
class DirectOptions:
    """Direct use of the feedback through TRL; step size, batch and precision are the run's."""

    grpo_generations: int = option(
        "GRPO: completions of each prompt, of which a step takes --batch-size x --accumulate "
        "prompts.",
        default=8,
        least=2,
        needs=(_GRPO,),
    )
    grpo_temperature: float = option(
        "GRPO: temperature at which they are drawn.", default=1.0, above=0, needs=(_GRPO,)
    )
    grpo_tokens: int | None = option(
        "GRPO: the most tokens of a completion.",
        default=None,
        shown="as many as evaluation lets it have, or as the learner's context leaves room for",
        metavar="N",
        least=1,
        needs=(_GRPO,),
    )
    grpo_beta: float = option(
        "GRPO: weight of the divergence from the learner that GRPO begins with.",
        default=0.0,
        least=0,
        needs=(_GRPO,),
    )
    sft_share: float = option(
        "Share of the budget of the arm sft+grpo that SFT has, before GRPO.",
        default=0.5,
        above=0,
        below=1,
        needs=(Need(any_arm(("sft+grpo",)), "it is for the arm sft+grpo"),),
    )
