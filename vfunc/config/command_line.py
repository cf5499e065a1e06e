"""The command line: made from the options by tyro, with one clear line for every error.

A group of options becomes a typed dictionary in which nothing is required, so that what comes
back holds what was given, and nothing else.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

import torch

import vfunc
from vfunc.config.config import FIELDS, GROUPS, RunConfig
from vfunc.config.config_file import CONFIG_NAME, load_preset, load_toml
from vfunc.config.language_rules import LANGUAGE_ONLY
from vfunc.config.option import option_of
from vfunc.config.resolve import Layer, flag, resolve
from vfunc.config.run_options import VISION
from vfunc.config.values import required
from vfunc.errors import UserError, VfuncError
from vfunc.extras import needs
from vfunc.training.budget import Budget

with needs("run", "tyro"):
    import tyro

PRESETS = Path(vfunc.__file__).resolve().parent / "presets"
WITH_RESUME = ("resume", "budget", "device", "threads", "runs_dir", "dry_run", "debug")

DESCRIPTION = """Train a learner with and without learned tasks, from one start, and compare.

Without options: the embedded problem and learner, offline, in minutes on a CPU.

With --modality vision: the same on pictures.

Examples:
  %(prog)s --estimator unrolled --lookahead-steps 2
  %(prog)s --problem random_slips --value cosine --budget 10min
  %(prog)s --stream a.jsonl.gz --feedback b.jsonl --eval c.jsonl
  %(prog)s --preset paper_lora --device cuda
  %(prog)s --modality vision --estimator first_order
  %(prog)s --modality vision --feedback photos/ --learner vit_base_patch16_dinov3
  %(prog)s --config runs/x/config.toml --seed 1"""


def parse(argv: Sequence[str], presets: Path = PRESETS, prog: str | None = None) -> RunConfig:
    """The configuration that a command line asks for.

    Defaults give way to the preset, it to the configuration file, and that to the command line.

    Args:
        argv: arguments, without the program's name.
        presets: folder of the presets.
        prog: the program's name in `--help`; None takes it from the process.

    Returns:
        The complete configuration. With `--resume` it is the run's own, `command.resume` being
        the run's directory.

    Raises:
        UserError: see `resolve`, `load_toml` and `load_preset`.
        SystemExit: `--help` (0), or a flag or value that tyro refuses (2).
    """
    given = given_on_command_line(argv, prog)
    if "resume" in given:
        return _resumed(given)
    layers = []
    if "preset" in given:
        layers.append(load_preset(given["preset"], presets))
    if "config" in given:
        layers.append(load_toml(Path(given["config"])))
    return resolve(*layers, Layer(given))


def given_on_command_line(argv: Sequence[str], prog: str | None = None) -> dict[str, Any]:
    """Exactly the options that a command line gives, by name.

    Raises:
        SystemExit: as `parse`.
    """
    program = prog or Path(sys.argv[0]).name
    groups = tyro.cli(
        _surface(),
        args=list(argv),
        prog=program,
        description=DESCRIPTION.replace("%(prog)s", program),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return {name: value for group in groups.values() for name, value in group.items()}


def run_guarded(
    main: Callable[[RunConfig], int | None],
    argv: Sequence[str] | None = None,
    presets: Path = PRESETS,
    program: str | None = None,
) -> int:
    """Parse, run, and turn what goes wrong into one line and an exit code.

    Args:
        main: what to do; it may return an exit code.
        argv: arguments; None takes the process's own.
        presets: folder of the presets.
        program: the program's name in `--help`; None takes it from the process.

    Returns:
        0, or what `main` returns; 2 for what the user can mend (a file, an option); 1 for what
        went wrong on the way (a loss that is not finite, a solver that did not converge, a full
        disk, too little memory); 130 after Ctrl-C. Other exceptions are bugs, and are raised.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    config = None
    try:
        config = parse(argv, presets, program)
        return main(config) or 0
    except SystemExit as stop:  # tyro: --help or its own usage error, already printed
        if isinstance(stop.code, str):
            return _failed(stop.code, 1, argv)
        return stop.code or 0
    except UserError as error:
        return _failed(str(error), 2, argv)
    except VfuncError as error:
        return _failed(str(error), 1, argv)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _failed(f"{error.strerror or error}{where}", 1, argv)
    except (torch.OutOfMemoryError, MemoryError) as error:
        said = str(error).split(". ")[0] or "out of memory"
        vision = config is not None and config.run.modality == VISION
        size = "--image-size" if vision else "--seq-len"
        return _failed(f"{said}; a smaller --batch-size or {size} needs less", 1, argv)
    except KeyboardInterrupt as stop:
        return _failed(f"interrupted: {stop}" if str(stop) else "interrupted", 130, argv)


def _failed(message: str, code: int, argv: Sequence[str]) -> int:
    if [word for word in argv if word in ("--debug", "--no-debug")][-1:] == ["--debug"]:
        traceback.print_exc()
    # one line, whatever the message is made of; where stderr is gone, the code still tells
    with contextlib.suppress(OSError):
        print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return code


def _resumed(given: dict[str, Any]) -> RunConfig:
    barred = [flag(name) for name in given if name not in WITH_RESUME]
    if barred:
        allowed = ", ".join(flag(name) for name in WITH_RESUME[1:])
        raise UserError(
            f"{', '.join(barred)} would change the run that --resume goes on with; only {allowed} "
            "may be given with it"
        )
    if given["resume"].strip() in ("", ".", ".."):
        raise UserError(f"--resume {given['resume']!r} names no run")
    directory = _run_directory(given["resume"], given.get("runs_dir", "runs"))
    saved = load_toml(directory / CONFIG_NAME)
    given = given | {"resume": str(directory)}
    config, before = resolve(saved, Layer(given)), resolve(saved)
    if config.run.budget.unit != before.run.budget.unit:
        raise UserError(
            f"--budget {config.run.budget}: the run counts {before.run.budget.unit} (it had "
            f"{before.run.budget}), and its schedule with them; give {before.run.budget.unit}"
        )
    return config


def _run_directory(name: str, runs_dir: str) -> Path:
    places = (Path(name), Path(runs_dir) / name)
    for place in places:
        if (place / CONFIG_NAME).is_file():
            return place
    looked = " or ".join(str(place / CONFIG_NAME) for place in places)
    raise UserError(f"--resume {name}: there is no such run; looked for {looked}")


def _surface() -> Any:
    groups = {
        name: Annotated[
            TypedDict(made.__name__, dict(_arguments(made)), total=False),  # type: ignore[operator]
            tyro.conf.arg(help=made.__doc__),
        ]
        for name, made in GROUPS.items()
    }
    return TypedDict("Options", groups)  # type: ignore[operator]


def _arguments(group: type) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(group).items():
        said = option_of(FIELDS[name])
        kind = required(hint)
        text = kind is Budget or name == "arms"  # read by the package's own grammar
        only = "language only" if name in LANGUAGE_ONLY else ""
        default = f"default: {said.default}" if said.default not in ("", "None") else ""
        notes = "; ".join(filter(None, (only, default)))
        shown = f"({notes})" if notes else ""
        argument = tyro.conf.arg(help=said.help, metavar=said.metavar, help_behavior_hint=shown)
        kind = str if text else kind
        yield name, Annotated[kind, argument]
