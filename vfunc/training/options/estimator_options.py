"""The options of how values are estimated, for both modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.conditions import (
    ADAPTED,
    DESIGNED,
    EMBEDDED_LEARNER,
    GUIDED,
    SHORTCUT,
    SHORTCUT_LEARNER,
    STEERED,
    TRAINED,
    VALUED_ARMS,
    any_arm,
    check_subset,
)
from vfunc.config.declared import By, Cases, Computed, Need, Options, option
from vfunc.errors import UserError
from vfunc.estimators import (
    ESTIMATORS,
    Estimator,
    FirstOrder,
    RandomDirection,
    find_estimator,
    option_names,
)
from vfunc.estimators.first_order import DEFLATED, REPEATED, repeats
from vfunc.training.options.run_options import LANGUAGE, VISION, on_shortcut


def _holds_g_down(options: Options) -> bool:
    return getattr(find_estimator(options["estimator"]), "g_down_alone", False)


def _may_hold(options: Options) -> bool:
    return (options["feedback_every"] or 1) == 1 or _holds_g_down(options)


def _held_by_formula(options: Options) -> bool:
    """Whether an arm that goes by values holds g_down for as long as a designer's would be."""
    return (options["feedback_every"] or 1) > 1 and any_arm(VALUED_ARMS)(options)


def _all_feedback(options: Options) -> int | None:
    count = options["feedback_size"]
    return count if count >= options["feedback_batch_size"] else None


_OWN_DIRECTION = Need(
    lambda options: "vpretraining" in options["arms"],
    "it is for the arm vpretraining; random_feedback draws its direction",
    spares=option_names(RandomDirection),
)


def _takes_means(options: Options) -> bool:
    """Whether the estimator takes running means of the learner's gradients."""
    chosen = find_estimator(options["estimator"])
    if chosen is FirstOrder:
        return options["value"] in DEFLATED and options["means"] > 0
    return hasattr(chosen, "running_means")


def _repeats(options: Options) -> bool:
    """Whether the estimator's objective is the same linear function of the task at every phi."""
    chosen = find_estimator(options["estimator"])
    if chosen is FirstOrder:
        return repeats(options["value"], options["mean_batches"])
    return getattr(chosen, "repeats", False) is True


_OF_TEXT = Need(lambda options: options["modality"] == LANGUAGE, "it is for text")
_MEANS = Need(_takes_means, f"it is for --value {' or '.join(DEFLATED)}, with --means above 0")


