"""The options that runs of both modalities have: command, run, learner, optimizer, value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from rich.console import Console
from torch import nn

from vfunc.arms import ARMS
from vfunc.conditions import (
    DESIGNED,
    EMBEDDED,
    EMBEDDED_LEARNER,
    SHORTCUT,
    SHORTCUT_LEARNER,
    TRAINED,
    check_subset,
)
from vfunc.config.declared import By, Cases, Computed, Condition, Need, Options, option
from vfunc.config.values import nearest
from vfunc.errors import UserError
from vfunc.estimators import (
    ESTIMATORS,
    Estimator,
    FirstOrder,
    RandomDirection,
    find_estimator,
    option_names,
)
from vfunc.estimators.first_order import DEFLATED
from vfunc.modality import Modality
from vfunc.report.trackers import TRACKERS, require_package
from vfunc.training.budget import Budget, parse_budget

LANGUAGE, VISION = "language", "vision"
ModalityName = Literal["language", "vision"]
OptimizerName = Literal[
    "adamw",
    "sgd",
    "adam",
    "nadam",
    "radam",
    "adamax",
    "adagrad",
    "rmsprop",
    "adadelta",
    "adafactor",
    "asgd",
]
WITH_BETAS = ("adamw", "adam", "nadam", "radam", "adamax")
ADAMS_RATE = ("adamw", "adam", "nadam", "radam")
"""Optimizers that share AdamW's default learning rates."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_RUN_NAME = re.compile(r"\w[\w.+=,@ -]*")
_ADAPTED = Condition("with LoRA", lambda options: options["lora_rank"] > 0)


def _on_shortcut(options: Options) -> bool:
    return options["modality"] == VISION and SHORTCUT.holds(options)


def _holds_g_down(options: Options) -> bool:
    return getattr(find_estimator(options["estimator"]), "g_down_alone", False)


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


_OF_TEXT = Need(lambda options: options["modality"] == LANGUAGE, "it is for text")
_MEANS = Need(_takes_means, f"it is for --value {' or '.join(DEFLATED)}, with --means above 0")


def _of_optimizer(*names: str) -> Need:
    listed = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return Need(lambda options: options["optimizer"] in names, f"it is for --optimizer {listed}")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_arms(arms: tuple[str, ...], where: str) -> None:
    for arm in arms:
        if arm not in ARMS:
            known = ", ".join(ARMS)
            raise UserError(f"{where}: unknown arm {arm!r}{nearest(arm, ARMS)}; known: {known}")
        if arms.count(arm) > 1:
            raise UserError(f"{where} names {arm} twice")
    if not arms:
        raise UserError(f"{where} names no arm; known: {', '.join(ARMS)}")


def _check_device(device: str, where: str) -> None:
    if not _DEVICE.fullmatch(device):
        raise UserError(f"{where} must be auto, cpu, cuda or cuda:N, not {device!r}")


