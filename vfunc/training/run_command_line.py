"""Reads the command line of a run into a configuration, with one clear line for every error."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import vfunc
from vfunc.config.command_line import given_words, last_value, parse_words, refuse_repeated
from vfunc.config.known import Catalogue, flag
from vfunc.config.layers import Layer, merged
from vfunc.config.toml import read_preset, read_toml
from vfunc.errors import UserError, VfuncError
from vfunc.estimators import ESTIMATORS
from vfunc.printable import one_line
from vfunc.processes import which_process
from vfunc.training.build.configuration import (
    MODALITIES,
    catalogue_of,
    groups_of,
    resolve,
    unknown_option,
)
from vfunc.training.interrupt import Interrupted, ending_at_once
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import LANGUAGE, VISION

PRESETS = Path(vfunc.__file__).resolve().parent / "presets"
CONFIG_NAME = "config.toml"
WITH_RESUME = (
    "resume",
    "budget",
    "device",
    "threads",
    "runs_dir",
    "accept_changes",
    "log",
    "leave_checkpoints",
    "loader_workers",
    "in_memory",
    "dry_run",
    "debug",
)

DESCRIPTION = """Train a learner with and without learned tasks, from one start, and compare.

Without options: the embedded problem and learner, offline, in minutes on a CPU.

With --modality vision: the same on pictures (--modality vision --help).

