"""Options by name become dataclasses and come back, variants included."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

import vfunc
from vfunc.config.allowed import check_fields
from vfunc.config.build import built, changed, option_names, refuse_foreign
from vfunc.config.declared import HIDDEN, option
from vfunc.config.instance import options_of, options_set


@dataclass(frozen=True)
class Brush:
    size: int = option(default=3, name="brush_size", least=1)
    steps: int | None = option(default=None, name="strokes", least=1)
    limit: int = 50

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Pencil:
    steps: int | None = option(default=None, name="strokes", least=1)


@dataclass(frozen=True)
class Eraser:
    pass


TOOLS = {"brush": Brush, "pencil": Pencil, "eraser": Eraser}


@dataclass(frozen=True)
class Drawing:
    width: float = option(default=1.0, above=0, most=10)
    tool: object = option(default=Brush(), variants=TOOLS)
    limit: int = 50

    def __post_init__(self):
        check_fields(self)


def test_names_are_each_there_once():
    assert option_names(Drawing) == ("width", "tool", "brush_size", "strokes", "limit")


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({}, Drawing()),
        ({"width": 2.0}, Drawing(2.0)),
        ({"brush_size": 5}, Drawing(tool=Brush(5))),
        ({"tool": "brush", "strokes": 2}, Drawing(tool=Brush(steps=2))),
        ({"tool": "pencil", "strokes": 2}, Drawing(tool=Pencil(2))),
        ({"tool": "eraser"}, Drawing(tool=Eraser())),
        ({"tool": Pencil(4)}, Drawing(tool=Pencil(4))),
        ({"tool": Pencil(4), "strokes": 5}, Drawing(tool=Pencil(5))),
        ({"limit": 7}, Drawing(tool=Brush(limit=7), limit=7)),  # both go by that name
        ({"limit": 7, "tool": "eraser"}, Drawing(tool=Eraser(), limit=7)),
    ],
)
def test_built(options, made):
    assert built(Drawing, options) == made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tool": "chisel"}, "unknown tool 'chisel'; known: brush, pencil, eraser"),
        ({"tool": "pencil", "brush_size": 2}, "brush_size is for the tool brush, not for pencil"),
        ({"tool": "eraser", "strokes": 2}, "strokes is for the tools brush and pencil, not for e"),
        ({"brush_size": 0}, r"size \(--brush-size\) must be at least 1, not 0"),
        ({"width": 11.0}, "width must be above 0 and at most 10, not 11"),
        ({"width": float("nan")}, "width must be above 0 and at most 10, not nan"),
        ({"width": True}, "width must be a number, not True"),
        ({"brush_size": 1.5}, "must be a whole number, not 1.5"),
    ],
)
def test_refused(options, said):
    with pytest.raises(vfunc.UserError, match=said):
        refuse_foreign(Drawing, options)
        built(Drawing, options)


def test_changed_keeps_what_the_variants_have_in_common():
    drawing = Drawing(3.0, Brush(5, steps=4))
    assert changed(drawing, {"width": 1.0}) == Drawing(1.0, Brush(5, steps=4))
    assert changed(drawing, {"tool": "pencil"}) == Drawing(3.0, Pencil(4))
    assert changed(drawing, {"tool": "brush", "strokes": None}) == Drawing(3.0, Brush(5))
    assert changed(drawing, {"tool": "eraser"}) == Drawing(3.0, Eraser())
    assert changed(drawing, {}) is drawing
    # a variant's field keeps a value of its own beside the same option of what holds it
    narrow = Drawing(tool=Brush(limit=7))
    assert changed(narrow, {"width": 2.0}) == Drawing(2.0, Brush(limit=7))
    with pytest.raises(vfunc.UserError, match="brush_size is for the tool brush, not for pencil"):
        changed(Drawing(tool=Pencil(4)), {"brush_size": 2})


@dataclass(frozen=True)
class Framed:
    drawing: Drawing = Drawing(2.0)
    seed: int = field(default=0, metadata=HIDDEN)
    inner: object = None


def test_hidden_fields_are_for_python():
    assert built(Framed, {"seed": 3}) == Framed()
    assert (
        built(Framed, {"seed": 3}, hidden=True) == changed(Framed(), {"seed": 3}) == Framed(seed=3)
    )
    assert options_set(Framed(seed=3)) == {"seed": 3}
    estimator = vfunc.make_estimator("implicit", {"max_iterations": 7, "damping": 2.0})
    solver = vfunc.ConjugateGradient(max_iterations=7)  # both have a field of that name
    assert estimator == vfunc.Implicit(2.0, max_iterations=7, solver=solver)


def test_a_dataclass_in_a_dataclass_is_given_by_its_options_or_whole():
    assert option_names(Framed) == ("drawing", *option_names(Drawing), "seed", "inner")
    assert built(Framed, {"width": 3.0, "inner": "x"}) == Framed(Drawing(3.0), inner="x")
    assert built(Framed, {"drawing": Drawing(4.0)}) == Framed(Drawing(4.0))
    framed = Framed(Drawing(5.0, Pencil(2)), seed=3)
    assert changed(framed, {"strokes": 4}) == Framed(Drawing(5.0, Pencil(4)), seed=3)


def test_options_of_a_component_build_it_again():
    for drawing in (Drawing(), Drawing(3.0, Brush(5, steps=4)), Drawing(tool=Pencil(2), limit=9)):
        assert built(Drawing, options_of(drawing)) == drawing


@pytest.mark.parametrize(
    "options",
    [{}, {"width": 2.0}, {"brush_size": 5}, {"tool": "pencil", "strokes": 2}, {"tool": "eraser"}],
)
def test_what_was_set_is_told_again(options):
    assert options_set(built(Drawing, options)) == options


def test_implicit_by_its_options_is_implicit_by_its_solver():
    for options, estimator in (
        ({"solver": "nystrom", "nystrom_rank": 5}, vfunc.Implicit(solver=vfunc.Nystrom(rank=5))),
        ({"solver_steps": 3}, vfunc.Implicit(solver=vfunc.ConjugateGradient(steps=3))),
        ({"solver": "neumann", "solver_steps": 3}, vfunc.Implicit(solver=vfunc.Neumann(steps=3))),
        ({"solver": "dense", "damping": 2.0}, vfunc.Implicit(2.0, solver=vfunc.Dense())),
        (
            {"precondition": "optimizer"},
            vfunc.Implicit(solver=vfunc.ConjugateGradient(precondition="optimizer")),
        ),
    ):
        assert vfunc.make_estimator("implicit", options) == estimator


@pytest.mark.parametrize("solver", ["cg", vfunc.Nystrom, 3, None])
def test_a_solver_in_python_is_an_object(solver):
    with pytest.raises(vfunc.UserError, match=r"solver must be one of ConjugateGradient\(\), "):
        vfunc.Implicit(solver=solver)
