"""The page of a run: everything is on it, escaped, and what is missing is said."""

from __future__ import annotations

import json
import re
import runpy
import sys
from html.parser import HTMLParser

import pytest
from made_up_run import HOSTILE, TOKENS, value_map, write_run, write_score

from vfunc.errors import UserError
from vfunc.report.page.page import page_of, write_page
from vfunc.report.page.report_command import main
from vfunc.report.page.themes import DARK, LIGHT, contrast, readable
from vfunc.report.page.token_text import token_map_of

SECTIONS = ["results", "curves", "maps", "probe", "score", "certification", "configuration",
            "environment"]  # fmt: skip
VOID = {"meta", "link", "br", "wbr", "img", "path"}


class Reader(HTMLParser):
    """A page's elements, text and scripts; complains of one that is closed where it is not open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.attributes = [], [], [], []
        self._open = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert tag not in VOID and self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            self.scripts.append(data)
        else:
            self.texts.append(data)

    @property
    def said(self):
        return " ".join(" ".join(self.texts).split())


def read(*folders):
    text, gaps = page_of(list(folders))
    return Reader(text), text, gaps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "a <b>&'run'")


@pytest.fixture(scope="module")
def page(run):
    return read(run)


def test_every_part_is_there(page):
    reader, _, gaps = page
    assert gaps == ()
    assert [v for tag, name, v in reader.attributes if tag == "section"] == SECTIONS
    for said in ("a <b>&'run'", "1.2500", "held-out loss ↓", "speed",
                 "training loss", "mean gate α", "value: predicted decrease", "Pearson",
                 "what g_down sees", "gap 2e-12", "evaluating twice", "versions torch 9.9.9",
                 "data stream sequences 64", "a <b>note</b>", "None was measured"):  # fmt: skip
        assert said in reader.said, said
    # curves are drawn, have names, and their numbers are in tables
    assert reader.tags.count("svg") >= 8 and reader.tags.count("desc") >= 7
    assert all("NaN" not in v and "nan" not in v for _, name, v in reader.attributes if name == "d")
    assert reader.tags.count("details") >= 7


def test_it_fetches_nothing_and_allows_no_other_script(page):
    reader, text, _ = page
    links = [v for _, name, v in reader.attributes if name in ("src", "href", "srcset", "data")]
    assert all(v.startswith(("#", "data:")) for v in links)
    assert "http:" not in text.replace("http-equiv", "") and "https:" not in text
    assert "url(" not in text and "@import" not in text
    (policy,) = (v for tag, name, v in reader.attributes if name == "content" and "src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert not [name for _, name, _ in reader.attributes if name == "style" or name[:2] == "on"]


def test_what_comes_from_data_is_text(page, run):
    reader, text, _ = page
    assert "<img src=x" not in text and "alert('x')</script>" not in text and "<b>&'" not in text
    assert HOSTILE in reader.said  # in the configuration, the device and the tokens
    # one of the map's data, and the page's own
    assert reader.tags.count("script") == 2
    raw = re.sub(r"[\n\t]", "", text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", raw)
    assert r"\x00\x1b[2J" in reader.said and r"\u202eabc" in reader.said and "שלום" in reader.said


def test_tokens_are_shaded_and_know_their_candidates():
    made = token_map_of(value_map("vpretraining"))
    assert made.modes[0].label.startswith("its current target")
    ((text, deflated),) = made.texts
    assert made.values == ["dot", "deflated"]
    assert text[0].level is None and "not predicted" in text[0].said
    assert text[1].level < 0 < text[-1].level and text[-1].level == 8
    assert [t.wrong for t in text].index(True) == 3 and "known to be wrong" in text[3].said
    assert text[7].ends_line and [len(t.text) < 300 for t in text] == [True] * len(TOKENS)
    assert text[8].text == "∅" and text[9].text == "··"
    told = made.payload["texts"][0]
    assert told[0]["c"] == [] and told[1]["c"][1] == ["·second", 0.25, 0.31, 0.75, 1.0, -0.1]
    # the gain is the target's value less the text's
    assert told[2]["v"][0][3] == pytest.approx(0.05) and len(made.modes) == 4
    # the other value of the same tokens, on a scale of its own
    assert told[2]["v"][1][1] == -told[2]["v"][0][1] and told[2]["v"][1][3] == 0
    assert deflated[1].level > 0 > deflated[-1].level
    assert made.modes[0].limits[0] > made.modes[0].limits[1] > 0


def test_a_map_of_before_candidates_were_kept(tmp_path):
    old = token_map_of(value_map("vpretraining", candidates=False))
    assert [mode.label for mode in old.modes] == ["the text's own token"] and not old.candidates
    reader, _, gaps = read(write_run(tmp_path / "old", candidates=False))
    assert gaps == () and "this run kept no candidates" in reader.said


def test_several_runs_are_side_by_side(tmp_path):
    a, b = (write_run(tmp_path / name / "run", seed=k) for k, name in enumerate("ab"))
    c = write_run(tmp_path / "c", modality="vision")
    reader, _, gaps = read(a, b, c)
    assert gaps == ()
    assert f"{a}: vpretraining" in reader.said  # runs of one name are called by their paths
    differ = reader.said.partition("Options in which the runs differ")[2]
    assert re.search(r"seed 0 1 0 ", differ)
    dashes = {v for _, name, v in reader.attributes if name == "stroke-dasharray"}
    assert len(dashes) == 2
    assert "tokens per second" in reader.said and "images per second" in reader.said
    (png,) = (v for tag, name, v in reader.attributes if tag == "img" and name == "src")
    assert png.startswith("data:image/png;base64,iVBOR")


def test_a_score_of_the_same_options_is_shown(tmp_path):
    run = write_run(tmp_path / "run")
    config = json.loads((run / "metrics.json").read_text())["config"]
    write_score(tmp_path / "another", config | {"seed": 5})
    assert "None was measured" in read(run)[0].said
    write_score(tmp_path / "score", config)
    reader, text, gaps = read(run)
    assert gaps == () and "unrolled <K> slope −0.50 (−0.75 to 0.25)" in reader.said
    assert 'class="n v-4"' in text
    alone = read(tmp_path / "score")[0].said
    assert "unrolled <K>" in alone and "Nothing was followed" in alone


def test_an_unfinished_run_says_so(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    reader, _, (gap,) = read(run)
    assert "1 of 2 arms have results" in gap and f"--resume {run}" in gap and gap in f"run: {gap}"
    assert (
        "1.2500" in reader.said and "0.7500" not in reader.said and "held-out loss" in reader.said
    )
    (run / "events.jsonl").unlink()
    assert any("events.jsonl is missing" in gap for gap in read(run)[2])


DAMAGE = {
    "metrics.json": ["", "[]", "{", "{}", '{"arms": 3}', '{"arms": {"baseline": {}}}',
                     '{"metrics": [{"no": 1}], "unit": "tokens"}', "\x00\xff", '{"config": []}',
                     '{"metrics": [], "unit": 3}', "[" * 100_000,
                     '{"metrics": [{"name": 5}], "unit": "tokens"}',
                     '{"metrics": [{"name": 5, "title": "x"}], "unit": "tokens"}',
                     '{"metrics": [{"name": "loss", "title": "x"}], "unit": {}}',
                     '{"metrics": [{"name": "loss", "title": "x", "digits": "4"}], "unit": "a"}',
                     '{"metrics": [{"name": "other", "title": "x"}], "unit": "tokens"}',
                     '{"arms": {"baseline": {}}}', '{"arms": {"baseline": {"metrics": 3}}}'],
    "events.jsonl": ["", "no json\n" * 9, '{"kind": 1}\n', '{"kind": "step", "arm": "a"}\n',
                     '{"kind": "step", "arm": "a", "step": "x", "value": []}\n',
                     '{"kind": "value_map", "arm": "a", "tokens": [[1]]}\n',
                     '{"kind": "value_map", "arm": "a", "tokens": 3}\n',
                     '{"kind": "value_map", "arm": "../../x", "pixels": ""}\n',
                     '{"kind": "probe", "arm": "a"}\n', '{"kind": "certification", "arm": "a"}\n',
                     '{"kind": "signal", "arm": "a", "mean_cosine": "x"}\n'],
    "config.toml": ["", "= 3", "\x00", "arms = 3"],
    "score.json": ["{}", "[", '{"settings": [{"scores": [{}]}]}', '{"settings": [3]}',
                   '{"settings": [{"scores": []}]}'],
    "start.json": ["3", ""],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"), [(n, c) for n, found in DAMAGE.items() for c in found]
)
def test_a_damaged_file_spoils_its_own_part_alone(tmp_path, name, content):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content.encode("latin-1"))
    reader, _, _ = read(run)
    assert reader.said.count("cannot be shown") <= 2 and "seed" in reader.said
    if name != "events.jsonl":
        assert "held-out loss ↓" in reader.said
    if name != "metrics.json":
        assert "1.2500" in reader.said


def test_a_missing_picture_is_a_gap(tmp_path):
    run = write_run(tmp_path / "run", modality="vision")
    (run / "plots" / "value_map_vpretraining.png").write_bytes(b"")
    _, _, (gap,) = read(run)
    assert "the pixel value map cannot be shown" in gap and "missing" in gap


def test_the_command_writes_beside_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = write_run(tmp_path / "runs" / "a"), write_run(tmp_path / "runs" / "b")
    assert main(["a"]) == 0 and (a / "report.html").stat().st_size > 20_000
    assert main([str(a), "b"]) == 0 and (tmp_path / "runs" / "report.html").exists()
    assert main(["a", "--output", "x.html"]) == 0 and main(["b", "--output", "x.html"]) == 0
    assert not list(tmp_path.rglob(".x*")) and not list(a.glob(".report*"))
    (b / "metrics.json").unlink()
    capsys.readouterr()
    assert main(["b"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("warning: b: not finished") and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a run, or several"),
        (["nope"], "there is no run 'nope'; looked for nope or runs/nope"),
        (["\x00"], "there is no run '\\x00'"),
        (["empty"], "empty is no run: it holds no config.toml"),
        (["a", "--output", "notes.txt"], "notes.txt is there and no report; name another file"),
        (["a", "--output", "empty"], "--output empty is a folder"),
        (["a", "--output", "no/x.html"], "there is no folder no"),
        (["a", "--outptu", "x"], "--outptu is no option"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words) == 2
    found = capsys.readouterr()
    assert found.err.startswith("error: ") and said in found.err and found.err.count("\n") == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_it_is_a_module_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m vfunc.report", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("vfunc.report", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m vfunc.report ")


def test_a_page_that_cannot_be_written_leaves_the_old_one(run, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    write_page([run], page)
    before = page.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_page([run], page)
    assert page.read_bytes() == before and list(tmp_path.iterdir()) == [page]
    with pytest.raises(UserError, match="no such run"):
        write_page([tmp_path / "gone"], page)


@pytest.mark.parametrize("page", [LIGHT, DARK])
def test_lines_and_text_stand_out_in_both_themes(page):
    from vfunc.arms import ARMS
    from vfunc.report.drawing import arm_style
    from vfunc.report.page.themes import LEVELS, rules

    assert all(contrast(readable(arm_style(arm)[0], page), page) >= 4.5 for arm in [*ARMS, "own"])
    light, _, dark = rules(["a"]).partition("@media (prefers-color-scheme: dark)")
    faces = re.findall(r"\.v(-?\d+)\{background:(#\w{6})\}", light if page == LIGHT else dark)
    assert len(faces) == 2 * LEVELS + 1
    ink = {LIGHT: "#1c2024", DARK: "#e6e9ed"}[page]
    assert all(contrast(face, ink) >= 4.5 for _, face in faces)