Examples:
  %(prog)s --estimator unrolled --lookahead-steps 2
  %(prog)s --problem random_slips --value cosine --budget 10min
  %(prog)s --stream a.jsonl.gz --feedback b.jsonl --eval c.jsonl
  %(prog)s --preset paper/qwen1.5_4b_lora --device cuda
  %(prog)s --modality vision --estimator first_order
  %(prog)s --modality vision --feedback photos/ --learner vit_base_patch16_dinov3
  %(prog)s --config runs/x/config.toml --seed 1"""


def parse(
    argv: Sequence[str],
    presets: Path = PRESETS,
    prog: str | None = None,
    estimators: Sequence[str] = (),
    below: Sequence[Layer] = (),
) -> RunConfig:
    """The configuration that a command line asks for.

    Defaults give way to the preset, it to the configuration file, and that to the command line.

    Args:
        argv: arguments, without the program's name.
        presets: folder of the presets.
        prog: the program's name in `--help`; None takes it from the process.
        estimators: further estimators whose options may be there, to be refused by name.
        below: what another command gives by itself, weaker than the preset.

    Returns:
        The complete configuration. With `--resume` it is the run's own, `command.resume` being
        the run's directory.

    Raises:
        UserError: see `given_on_command_line`, `resolve`, `read_toml` and `read_preset`.
        SystemExit: `--help`.
    """
    given = given_on_command_line(argv, prog, presets, estimators)
    if "resume" in given:
        return _resumed(given)
    return resolve(*below, *files_named(given, presets), Layer(given), estimators=estimators)


def files_named(given: Mapping[str, Any], presets: Path = PRESETS) -> list[Layer]:
    """What the preset and the file give that a command line names, the weaker first.

    Args:
        given: what the command line gives.
        presets: folder of the presets.

    Raises:
        UserError: see `read_toml` and `read_preset`.
    """
    files = [read_preset(given["preset"], presets)] if "preset" in given else []
    if "config" in given:
        if not given["config"].strip():
            raise UserError("--config '' names no file")
        files.append(read_toml(Path(given["config"])))
    return files


def given_on_command_line(
    argv: Sequence[str],
    prog: str | None = None,
    presets: Path = PRESETS,
    estimators: Sequence[str] = (),
) -> dict[str, Any]:
    """Exactly the options that a command line gives, by name.

    Args:
        argv: arguments, without the program's name.
        prog: the program's name in `--help`; None takes it from the process.
        presets: folder of the presets, one of which may name the modality.
        estimators: further estimators whose options may be there.

    Raises:
        UserError: an option that there is not, or of the other modality; two presets or files; a
            value that an option does not take; an estimator that cannot be imported.
        SystemExit: `--help`.
    """
    program = prog or Path(sys.argv[0]).name
    refuse_repeated(argv, "preset", "config")
    modality, named = _announced(argv, presets)
    catalogue = catalogue_of(modality, (*named, *estimators))
    _refuse_foreign(argv, catalogue, modality)
    groups = groups_of(modality).items()
    titles = {name: (made.__doc__ or "").partition("\n\n")[0] for name, made in groups}
    titles |= {name: f"With --estimator {name}." for name in (*ESTIMATORS, *named, *estimators)}
    return parse_words(
        argv,
        catalogue,
        program=program,
        description=DESCRIPTION.replace("%(prog)s", program),
        titles=titles,
        known={"modality": modality},
    )


def options_there(argv: Sequence[str], presets: Path, estimators: Sequence[str] = ()) -> Catalogue:
    """The options that a command line can have, by what it, its preset and its file announce."""
    modality, named = _announced(argv, presets)
    return catalogue_of(modality, (*named, *estimators))


def _announced(argv: Sequence[str], presets: Path) -> tuple[str, tuple[str, ...]]:
    """The modality and the estimator of a command line, before it is parsed."""
    files: list[Layer] = []
    if preset := last_value(argv, "preset"):
        with contextlib.suppress(UserError):  # told when it is read for good
            files.append(read_preset(preset, presets))
    if config := last_value(argv, "config"):
        with contextlib.suppress(UserError):
            files.append(read_toml(Path(config)))
    if resumed := last_value(argv, "resume"):
        with contextlib.suppress(UserError):
            runs = last_value(argv, "runs-dir") or "runs"
            files.append(read_toml(_run_directory(resumed, runs) / CONFIG_NAME))
    said: Mapping[str, Any] = merged(files)
    modality = last_value(argv, "modality") or said.get("modality")
    estimator = last_value(argv, "estimator") or said.get("estimator")
    return (
        str(modality) if modality in MODALITIES else LANGUAGE,
        (estimator,) if isinstance(estimator, str) and ":" in estimator else (),
    )


def _refuse_foreign(argv: Sequence[str], catalogue: Catalogue, modality: str) -> None:
    for name in given_words(argv):
        bare = name.removeprefix("no_")
        if name in ("help", "") or name in catalogue or bare in catalogue:
            continue
        for spelled in dict.fromkeys((name, bare)):
            if "does nothing here" in (said := unknown_option(spelled, modality)):
                raise UserError(f"{flag(spelled)}{said}")


def run_guarded(
    main: Callable[[RunConfig], int | None],
    argv: Sequence[str] | None = None,
    presets: Path = PRESETS,
    program: str | None = None,
) -> int:
    """Parse, run, and turn what goes wrong into one line and an exit code.

    Args:
        main: the function to run; it may return an exit code.
        argv: arguments; None takes the process's own.
        presets: folder of the presets.
        program: the program's name in `--help`; None takes it from the process.

    Returns:
        0, or what `main` returns; 2 for what the user can mend (a file, an option); 1 for what
        went wrong on the way (a loss that is not finite, a solver that did not converge, a full
        disk, too little memory); 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP. Other
        exceptions are bugs, and are raised.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    config = None
    try:
        with ending_at_once():
            config = parse(argv, presets, program)
            return main(config) or 0
    except SystemExit as stop:  # --help; or a library's own
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
    except (RuntimeError, MemoryError) as error:
        if (said := _of_memory(error)) is None:
            raise
        vision = config is not None and config.run.modality == VISION
        size = "--image-size" if vision else "--seq-len"
        return _failed(f"{said}; a smaller --batch-size or {size} needs less", 1, argv)
    except KeyboardInterrupt as stop:
        code = 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)
        return _failed(f"interrupted: {stop}" if str(stop) else "interrupted", code, argv)


def _of_memory(error: Exception) -> str | None:
    """What an error says of memory that is not there; None where it is about something else."""
    said = str(error)
    # the CPU's allocator has no class of its own for it
    if asked := re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", said):
        return f"out of memory: {int(asked[1]) / 2**30:,.1f} GiB were asked for at once"
    if "Storage size calculation overflowed" in said:
        return "out of memory: a tensor of more bytes than can be counted"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return said.split(". ")[0] or "out of memory"
    return None


def _failed(message: str, code: int, argv: Sequence[str]) -> int:
    if [word for word in argv if word in ("--debug", "--no-debug")][-1:] == ["--debug"]:
        traceback.print_exc()
    # one line, whatever the message is made of; where stderr is gone, the code still tells
    with contextlib.suppress(OSError):
        print(f"error: {which_process()}{one_line(message)}", file=sys.stderr, flush=True)
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
    saved = read_toml(directory / CONFIG_NAME)
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
