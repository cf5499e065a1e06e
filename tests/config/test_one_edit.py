"""A field added to a component is an option everywhere: what a new option costs beside its use."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import pytest

from vfunc.config.declared import option
from vfunc.config.toml import read_toml
from vfunc.errors import UserError
from vfunc.estimators import Unrolled, estimator
from vfunc.language import options as language
from vfunc.language.soft_targets import designer
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.training.build import configuration
from vfunc.training.build.configuration import resolve, to_toml
from vfunc.training.run_command_line import parse
from vfunc.vision import options as vision
from vfunc.vision.objectives.dino import Dino


def with_field(made, name, field):
    """The same dataclass with one more field: what an edit of its file would make of it."""
    more = dataclasses.make_dataclass(
        made.__name__, [(name, float, field)], bases=(made,), frozen=True
    )
    more.__module__ = made.__module__
    return more


def sharpness():
    return option("How sharp it is, from 0 to 1.", default=0.25, least=0, most=1)


@pytest.fixture
def edited(monkeypatch):
    """Put another class into the place of a component; undone, with what was read of it."""

    def forget():
        configuration._catalogue.cache_clear()
        configuration.fields_of.cache_clear()

    def edit(owner, name, made):
        monkeypatch.setattr(owner, name, made)
        forget()

    yield edit
    monkeypatch.undo()
    forget()


def edit_language(edited):
    made = with_field(language.DesignerConfig, "sharpness", sharpness())
    edited(language, "DesignerConfig", made)
    return [], lambda config: config.targets.design(vocabulary=5).sharpness


def edit_language_nested(edited):
    made = with_field(TargetForm, "sharpness", sharpness())
    edited(designer, "TargetForm", made)
    return [], lambda config: config.targets.design["target"].sharpness


def edit_vision(edited):
    made = with_field(Dino, "sharpness", sharpness())
    held = dict(vision.ViewOptions.__dataclass_fields__["objective"].metadata)
    variants = {**held["option"].variants, "dino": made}
    changed = {"option": dataclasses.replace(held["option"], variants=variants)}
    field = vision.ViewOptions.__dataclass_fields__["objective"]
    edited(field, "metadata", changed)
    return ["--modality", "vision"], lambda config: config.views.objective().sharpness


def edit_estimator(edited):
    estimator.ESTIMATORS["unrolled"] = with_field(Unrolled, "sharpness", sharpness())
    return ["--estimator", "unrolled"], lambda config: config.estimator.estimator.sharpness


@pytest.fixture(autouse=True)
def registry():
    before = dict(estimator.ESTIMATORS)
    yield
    estimator.ESTIMATORS.clear()
    estimator.ESTIMATORS.update(before)


EDITS = [edit_language, edit_language_nested, edit_vision, edit_estimator]


@pytest.mark.parametrize("edit", EDITS)
def test_a_field_is_on_the_command_line_in_toml_and_in_help(edit, edited, tmp_path, capsys):
    words, read = edit(edited)
    assert read(parse(words)) == 0.25
    config = parse([*words, "--sharpness", "0.5"])
    assert read(config) == config.options["sharpness"] == 0.5
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert "sharpness = 0.5" in file.read_text()
    assert read(resolve(read_toml(file))) == 0.5
    with pytest.raises(UserError, match="--sharpness must be at least 0 and at most 1, not 2"):
        parse([*words, "--sharpness", "2"])
    file.write_text('sharpness = "much"')
    with pytest.raises(UserError, match=r"config\.toml: sharpness must be a number, not 'much'"):
        parse([*words, "--config", str(file)])
    with pytest.raises(SystemExit):
        parse([*words, "--help"], prog="run.py")
    shown = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", capsys.readouterr().out).split())
    assert "--sharpness FLOAT How sharp it is, from 0 to 1." in shown
    assert "default: 0.25)" in shown


@pytest.mark.parametrize(
    ("edit", "given", "said"),
    [
        (edit_language, {"arms": "baseline"}, "does nothing here: it needs an arm with a designer"),
        (
            edit_language_nested,
            {"designer": "d"},
            "does nothing here: it is saved with the designer",
        ),
        (
            edit_vision,
            {"modality": "vision", "objective": "ijepa"},
            "does nothing here: it is for --objective dino",
        ),
        (edit_language, {"modality": "vision"}, "does nothing here: it is for --modality language"),
    ],
)
def test_the_field_has_the_needs_of_where_it_stands(edit, edited, given, said):
    edit(edited)
    with pytest.raises(UserError, match=f"--sharpness {said}"):
        resolve({**given, "sharpness": 0.5})


def test_another_estimator_has_no_such_field(edited):
    edit_estimator(edited)
    with pytest.raises(
        UserError, match="--sharpness does nothing here: the estimator 'implicit' does not"
    ):
        resolve({"estimator": "implicit", "sharpness": 0.5})


def test_two_options_of_one_name_are_refused(edited):
    edit_language(edited)
    edit_estimator(edited)
    with pytest.raises(UserError, match="has a field 'sharpness', which is an option of the run"):
        resolve({})


def test_without_the_edit_there_is_no_such_option():
    for given in ({}, {"modality": "vision"}, {"estimator": "unrolled"}):
        with pytest.raises(UserError, match="--sharpness: no such option"):
            resolve({**given, "sharpness": 0.5})


@dataclass(frozen=True)
class Plain:
    """No declaration at all.

    Attributes:
        reach: How far it looks,
            in steps.
    """

    reach: int = 3

    def __call__(self, problem, theta, phi):
        raise NotImplementedError


def test_a_plain_field_is_explained_by_the_docstring(edited):
    estimator.ESTIMATORS["plain"] = Plain
    known = configuration.catalogue_of("language")["reach"]
    assert (known.help, known.kind, known.default) == ("How far it looks, in steps.", int, 3)
    assert resolve({"estimator": "plain", "reach": 5}).estimator.estimator == Plain(5)