@dataclass(frozen=True, kw_only=True)
class EstimatorOptions:
    """How the value of a task is estimated. An option that the estimator lacks is refused."""

    estimator: Estimator = option(
        "first_order, unrolled, implicit, random or zero (two controls), or your own, "
        "package.module:Name, whose fields are options as well.",
        default="first_order",
        metavar="NAME",
        variants=ESTIMATORS,
        find=find_estimator,
        compare=False,  # its options are
        needs=(DESIGNED, _OWN_DIRECTION, TRAINED),
    )
    align: str = option(
        "Parameters over which value is taken: all, last:N (blocks), lora, lora:last:N or "
        "re:PATTERN.",
        default=By(
            "modality",
            {
                LANGUAGE: Cases(((EMBEDDED_LEARNER, "all"), (ADAPTED, "lora:last:2")), "last:2"),
                VISION: Cases(((SHORTCUT_LEARNER, "all"),), "last:2"),
            },
        ),
        metavar="SUBSET",
        check=check_subset,
        needs=(GUIDED,),
    )
    meta_period: int = option(
        "Micro-batches between designer updates.",
        default=By("modality", {LANGUAGE: 8, VISION: Cases(((SHORTCUT, 2),), 4)}),
        least=1,
        needs=(
            Need(
                lambda options: DESIGNED.holds(options) or _held_by_formula(options),
                f"{DESIGNED.reason}, or --feedback-every above 1 with {' or '.join(VALUED_ARMS)}",
            ),
            Need(
                lambda options: TRAINED.holds(options) or _held_by_formula(options), TRAINED.reason
            ),
        ),
    )
    feedback_bank: int | None = option(
        "Feedback examples that g_down is of, in all processes, computed in parts of "
        "--feedback-batch-size; its noise falls with their number.",
        default=Computed(
            "one feedback batch; all there are on vision's problems shortcut and clean",
            lambda options: _all_feedback(options) if on_shortcut(options) else None,
            None,
        ),
        least=1,
        needs=(GUIDED, STEERED),
    )
    feedback_every: int | None = option(
        "Designer updates that one g_down serves before it is computed anew (with --meta-period "
        "micro-batches from one to the next); of first_order, random and zero.",
        default=Computed(
            "1; 10 on vision's problems shortcut and clean, where the estimator allows it",
            lambda options: 10 if on_shortcut(options) and _holds_g_down(options) else None,
            None,
        ),
        least=1,
        needs=(
            GUIDED,
            STEERED,
            Need(
                _may_hold,
                "a held g_down is of an earlier learner, for estimators that ask for no other: "
                "first_order, random, zero, and one's own that says `g_down_alone`; a "
                "--feedback-bank alone works",
            ),
        ),
    )
    mean_bank: int | None = option(
        "Micro-batches of the stream, the present one first, whose mean gradient as the text they "
        "are takes the place of the first running mean; computed with g_down (--feedback-every), "
        "and held with it.",
        default=None,
        shown="running means alone",
        least=1,
        needs=(_OF_TEXT, DESIGNED, TRAINED, _OWN_DIRECTION, _MEANS),
    )
    designer_steps: int | None = option(
        "Steps of the designer's optimizer an update: what a unit of target mass is worth at each "
        "token is computed once, and a further step costs a pass of the designer alone.",
        default=None,
        shown="1",
        least=1,
        needs=(
            _OF_TEXT,
            DESIGNED,
            TRAINED,
            Need(
                _repeats,
                f"it is for first_order --value {' or '.join(REPEATED)}, whose direction is the "
                "same whatever the designer makes (without --mean-batches)",
            ),
        ),
    )
    burn_in: int = option(
        "Micro-batches before the designer's first update; until then its arm is the baseline.",
        default=0,
        least=0,
        needs=(DESIGNED, TRAINED),
    )

    estimate_mode: Literal["eval", "train"] = option(
        "The learner's mode in estimates; train repeats its step's own dropout.",
        default="eval",
        needs=(DESIGNED, TRAINED),
    )
    mean_decays: tuple[float, ...] | None = option(
        "Decay rate of each running mean of the learner's gradients that the estimator takes, a "
        "step: of 0.9 for the last ten steps or so; 0 is the last step's gradient.",
        default=None,
        shown="0.9, and for further means 0.99, 0.999, ...",
        metavar="DECAY",
        least=0,
        below=1,
        needs=(DESIGNED, TRAINED, _OWN_DIRECTION, _MEANS),
    )

    def __post_init__(self) -> None:
        self.decays_of(self.estimator)

    def decays_of(self, estimator: Estimator | None) -> tuple[float, ...]:
        """The decay rates of the running means that an estimator takes, one each.

        Args:
            estimator: the arm's, which says by an attribute `running_means` how many; None for an
                arm without one.

        Raises:
            UserError: as many were not given.
        """
        count = getattr(estimator, "running_means", 0)
        if count and self.mean_bank is not None:  # it is the first of them
            count -= 1
        if self.mean_decays is None or not getattr(estimator, "running_means", 0):
            return usual_decays(count)
        if not count:
            raise UserError(
                "--mean-decays does nothing here: --mean-bank is the one mean that is taken; leave "
                "it out, or give --means 2 or more"
            )
        if len(self.mean_decays) != count:
            raise UserError(
                f"--mean-decays gives {len(self.mean_decays)} decay rates and the estimator takes "
                f"{count} running means: give one for each (--means says how many)"
            )
        return self.mean_decays


def usual_decays(count: int) -> tuple[float, ...]:
    """Decay rates of so many running means, where none are given: 0.9, 0.99, ..."""
    return tuple(1 - 0.1 ** (i + 1) for i in range(count))


def check_feedback(options: Options) -> None:
    """Refuse a bank that is less than a batch.

    Args:
        options: all of them.

    Raises:
        UserError: what does not fit, and why.
    """
    bank, part = options["feedback_bank"], options["feedback_batch_size"]
    if bank is not None and bank < part:
        raise UserError(
            f"--feedback-bank {bank} is below the --feedback-batch-size {part} that it is computed "
            "in parts of; lower that"
        )
