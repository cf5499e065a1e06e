"""Is a value of an option's type, within its bounds, and at peace with the others?"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

from beartype.door import is_bearable

from vfunc.config.config import FIELDS, TYPES
from vfunc.config.language_rules import check_language
from vfunc.config.option import option_of
from vfunc.config.run_options import VISION
from vfunc.config.vision_rules import check_labels, check_vision
from vfunc.errors import UserError
from vfunc.training.arms import ARMS
from vfunc.training.budget import Budget, parse_budget

_SUBSET = re.compile(r"all|last:[1-9]\d*|lora|lora:last:[1-9]\d*|re:.+")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_RUN_NAME = re.compile(r"\w[\w.+=,@ -]*")


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean X?`, or nothing if nothing is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def typed_value(name: str, value: Any, where: str) -> Any:
    """A value as its option's type has it.

    Whole numbers become floats, and lists tuples, where those are wanted; budgets and arms may be
    text.

    Args:
        name: the option.
        value: as given.
        where: the option and where it was given, for messages.

    Raises:
        UserError: there is no such option, or the value is not of its type.
    """
    if name not in FIELDS:
        raise UserError(f"{where}: no such option{nearest(name, FIELDS)}")
    hint = TYPES[name]
    if hint is Budget and isinstance(value, str):
        return parse_budget(value)
    if name == "arms" and isinstance(value, str):
        value = tuple(arm.strip() for arm in value.split(",") if arm.strip())
    elif get_args(required(hint)) == (str, ...) and isinstance(value, str):
        value = (value,)
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and float in get_args(required(hint)):
        value = tuple(_as_float(entry) for entry in value)
    elif required(hint) is float:
        value = _as_float(value)
    # beartype takes True for an int, as Python does; nobody who writes `seed = true` means 1
    stray = isinstance(value, bool) and required(hint) is not bool
    stray = stray or (value == () and name != "arms")
    if value is None or stray or not is_bearable(value, hint):
        raise UserError(f"{where} must be {type_in_words(name)}, not {value!r}")
    return value


def type_in_words(name: str) -> str:
    """What an option's values are: `a whole number`, `one of adamw, sgd`."""
    hint = required(TYPES[name])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        entries = get_args(hint)
        if name == "arms":
            return "names, separated by commas"
        many = "one or more" if entries[-1] is ... else str(len(entries))
        return f"{many} {'names' if entries[0] is str else 'numbers'}"
    words = {int: "a whole number", float: "a number", bool: "true or false", Budget: "a budget"}
    return words.get(hint, "text")


def check_bounds(name: str, value: Any, where: str) -> None:
    """Refuse numbers that are not finite or out of the option's bounds, and malformed names.

    Raises:
        UserError: the value is refused; the message says what is allowed.
    """
    said = option_of(FIELDS[name])
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        bounds = (
            ("above", said.above, said.above is None or number > said.above),
            ("at least", said.least, said.least is None or number >= said.least),
            ("below", said.below, said.below is None or number < said.below),
            ("at most", said.most, said.most is None or number <= said.most),
        )
        if not math.isfinite(number) or not all(held for _, _, held in bounds):
            wanted = " and ".join(
                f"{word} {bound:g}" for word, bound, _ in bounds if bound is not None
            )
            raise UserError(f"{where} must be {wanted or 'finite'}, not {number}")
    if name == "arms":
        _check_arms(value, where)
    if name == "labels":
        check_labels(value, where)
    if name == "align" and not _SUBSET.fullmatch(value):
        raise UserError(
            f"{where} must be all, last:N, lora, lora:last:N or re:PATTERN, not {value!r}"
        )
    if name == "device" and not _DEVICE.fullmatch(value):
        raise UserError(f"{where} must be auto, cpu, cuda or cuda:N, not {value!r}")
    # overwriting removes the run's directory: a name must not lead out of --runs-dir
    if name == "name" and not _RUN_NAME.fullmatch(value):
        raise UserError(f"{where} must be a plain directory name, such as my-run_2, not {value!r}")
    entries = value if isinstance(value, tuple) else (value,)
    if any(isinstance(entry, str) and not entry.strip() for entry in entries):
        raise UserError(f"{where} is empty")


def check_combination(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other or need one that is missing.

    Args:
        given: what was given.
        options: the same with every default.

    Raises:
        UserError: the first contradiction, and how to resolve it.
    """
    modality, budget = options["modality"], options["budget"]
    foreign = {VISION: "tokens"}.get(modality, "images")
    if budget.unit == foreign:
        counted = "images" if foreign == "tokens" else "tokens"
        raise UserError(
            f"--budget {budget}: --modality {modality} counts {counted}; give {counted}, steps or "
            "a time"
        )
    if modality == VISION:
        check_vision(options)
    else:
        check_language(given, options)
    if options["optimizer"] == "sgd" and "lr" not in given:
        raise UserError("--optimizer sgd has no learning rate that suits most learners; give --lr")


def _check_arms(arms: tuple[str, ...], where: str) -> None:
    for arm in arms:
        if arm not in ARMS:
            known = ", ".join(ARMS)
            raise UserError(f"{where}: unknown arm {arm!r}{nearest(arm, ARMS)}; known: {known}")
        if arms.count(arm) > 1:
            raise UserError(f"{where} names {arm} twice")
    if not arms:
        raise UserError(f"{where} names no arm; known: {', '.join(ARMS)}")


def required(hint: Any) -> Any:
    """X of `X | None`."""
    rest = [kind for kind in get_args(hint) if kind is not type(None)]
    return rest[0] if len(rest) == 1 and type(None) in get_args(hint) else hint


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
