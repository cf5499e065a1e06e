"""Options of a language run's feedback: its tasks, their weights, rewards, direct use by TRL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.arms import ARMS
from vfunc.conditions import TRAINED, any_arm
from vfunc.config.declared import Need, Options, option
from vfunc.errors import UserError

Combine = Literal["sum", "matched"]


@dataclass(frozen=True)
class RewardOptions:
    """How completions are drawn.

    Attributes:
        samples: G, completions a prompt.
        temperature: what the logits are divided by, when drawing and in log p alike: the policy
            whose expected reward is raised is the one that is sampled.
        max_new_tokens: the most tokens a completion has.
    """

    samples: int = option(
        "With --feedback-kind reward: completions of each prompt.",
        name="reward_samples",
        default=4,
        least=2,
    )
    temperature: float = option(
        "With --feedback-kind reward: temperature at which they are drawn.",
        name="reward_temperature",
        default=1.0,
        above=0,
    )
    max_new_tokens: int = option(default=128, hidden=True)

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UserError(f"{self.samples} reward samples make no group; give at least 2")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"the reward temperature {self.temperature} must be finite and above 0")


def _normalising_matters(options: Options) -> bool:
    """A cosine does not change with the size of its own domain's gradient."""
    cosine = options["estimator"] == "first_order" and options["value"] == "cosine"
    return not (options["feedback_combine"] == "matched" and cosine)


@dataclass(frozen=True)
class FeedbackTasks:
    """Which tasks the feedback is of, and how they make one L_down.

    Attributes:
        names: the tasks, by the domain of their sequences; with one, domains are not looked at.
        weights: w_j; None weighs all the same.
        combine: `sum` of the losses, or `matched`: each task on its own domain's text.
        normalise: divide each task's loss by its gradient's norm.
        rewards: how completions are drawn; None measures the loss on worked solutions.
    """

    names: tuple[str, ...] = option(default=("feedback",), hidden=True)
    weights: tuple[float, ...] | None = option(
        "Weights of the feedback tasks in the sum of their losses.",
        name="feedback_weights",
        default=None,
        shown="all the same, adding up to 1",
        metavar="W [W ...]",
        least=0,
        needs=(
            Need(
                lambda options: options["feedback_combine"] == "sum",
                "--feedback-combine matched takes the plain mean",
            ),
        ),
    )
    combine: Combine = option(
        "Several feedback tasks: sum their losses; or match each with the text of its own domain "
        "(the style, or the --stream in the same place) and take the mean of the values.",
        name="feedback_combine",
        default="sum",
        needs=(TRAINED,),
    )
    normalise: bool = option(
        "Several feedback tasks: divide each one's loss by its gradient's norm.",
        name="normalise_feedback",
        default=False,
        needs=(
            Need(
                _normalising_matters,
                "the cosine of each matched domain does not depend on its gradient's norm",
            ),
        ),
    )
    rewards: RewardOptions | None = option(default=None, hidden=True)


GRPO_ARMS = tuple(name for name, arm in ARMS.items() if "grpo" in arm.phases)
_GRPO = Need(any_arm(GRPO_ARMS), f"it is for the arms {' and '.join(GRPO_ARMS)}")


@dataclass(frozen=True, kw_only=True)
class DirectOptions:
    """Direct use of the feedback through TRL; schedule, batch and precision are the run's."""

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
    grpo_lr: float | None = option(
        "GRPO: its peak step size. That at which a learner is trained on text may be too large.",
        default=None,
        shown="that of --lr",
        metavar="LR",
        above=0,
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
