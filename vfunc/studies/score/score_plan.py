"""Plans a score: the runs whose states are measured, what has none, and where states are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vfunc.config.known import flag
from vfunc.config.layers import Layer, merged
from vfunc.errors import UserError
from vfunc.studies.repetition import settings_of
from vfunc.studies.score.rows import Row, chosen
from vfunc.studies.score_command import ScoreOptions
from vfunc.training.build.configuration import COMMAND, default_name
from vfunc.training.build.vision_config import VisionConfig
from vfunc.training.files.identity import INDIFFERENT, plain
from vfunc.training.files.inputs import digests_of
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import LANGUAGE
from vfunc.training.run_command_line import (
    PRESETS,
    files_named,
    given_on_command_line,
    options_there,
    parse,
)

IDLE = {
    "arms": "one arm reaches the states; give --arm",
    "eval_every": "nothing is followed on the way to a state",
    "save_every": "states are measured, and kept when they are",
    "probe_batches": "the score takes the place of the probe",
    "certify": "every row is measured; vfunc.certify(problem, theta, phi) holds one",
    "log": "no arm is followed to its end",
    "resume": "the same command given again goes on with what is missing",
    "accept_changes": "it is for --resume of a run",
}


@dataclass(frozen=True)
class Setting:
    """A run whose states are measured: one value of the option that is swept.

    Attributes:
        label: `feedback_batch_size=8`; "" where nothing is swept.
        words: the run's whole command line, from which other processes make the same run.
        config: the same, resolved.
        folder: where its states are kept.
    """

    label: str
    words: tuple[str, ...]
    config: RunConfig
    folder: Path


def settings_for(options: ScoreOptions, rest: Sequence[str], presets: Path) -> list[Setting]:
    """The runs whose states are measured: one, or one for each value that is swept.

    Args:
        options: what is scored.
        rest: arguments of `run`.
        presets: folder of the presets.

    Raises:
        UserError: an option that does nothing here or that a run refuses, a run that has no score,
            or a folder that holds states of another question.
    """
    given = given_on_command_line(rest, presets=presets)
    for name, reason in IDLE.items():
        if name in given:
            raise UserError(f"{flag(name)} does nothing here: {reason}")
    tried: list[tuple[str, tuple[str, ...]]] = [("", ())]
    if options.sweep:
        option, values = options.sweep[0].replace("-", "_"), options.sweep[1:]
        if option == "seed":
            raise UserError(
                "--sweep seed: a score is of one run; give --seed and a --name for that of another"
            )
        if option in IDLE:
            raise UserError(f"--sweep {option}: it does nothing here: {IDLE[option]}")
        if option in given:
            raise UserError(f"{flag(option)} is given and swept as well; leave one out")
        try:
            found = settings_of([f"{option}={','.join(values)}"], options_there(rest, presets))
        except UserError as error:
            raise UserError(str(error).replace("--vary", "--sweep")) from error
        tried = [(one.label, one.arguments) for one in found]
    settings: list[Setting] = []
    folder = None
    for label, arguments in tried:
        words = (*rest, *arguments)
        config = parse(words, presets, below=below_of(options, words, presets))
        _refuse(config, options)
        if folder is None:
            stem = "-".join(["score", default_name(config), *(options.sweep or ())[:1]])
            folder = Path(config.command.runs_dir) / (config.command.name or stem)
        place = folder / re.sub(r"[^\w.+=,@-]", "_", label) if label else folder
        settings.append(Setting(label, words, config, place))
    _refuse_others(settings, options)
    return settings


def below_of(options: ScoreOptions, words: Sequence[str], presets: Path = PRESETS) -> list[Layer]:
    """What a preset of the score gives of a run, for `parse`: by the run's modality."""
    if not options.run:
        return []
    given = given_on_command_line(words, presets=presets)
    modality = merged([*files_named(given, presets), Layer(given)]).get("modality", LANGUAGE)
    return [Layer(options.run[modality], "the score's --preset")]


def _refuse(config: RunConfig, options: ScoreOptions) -> None:
    """Refuse a run that has no score."""
    if isinstance(config, VisionConfig) and config.augmentor == "photometric":
        saved = config.designer.designer
        what = "--augmentor photometric" if saved is None else f"--designer {saved} (photometric)"
        raise UserError(f"the score of pictures is of masks, and {what} makes none")
    if config.run.budget.unit == "seconds":
        raise UserError(
            "a state by wall-clock would be another one each time; give --budget in steps or tokens"
        )
    if config.options.get("feedback_combine") == "matched":
        raise UserError("the score is of one L_down; --feedback-combine matched asks for several")
    if options.arm == "baseline" and config.designer.freeze_designer:
        raise UserError("--freeze-designer does nothing here: --arm baseline has no designer")


def _refuse_others(settings: Sequence[Setting], options: ScoreOptions) -> None:
    """Refuse a folder that holds states of another question."""
    rows = chosen(options.only, options.also)
    for setting in settings:
        if setting.config.command.overwrite:
            continue  # `make_room` will
        if not setting.folder.exists() or not any(setting.folder.iterdir()):
            continue
        there = asked_file(setting)
        if not there.exists():
            if options.sweep is None and any(setting.folder.glob("*/asked.json")):
                raise UserError(f"{setting.folder} holds a sweep; give another --name")
            raise UserError(f"{setting.folder} is there and no score; give another --name")
        now, then = json.loads(identity_of(setting, options, rows)), json.loads(there.read_text())
        other = [
            n
            for n in dict.fromkeys((*now, *then))
            if now.get(n) != then.get(n)
            # written before contents were part of it
            and not (n.startswith(_CONTENTS) and n not in then)
        ]
        if other:
            told = ", ".join(f"{n} {then.get(n)} there, {now.get(n)} here" for n in other)
            raise UserError(
                f"{setting.folder} is of another question ({told}); give another --name, or "
                "--overwrite to replace it"
            )


def make_room(settings: Sequence[Setting]) -> None:
    """Remove the states that --overwrite replaces."""
    for setting in settings:
        if setting.config.command.overwrite:
            for old in setting.folder.glob("state-*.json"):
                old.unlink()


def identity_of(setting: Setting, options: ScoreOptions, rows: Sequence[Row]) -> str:
    """What decides over a state's numbers, as text: options, and what the run reads by its digest.

    Args:
        setting: the run.
        options: what is scored.
        rows: the estimators.
    """
    run = {
        name: plain(value)
        for name, value in setting.config.options.items()
        if name not in INDIFFERENT and name not in COMMAND and name not in IDLE
    }
    own = {
        "arm": options.arm,
        "tasks": options.tasks,
        "horizons": list(options.horizons),
        "task_by_task": options.task_by_task,
        "directions": options.directions,
        "estimators": [row.label for row in rows],
    }
    read = {
        f"{_CONTENTS}{role}": one["sha256"][:16] for role, one in digests_of(setting.config).items()
    }
    return json.dumps(run | own | read, indent=1)


_CONTENTS = "contents of "


def place_of(setting: Setting, fraction: float) -> Path:
    """The file of a state."""
    return setting.folder / f"state-{fraction}.json"


def asked_file(setting: Setting) -> Path:
    """The file that says which question a folder's states are of."""
    return setting.folder / "asked.json"
