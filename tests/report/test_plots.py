from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_measures import LANGUAGE, VISION
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from vfunc.errors import UserError
from vfunc.report import plots
from vfunc.report.drawing import arm_style
from vfunc.report.plots import learning_curves, probe_scatter, value_curves

ARMS = (
    "baseline",
    "vpretraining",
    "random_feedback",
    "uniform_smoothing",
    "self_distillation",
    "confidence_gate",
    "known_wrong",
)


def evaluations(arms: tuple[str, ...] = ARMS[:2], **more: object) -> list[dict]:
    return [
        {
            "kind": "evaluation",
            "arm": arm,
            "step": step,
            "tokens": 1000 * step,
            "heldout_loss": 0.1 - 0.0001 * step * (1 + place),
            "pass_at_1": 0.4 + 0.001 * step * place,
            "pass_at_1_standard_error": 0.01,
            **more,
        }
        for place, arm in enumerate(arms)
        for step in (0, 100, 200)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, for a look at what is in them."""
    figures: list[Figure] = []
    save = plots.save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    return figures


def test_learning_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    events = [*evaluations(), {"kind": "step", "arm": "baseline", "step": 7, "loss": 9.0}]
    learning_curves(events, tmp_path / "a.png", LANGUAGE)
    loss, solved = drawn[0].axes
    for place, arm in enumerate(ARMS[:2]):
        line = loss.lines[place]
        assert line.get_label() == arm
        assert to_hex(line.get_color()) == arm_style(arm)[0]
        assert line.get_xdata().tolist() == [0, 100, 200]
        assert line.get_ydata() == pytest.approx([0.1, 0.09 - 0.01 * place, 0.08 - 0.02 * place])
        assert solved.lines[place].get_ydata() == pytest.approx(
            [40, 40 + 10 * place, 40 + 20 * place]
        )
    band = solved.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((39, 41))
    assert "nats" in loss.get_ylabel()
    assert "%" in solved.get_ylabel()
    assert loss.get_xlabel() == "learner steps"
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(ARMS[:2])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_learning_curves_against_tokens(tmp_path: Path, drawn: list[Figure]) -> None:
    learning_curves(evaluations(), str(tmp_path / "a.png"), LANGUAGE, against="units")
    axes = drawn[0].axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0, 100_000, 200_000]
    assert axes.get_xlabel() == "tokens read"
    assert "100k" in [tick.get_text() for tick in axes.get_xticklabels()]


def test_without_pass_at_1_there_is_one_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    learning_curves(evaluations(pass_at_1=None), tmp_path / "a.png", LANGUAGE)
    assert len(drawn[0].axes) == 1


def test_a_metric_that_is_followed_has_a_panel_in_its_own_unit(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    events = [
        {"kind": "evaluation", "arm": arm, "step": step, "images": 32 * step, "heldout_loss": 1.0}
        | {"miou": 0.2 + step / 1000, "miou_standard_error": 0.01}
        | ({"linear": 0.8, "rmse": 0.5} if step == 200 else {})
        for arm in ARMS[:2]
        for step in (0, 100, 200)
    ]
    learning_curves(events, tmp_path / "a.png", VISION, against="units")
    loss, miou = drawn[0].axes
    assert [axes.get_ylabel() for axes in (loss, miou)] == ["held-out loss", "mIoU (%)"]
    assert miou.get_xlabel() == "images read"
    assert miou.lines[0].get_xdata().tolist() == [0, 3200, 6400]
    assert miou.lines[0].get_ydata() == pytest.approx([20, 30, 40])
    band = miou.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((19, 41))
    events += [events[-1] | {"step": 150, "images": 1}]  # now they are measured at two places
    learning_curves(events, tmp_path / "b.png", VISION)
    labels = [axes.get_ylabel() for axes in drawn[1].axes]
    assert labels == ["held-out loss", "mIoU (%)", "RMSE (m)", "linear accuracy (%)"]


def test_numbers_spelled_out_are_gaps(tmp_path: Path, drawn: list[Figure]) -> None:
    events = evaluations(("baseline",))
    events[1]["heldout_loss"] = "nan"
    learning_curves(events, tmp_path / "a.png", LANGUAGE)
    assert np.isnan(drawn[0].axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_a_wide_range_of_losses_is_drawn_on_a_log_scale(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    events = evaluations(("baseline",))
    learning_curves(events, tmp_path / "a.png", LANGUAGE)
    learning_curves([*events, {**events[0], "heldout_loss": 0.5}], tmp_path / "b.png", LANGUAGE)
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["linear", "log"]


def test_value_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    events = [
        {"arm": arm, "step": 8 * n, "value": (-1.0) ** n, "gate": 0.2, "objective": n}
        for arm in ("vpretraining", "random_feedback")
        for n in range(40)
    ]
    value_curves([*events, *evaluations()], tmp_path / "a.png", unit="nat")
    value, gate, objective = drawn[0].axes
    labels = [line.get_label() for line in value.lines if not line.get_label().startswith("_")]
    assert labels == ["vpretraining", "random_feedback"]
    raw, mean = value.lines[:2]
    assert raw.get_ydata().tolist() == [(-1.0) ** n for n in range(40)]
    assert mean.get_ydata()[2:-2] == pytest.approx([(-1.0) ** n / 5 for n in range(2, 38)])
    assert mean.get_ydata()[0] == pytest.approx(1 / 3)  # of three: the ends are not drawn to zero
    assert gate.get_ylim()[0] == 0
    assert objective.get_xlabel() == "learner steps"


def test_value_curves_draw_what_there_is(tmp_path: Path, drawn: list[Figure]) -> None:
    value_curves([{"arm": "a", "step": 1, "gate": 0.1}], tmp_path / "a.png", unit="nat")
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["mean gate α"]


def test_only_nats_are_called_nats(tmp_path: Path, drawn: list[Figure]) -> None:
    events = [{"arm": "a", "step": 1, "value": 0.1, "kept": 0.6}]
    for unit in ("nat", ""):
        value_curves(events, tmp_path / "a.png", unit=unit)
        probe_scatter({"small": ([1e-3, 2e-3], [1e-3, 3e-3])}, tmp_path / "b.png", unit=unit)
        probe_scatter({"small": ([1.0, 2.0], [1.0, 3.0])}, tmp_path / "c.png", unit=unit)
    labels = [figure.axes[0].get_ylabel() for figure in drawn]
    assert labels[0] == "value: predicted\ndecrease (nats)"
    assert labels[1:3] == ["realised decrease ($10^{-3}$ nats)", "realised decrease (nats)"]
    assert labels[3] == "value: predicted\ndecrease"
    assert labels[4:] == ["realised decrease ($10^{-3}$)", "realised decrease"]
    assert drawn[0].axes[1].get_ylabel() == "mean share\nkept μ"


def test_probe_scatter(tmp_path: Path, drawn: list[Figure]) -> None:
    predicted = [0.001, 0.002, 0.003, 0.004]
    probe_scatter(
        {
            "small": (predicted, [0.0011, 0.0019, 0.0031, 0.004]),
            "real": ([10 * p for p in predicted], [-0.01, 0.02, -0.03, 0.0]),
            "constant": (predicted, [0, 0, 0, 0]),
        },
        tmp_path / "a.png",
        unit="nat",
    )
    small, real, constant = drawn[0].axes
    r = np.corrcoef(predicted, [0.0011, 0.0019, 0.0031, 0.004])[0, 1]
    assert small.get_title() == f"small\nPearson r = {r:.3f}, n = 4"
    assert "undefined" in constant.get_title()
    assert "10^{-3}" in small.get_xlabel()
    points = small.collections[0].get_offsets()
    assert points[:, 0].tolist() == pytest.approx([1, 2, 3, 4])
    assert points[:, 1].tolist() == pytest.approx([1.1, 1.9, 3.1, 4.0])
    identity = [line for line in real.lines if getattr(line, "_slope", None) == 1]
    assert len(identity) == 1


def test_arms_have_a_colour_of_their_own_everywhere() -> None:
    styles = [arm_style(arm) for arm in ARMS]
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 7
    assert arm_style("my_own_arm") == arm_style("my_own_arm")
    assert arm_style("my_own_arm") not in styles
    for colour, _ in styles:  # legible on white
        assert np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) < 0.7


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match="no evaluation"):
        learning_curves([{"arm": "a", "step": 1}], path, LANGUAGE)
    with pytest.raises(UserError, match="no tokens"):
        learning_curves(
            [{"arm": "a", "step": 1, "heldout_loss": 1.0}], path, LANGUAGE, against="units"
        )
    with pytest.raises(UserError, match="no value"):
        value_curves(evaluations(), path, unit="nat")
    with pytest.raises(UserError, match="no probe"):
        probe_scatter({}, path, unit="")
    with pytest.raises(UserError, match="2 predicted and 1 realised"):
        probe_scatter({"small": ([1.0, 2.0], [1.0])}, path, unit="")
    with pytest.raises(UserError, match="finite"):
        probe_scatter({"small": ([1.0, float("nan")], [1.0, 2.0])}, path, unit="")
    assert not path.exists()


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    def open_figures() -> list[int]:  # other tests may have left some
        pyplot = sys.modules.get("matplotlib.pyplot")
        return pyplot.get_fignums() if pyplot else []

    before = open_figures()
    learning_curves(evaluations(), tmp_path / "a.png", LANGUAGE)
    assert open_figures() == before
