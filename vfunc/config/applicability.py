"""Which options do something in which company."""

from __future__ import annotations

from vfunc.config.language_rules import LANGUAGE_ONLY, LANGUAGE_RULES
from vfunc.config.method_options import ESTIMATOR_OPTIONS
from vfunc.config.rule import DESIGNED_ARMS, NEEDS_DESIGNER, Options, Rule, any_arm
from vfunc.config.run_options import VISION
from vfunc.config.vision_defaults import VISION_ONLY
from vfunc.config.vision_rules import VISION_RULES

_SIZE = ("designer_width", "designer_layers", "designer_heads")
# The control random_feedback has an estimator of its own, and takes the engine alone.
OF_THE_ESTIMATOR = ("estimator", *(name for name in ESTIMATOR_OPTIONS if name != "engine"))
_OF_TRAINING = (
    "certify",
    "designer_lr",
    "meta_period",
    "burn_in",
    "estimate_mode",
    "estimator",
    *ESTIMATOR_OPTIONS,
)

_SHARED_RULES = (
    Rule(("momentum",), lambda options: options["optimizer"] == "sgd", "it is for --optimizer sgd"),
    Rule(
        ("betas",), lambda options: options["optimizer"] == "adamw", "it is for --optimizer adamw"
    ),
    Rule(
        (
            *_SIZE,
            *_OF_TRAINING,
            "designer",
            "freeze_designer",
            "align",
            "feedback_size",
            "feedback_batch_size",
            "normalise_feedback",
            "probe_batches",
        ),
        any_arm(DESIGNED_ARMS),
        NEEDS_DESIGNER,
    ),
    Rule(
        ("nystrom_rank",),
        lambda options: options["solver"] == "nystrom",
        "it is for --solver nystrom",
    ),
    Rule(
        ("precondition",),
        lambda options: options["solver"] in (None, "cg"),
        "it is for --solver cg",
    ),
    Rule(
        ("solver_steps",),
        lambda options: options["solver"] in (None, "cg", "neumann"),
        "it is for --solver cg and neumann",
    ),
    Rule(
        OF_THE_ESTIMATOR,
        lambda options: "vpretraining" in options["arms"],
        "it is for the arm vpretraining; random_feedback draws its direction",
    ),
    Rule(
        _SIZE,
        lambda options: options["designer"] is None,
        "it is saved with the designer that --designer names",
    ),
    Rule(
        ("freeze_designer",),
        lambda options: options["designer"] is not None,
        "a new designer has to be trained; give --designer PATH",
    ),
    Rule(
        _OF_TRAINING,
        lambda options: not options["freeze_designer"],
        "--freeze-designer trains no designer",
    ),
)
_OF_MODALITY = {
    "language": (
        Rule(VISION_ONLY, lambda options: False, "it is for --modality vision"),
        *LANGUAGE_RULES,
    ),
    VISION: (
        Rule(LANGUAGE_ONLY, lambda options: False, "it is for --modality language"),
        *VISION_RULES,
    ),
}


def useless_options(given: Options, options: Options) -> dict[str, str]:
    """Which of the given options do nothing, and why.

    Args:
        given: options to look at.
        options: these with every default.
    """
    useless: dict[str, str] = {}
    for rule in (*_SHARED_RULES, *_OF_MODALITY[options["modality"]]):
        if not rule.applies(options):
            for name in rule.names:
                if name in given:
                    useless.setdefault(name, rule.reason)
    return useless
