"""compare --score: each estimator's counterfactual score beside what it brought."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_compare import compare, error_of, fake_run, write_run  # noqa: F401 (fixtures)

from vfunc.studies.estimators_on_offer import ESTIMATORS_ON_OFFER
from vfunc.studies.score.scored_estimators import row_of

LINE = (
    "--estimators dot,cosine --arms baseline,vpretraining,random_feedback --seeds 0 1 --name c "
    "--stream-size 64 --feedback-size 32 --eval-size 2 --score runs/s"
)


def write_score(folder: Path, sweep: bool = False, **asked) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores = [
        {"row": row, "reading": reading, "measure": measure, "horizon": horizon, "share": share,
         "agreement": {"spearman": {"value": value + 0.01 * horizon, "low": -1, "high": 1}}}
        for row, reading, measure, share, value in (
            ("first_order value=dot", "value", "test", None, 0.5),
            ("first_order value=dot", "value", "test", 0.1, 0.9),
            ("first_order value=dot", "value", "used", None, 0.8),
            ("first_order value=cosine", "slope", "test", None, 0.25),
            ("first_order value=cosine", "objective", "test", None, 0.7),
            ("random", "slope", "test", None, -0.1))
        for horizon in (1, 16)
    ]  # fmt: skip
    settings = [{"setting": "", "scores": scores}] * (1 + sweep)
    (folder / "score.json").write_text(json.dumps({"command": "score", "settings": settings}))
    (folder / "asked.json").write_text(json.dumps(asked))


def test_the_last_horizon_on_held_out_text_by_the_slope(compare, fake_run, capsys):  # noqa: F811
    write_score(Path("runs/s"), problem="careless_everywhere", batch_size=8, value="cosine")
    assert compare.main(LINE.split()) == 0
    content = json.loads(Path("runs/c/comparison.json").read_text())
    found = {a["arm"]: a["fidelity"] and a["fidelity"]["value"] for a in content["arms"]}
    assert found == {"baseline": None, "dot": pytest.approx(0.66), "cosine": pytest.approx(0.41),
                     "random_feedback": pytest.approx(0.06)}  # fmt: skip
    # what is otherwise there is told; what estimators differ in is no difference
    (said,) = [note for note in content["notes"] if "other options" in note]
    assert "--batch-size 8 in the score" in said and "--value" not in said
    out = capsys.readouterr().out
    assert "H=16" in out and "0.66" in out and "0.41" in out


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "--score runs/s: there is no finished score"),
        ({"sweep": True}, "holds a sweep of 2 settings"),
        ({"problem": "random_slips"}, "another question: --problem random_slips in the score"),
    ],
)
def test_what_is_no_score_of_this_is_refused(compare, fake_run, capsys, made, said):  # noqa: F811
    if made is not None:
        write_score(Path("runs/s"), **made)
    assert compare.main(LINE.split()) == 2
    assert said in error_of(capsys) and not fake_run.made


def test_every_setting_is_held_against_the_score_before_the_first_run(compare, fake_run, capsys):  # noqa: F811
    write_score(Path("runs/s"), problem="careless_everywhere")
    line = f"{LINE} --vary problem=careless_everywhere,random_slips".split()
    assert compare.main(line) == 2
    assert "--problem careless_everywhere in the score, random_slips here" in error_of(capsys)
    assert not fake_run.made


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("score.json", '{"settings": [{}]}'),
        ("score.json", '{"settings": [{"scores": [{"measure": "test"}]}]}'),
        ("score.json", '{"settings": 3}'),
        ("score.json", "[]"),
        ("asked.json", "[1]"),
        ("asked.json", "{"),
    ],
)
def test_a_damaged_score_is_told_in_a_line(compare, fake_run, capsys, name, content):  # noqa: F811
    write_score(Path("runs/s"))
    (Path("runs/s") / name).write_text(content)
    assert compare.main(LINE.split()) == 2
    assert "there is no finished score that can be read" in error_of(capsys)
    assert not fake_run.made


def test_each_estimator_finds_its_row():
    rows = {name: row_of(given, "vpretraining") for name, given in ESTIMATORS_ON_OFFER.items()}
    assert rows["dot"] == "first_order value=dot" == row_of({}, "vpretraining")
    assert rows["deflated_fresh"] == "first_order value=deflated means=0 mean_batches=4"
    assert rows["unrolled_4"] == "unrolled lookahead_steps=4"
    assert rows["implicit"] == "implicit damping=1.0"
    # another estimator under the same name has no score here
    assert row_of({"value": "deflated", "beta": 0.5}, "vpretraining") is None
    # rows' dampings are in units of 1 / eta, a run's is not
    assert row_of({"estimator": "implicit", "damping": 1.0}, "vpretraining") is None
    engine = {"estimator": "unrolled", "lookahead_steps": 4, "engine": "reverse"}
    assert row_of(engine, "vpretraining") == "unrolled lookahead_steps=4"
    assert row_of({"value": "cosine"}, "random_feedback") == "random"