def _check_trackers(names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise UserError(
                f"{where}: no tracker {name!r}{nearest(name, TRACKERS)}; known: {known}"
            )
        if names.count(name) > 1:
            raise UserError(f"{where} names {name} twice")
        require_package(name)


def _check_name(name: str, where: str) -> None:
    # overwriting removes the run's directory: a name must not lead out of --runs-dir
    if not _RUN_NAME.fullmatch(name):
        raise UserError(f"{where} must be a plain directory name, such as my-run_2, not {name!r}")


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """This command. Not part of a run's configuration, so not in TOML files."""

    preset: str | None = option(
        "Start from a TOML file of vfunc/presets, by its name.", default=None, metavar="NAME"
    )
    config: str | None = option(
        "Read options from a TOML file: the names of this list, with _ for -. It wins over the "
        "preset, and the command line wins over both. Every run writes one that repeats it.",
        default=None,
        metavar="FILE",
    )
    name: str | None = option(
        "Name of the run, and of its directory.",
        default=None,
        shown="made from data, estimator and seed, with a number if taken",
        metavar="NAME",
        check=_check_name,
    )
    runs_dir: str = option("Directory that holds the runs.", default="runs", metavar="DIR")
    overwrite: bool = option("Replace the run of that name, if there is one.", default=False)
    resume: str | None = option(
        "Go on with an interrupted run: its name or directory. Its own options hold; only "
        "--budget, --device, --threads, --runs-dir, --accept-changes, --log, --dry-run and --debug "
        "go with it.",
        default=None,
        metavar="RUN",
    )
    accept_changes: bool = option(
        "Go on with a run whose configuration, data or log have changed since; its results say so.",
        default=False,
        needs=(Need(lambda options: options["resume"] is not None, "it is for --resume"),),
    )
    log: tuple[str, ...] = option(
        "Send figures to trackers too, separated by commas: tensorboard (the run's folder), wandb, "
        "trackio. events.jsonl is written in any case.",
        default=(),
        shown="none",
        metavar="NAME,NAME",
        parse=_listed,
        check=_check_trackers,
    )
    dry_run: bool = option("Check everything, print the configuration and stop.", default=False)
    debug: bool = option("Show the traceback of an error.", default=False)


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
        "known_objects, which is told where the objects are, and matched_uniform, which keeps as "
        "much as the designer of vpretraining did, everywhere alike; mixing and sft train on the "
        "feedback itself).",
        default=("baseline", "vpretraining"),
        shown="baseline,vpretraining",
        metavar="ARM,ARM",
        parse=_listed,
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


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """The model that is trained."""

    learner: str = option(
        "'embedded', the small base that comes with the package; 'smollm2', a pretrained language "
        "model of 135M parameters, downloaded at its first use; or a directory, a GGUF file, or a "
        "model by its name: any causal language model of transformers, or any ViT of timm.",
        default=EMBEDDED,
        metavar="DIR|ID",
        reads=True,
    )
    precision: Literal["float32", "bfloat16"] = option("Of the learner.", default="float32")
    device: str = option(
        "auto (a GPU if there is one), cpu, cuda or cuda:N.",
        default="auto",
        metavar="DEVICE",
        check=_check_device,
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the learner takes its steps."""

    optimizer: OptimizerName = option(
        "The learner's optimizer; what has no option here is as torch has it by default.",
        default="adamw",
    )
    lr: float = option(
        "Peak learning rate; none by default for optimizers other than adamw, adam, nadam, radam.",
        default=By(
            "modality",
            {
                LANGUAGE: Cases(((EMBEDDED_LEARNER, 1e-3), (_ADAPTED, 2e-4)), 1.5e-5),
                VISION: Cases(((SHORTCUT_LEARNER, 1e-3), (EMBEDDED_LEARNER, 5e-4)), 4.15e-6),
            },
        ),
        above=0,
    )
    betas: tuple[float, float] = option(
        "Decay rates of the first and second moment.",
        default=Cases(((EMBEDDED_LEARNER, (0.9, 0.99)),), (0.9, 0.999)),
        metavar="B1 B2",
        least=0,
        below=1,
        needs=(_of_optimizer(*WITH_BETAS),),
    )
    momentum: float = option(
        "Momentum of sgd and rmsprop.",
        default=0.0,
        least=0,
        below=1,
        needs=(_of_optimizer("sgd", "rmsprop"),),
    )
    weight_decay: float = option(
        "Weight decay (decoupled in adamw and adafactor).",
        default=By("modality", {LANGUAGE: 0.0, VISION: 0.04}),
        least=0,
    )
    clip: float = option("Largest norm of the gradient; 0 never clips.", default=1.0, least=0)
    warmup: float = option(
        "Fraction of the budget over which the learning rate rises.",
        default=By("modality", {LANGUAGE: Cases(((EMBEDDED_LEARNER, 0.05),), 0.03), VISION: 0.05}),
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
            lambda options: 60 if _on_shortcut(options) else None,
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
                LANGUAGE: Cases(((EMBEDDED_LEARNER, "all"), (_ADAPTED, "lora:last:2")), "last:2"),
                VISION: Cases(((SHORTCUT_LEARNER, "all"),), "last:2"),
            },
        ),
        metavar="SUBSET",
        check=check_subset,
        needs=(DESIGNED,),
    )
    meta_period: int = option(
        "Micro-batches between designer updates.",
        default=By("modality", {LANGUAGE: 8, VISION: Cases(((SHORTCUT, 2),), 4)}),
        least=1,
        needs=(DESIGNED, TRAINED),
    )
    feedback_bank: int | None = option(
        "Feedback examples that g_down is of, in all processes, computed in parts of "
        "--feedback-batch-size; its noise falls with their number.",
        default=Computed(
            "one feedback batch; all there are on vision's problems shortcut and clean",
            lambda options: _all_feedback(options) if _on_shortcut(options) else None,
            None,
        ),
        least=1,
        needs=(DESIGNED, TRAINED),
    )
    feedback_every: int | None = option(
        "Designer updates that one g_down serves before it is computed anew (with --meta-period "
        "micro-batches from one to the next); of first_order, random and zero.",
        default=Computed(
            "1; 10 on vision's problems shortcut and clean, where the estimator allows it",
            lambda options: 10 if _on_shortcut(options) and _holds_g_down(options) else None,
            None,
        ),
        least=1,
        needs=(DESIGNED, TRAINED),
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
    """Refuse a bank that is less than a batch, and g_down held for an estimator that asks for more.

    Args:
        options: all of them.

    Raises:
        UserError: what does not fit, and why.
    """
    bank, part, every = (options[f"feedback_{name}"] for name in ("bank", "batch_size", "every"))
    if bank is not None and bank < part:
        raise UserError(
            f"--feedback-bank {bank} is below the --feedback-batch-size {part} that it is computed "
            "in parts of; lower that"
        )
    name = options["estimator"]
    if (every or 1) > 1 and not getattr(find_estimator(name), "g_down_alone", False):
        where = _ASKS_ELSEWHERE.get(name, "says nothing of what it asks (`g_down_alone`)")
        raise UserError(
            f"--feedback-every {every} holds g_down of an earlier learner, and {name} {where}; "
            "leave it out (a --feedback-bank alone works)"
        )


_ASKS_ELSEWHERE = {
    "unrolled": "takes the gradient of L_down at the end of its lookahead",
    "implicit": "takes the gradient of L_down at the optimum of its proximal problem",
}


def stem(source: str) -> str:
    """A file's, folder's or data set's name without its path and endings."""
    return source.rstrip("/").rsplit("/", 1)[-1].split(":")[0].split(".")[0]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete configuration, as far as both modalities have it; each adds groups of its own.

    Fields that do nothing in a combination (`optimizer.momentum` with adamw) hold their defaults;
    so do the size and targets of a designer that is loaded, which come from its file instead.

    Attributes:
        options: every option by its name; the estimator's own where they were given, else None.
        command: this command.
        run: what to compare, for how long.
        learner: the model that is trained.
        optimizer: how it takes its steps.
        designer: how the designer is trained.
        estimator: how values are estimated.
    """

    options: Mapping[str, Any] = field(hash=False, repr=False)
    command: CommandOptions
    run: RunOptions
    learner: LearnerOptions
    optimizer: OptimizerOptions
    designer: DesignerOptions
    estimator: EstimatorOptions

    unit: ClassVar[str]
    """What a budget counts beside steps and seconds: tokens or images."""

    @property
    def subject(self) -> str:
        """The data and what is learned of them, for the name of a run."""
        raise NotImplementedError

    @property
    def penalties(self) -> Mapping[str, float]:
        """The weights of the terms of R(phi) that the run's designer has, by their names."""
        raise NotImplementedError

    @property
    def penalties_in_values(self) -> Mapping[str, float]:
        """The same in units of the typical value of a task's element, of those that have such."""
        return {}

    def assembled(
        self, device: torch.device, check: Callable[[nn.Module], None]
    ) -> tuple[nn.Module, Modality]:
        """The start learner, on the CPU, and the modality.

        Args:
            device: where everything runs.
            check: refuses learners that do not suit the run.

        Raises:
            UserError: something is missing or does not fit together.
        """
        raise NotImplementedError

    def described(self, console: Console) -> bool:
        """Say what a run would be, for `--dry-run`, without loading all of it.

        Returns:
            Whether it has been said: False leaves it to the assembled run.
        """
        return False

    @staticmethod
    def check(given: Options, options: Options) -> None:
        """Refuse options that contradict each other or need one that is missing.

        Args:
            given: what was given.
            options: the same with every default.

        Raises:
            UserError: the first contradiction, and how to resolve it.
        """
        raise NotImplementedError

    def changed(self, **command: Any) -> RunConfig:
        """The same run by a command with these options changed."""
        return replace(
            self,
            options={**self.options, **command},
            command=replace(self.command, **command),
        )
