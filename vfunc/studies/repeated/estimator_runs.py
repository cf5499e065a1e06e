"""Resolves one command line once for each of several named estimators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfunc.config.layers import Layer, merged
from vfunc.errors import UserError
from vfunc.studies.estimators_on_offer import ESTIMATED, ESTIMATORS_ON_OFFER
from vfunc.studies.repeated.settings import naming
from vfunc.training.build.configuration import COMMAND, given_options, resolve, useless_options
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import VISION


@dataclass(frozen=True)
class EstimatorRun:
    """The run of one named estimator.

    Attributes:
        config: its configuration.
        gave_way: options that were given and that this estimator does not use, sorted; none of
            those that the names stand for.
    """

    config: RunConfig
    gave_way: tuple[str, ...] = ()


def estimator_runs(
    named: Sequence[str], files: Sequence[Layer], line: Layer, estimators: Sequence[str] = ()
) -> dict[str, EstimatorRun]:
    """The run of each estimator, by its name; the first alone has the arms that depend on none.

    Each is resolved from what was given, its name standing above the files and below the command
    line, so that their order decides nothing else. An option gives way in the runs of estimators
    that do not use it where another one of those named does; an option of a file, in any case
    where it does something in the file's own company.

    Args:
        named: names of `ESTIMATORS_ON_OFFER`.
        files: what a preset and a file give, the weaker first.
        line: what the command line gives; nothing of what the names stand for.
        estimators: see `resolve`.

    Raises:
        UserError: an option that no estimator uses or that a run refuses, arms of which none has a
            designer, or two estimators whose runs are the same.
    """
    arms = merged([*files, line]).get("arms")
    if arms is not None and ESTIMATED not in arms:
        raise UserError(f"--estimators is about the arm {ESTIMATED}; add it to --arms")
    ways: dict[str, dict[str, Any]] = {name: {**ESTIMATORS_ON_OFFER[name]} for name in named}
    if arms is None:
        layers = [*files, Layer(ways[named[0]]), line]
        idle = useless_options(*layers, estimators=estimators)
        some = resolve(*_without(layers, idle), estimators=estimators)
        ways = {name: {**way, "arms": arms_beside(some)} for name, way in ways.items()}
    before = useless_options(*files, line, estimators=estimators)
    idle = {
        name: useless_options(*files, Layer(way), line, estimators=estimators)
        for name, way in ways.items()
    }
    stood_for = {option for name in named for option in ESTIMATORS_ON_OFFER[name]}
    nowhere = set[str].intersection(*map(set, idle.values()))
    made: dict[str, EstimatorRun] = {}
    for name, way in ways.items():
        layers = _without([*files, Layer(way), line], idle[name].keys() - nowhere)
        alone = [] if name == named[0] else [Layer({"arms": (ESTIMATED,)})]
        with naming(name):
            config = resolve(*layers, *alone, estimators=estimators)
        gave_way = idle[name].keys() - (nowhere & before.keys()) - stood_for
        made[name] = EstimatorRun(config, tuple(sorted(gave_way)))
    _refuse_equal(made)
    return made


def arms_beside(config: RunConfig) -> tuple[str, ...]:
    """What estimators are compared with, unless --arms says: all that the run can have."""
    if config.run.modality == VISION:
        arms = ["baseline", ESTIMATED, "random_feedback", "uniform_smoothing"]
        known = ["known_objects"] if "feedback" not in given_options(config) else []
        masked = config.options["augmentor"] != "photometric"
        return (*arms, *known, *(["matched_uniform"] if masked else []), "oracle")
    embedded = "stream" not in given_options(config)
    worked = config.options.get("feedback_kind") == "worked"
    return (
        "baseline",
        ESTIMATED,
        "random_feedback",
        *(("known_wrong",) if embedded else ()),
        "self_distillation",
        "confidence_gate",
        "oracle",
        "tilted_oracle",
        *(("mixing", "sft") if worked else ()),
    )


def _without(layers: Sequence[Layer], gone: Collection[str]) -> list[Layer]:
    return [
        Layer({n: v for n, v in layer.given.items() if n not in gone}, layer.origin)
        for layer in layers
    ]


def _refuse_equal(made: Mapping[str, EstimatorRun]) -> None:
    """Refuse two names for one run: a file's options can make one of what another stands for."""
    seen: list[tuple[str, dict[str, Any]]] = []
    for name, run in made.items():
        options = {k: v for k, v in run.config.options.items() if k not in (*COMMAND, "arms")}
        for other, same in seen:
            if options == same:
                raise UserError(
                    f"--estimators: {other} and {name} are the same run with the other options "
                    "that are given; leave one of them out, or those options"
                )
        seen.append((name, options))
