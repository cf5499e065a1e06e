"""Retrieval: the revisited protocol against a literal reading of it, and its files."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from vfunc.errors import NonFiniteError, UserError
from vfunc.vision.evaluation.retrieval import (
    Relevant,
    RetrievalScores,
    average_precision,
    cosine_similarity,
    mean_average_precision,
)
from vfunc.vision.evaluation.revisited import as_tensor, evaluate_revisited, load_revisited


def walked(ranking, positives, ignored):
    """The definition, item by item: area under the curve of precision over recall, in trapezoids."""
    area, precision, recall, seen, found = 0.0, 1.0, 0.0, 0, 0
    for item in ranking:
        if item in ignored:
            continue
        seen += 1
        found += item in positives
        now, reached = found / seen, found / len(positives)
        area += (reached - recall) * (precision + now) / 2
        precision, recall = now, reached
    return area


def by_hand(similarity, truth):
    scores = {}
    for name in ("easy", "medium", "hard"):
        areas = []
        for row, relevant in zip(similarity.tolist(), truth, strict=True):
            easy, hard, junk = map(set, (relevant.easy, relevant.hard, relevant.junk))
            positives = {"easy": easy, "medium": easy | hard, "hard": hard}[name]
            ignored = {"easy": junk | hard, "medium": junk, "hard": junk | easy}[name]
            ranking = sorted(range(len(row)), key=lambda i: (-row[i], i))
            if positives:
                areas.append(walked(ranking, positives, ignored))
        scores[name] = sum(areas) / len(areas) if areas else None
    return scores


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_a_ranking_worked_by_hand():
    # ranking 0 .. 5; positives at 0, 2, 5: precisions 1 -> 1, 1/2 -> 2/3, 2/5 -> 3/6
    want = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 1 / 2) / 2) / 3
    assert average_precision(torch.tensor([0, 2, 5]), 3) == pytest.approx(want, rel=1e-15)


@pytest.mark.parametrize(
    ("positions", "positives", "want"),
    [
        ([0], 1, 1.0),
        ([0, 1, 2], 3, 1.0),
        ([1], 1, (0 / 1 + 1 / 2) / 2),
        ([3], 1, (0 / 3 + 1 / 4) / 2),
        ([0], 2, 0.5),
        ([], 2, 0.0),
    ],
)
def test_average_precision(positions, positives, want):
    got = average_precision(torch.tensor(positions, dtype=torch.long), positives)
    assert got == pytest.approx(want, rel=1e-15)


def test_what_counts_at_each_difficulty():
    # ranking: junk 3, hard 1, wrong 4, easy 0, wrong 2
    truth = [Relevant(easy=(0,), hard=(1,), junk=(3,))]
    scores = mean_average_precision(row(0.3, 0.8, 0.1, 0.9, 0.5), truth)
    assert scores.easy == pytest.approx((0 / 1 + 1 / 2) / 2)  # 4, 0
    assert scores.hard == pytest.approx(1.0)  # 1, 4
    assert scores.medium == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)  # 1, 4, 0


def test_queries_without_positives_do_not_count():
    similarity = row(0.9, 0.1, 0.5).repeat(3, 1)
    truth = [Relevant(easy=(1,)), Relevant(junk=(0,)), Relevant(easy=(0,))]
    scores = mean_average_precision(similarity, truth)
    assert scores == RetrievalScores((1.0 + (0 + 1 / 3) / 2) / 2, scores.easy, None)


def test_equal_similarities_rank_in_the_order_of_the_database():
    first = mean_average_precision(torch.zeros(1, 40), [Relevant(easy=(0,))])
    last = mean_average_precision(torch.zeros(1, 40), [Relevant(easy=(39,))])
    assert first.easy == 1.0
    assert last.easy == pytest.approx(1 / 80)


@given(st.integers(0, 10_000))
def test_random_rankings_are_as_the_definition_says(seed):
    draw = np.random.default_rng(seed)
    for _ in range(20):
        queries, size = int(draw.integers(1, 5)), int(draw.integers(1, 30))
        similarity = torch.from_numpy(draw.integers(0, 12, (queries, size)) / 4.0)
        truth = []
        for _ in range(queries):
            kind = draw.choice(4, size, p=draw.dirichlet([1, 1, 1, 1]))
            truth.append(Relevant(*(tuple(map(int, np.flatnonzero(kind == k))) for k in range(3))))
        want = by_hand(similarity, truth)
        got = mean_average_precision(similarity, truth)._asdict()
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert got[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


def test_cosines():
    a = torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    want = torch.tensor([[1.0, -1.0, 0.5**0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cosine_similarity(a, b), want)
    assert cosine_similarity(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ([], "1 queries, but the truth of 0"),
        ([Relevant(easy=(3,))], "query 0: the truth names picture 3, but there are 3"),
        ([Relevant(junk=(-1,))], "names picture -1"),
        ([Relevant(easy=(1,), hard=(1,))], "names picture 1 twice"),
    ],
)
def test_a_truth_that_does_not_fit(truth, said):
    with pytest.raises(UserError, match=said):
        mean_average_precision(row(0.1, 0.2, 0.3), truth)


def test_similarities_that_are_no_numbers():
    with pytest.raises(NonFiniteError):
        mean_average_precision(row(0.1, float("nan")), [Relevant(easy=(0,))])


@pytest.mark.parametrize(("positions", "positives"), [([], 0), ([0, 1], 1)])
def test_average_precision_of_nothing(positions, positives):
    with pytest.raises(UserError):
        average_precision(torch.tensor(positions, dtype=torch.long), positives)


COLOURS = {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250), "grey": (99, 99, 99)}


def benchmark(folder, gnd=None, **changes):
    """Pictures of one colour; the query is red in its box and blue outside."""
    (folder / "jpg").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (24, 16), colour).save(folder / "jpg" / f"{name}.jpg", quality=95)
    asked = Image.new("RGB", (32, 32), COLOURS["blue"])
    asked.paste(COLOURS["red"], (0, 0, 16, 16))
    asked.save(folder / "jpg" / "asked.jpg", quality=95)
    entry = {"bbx": [0.4, 0.3, 7.6, 7.9], "easy": np.array([3]), "hard": [1], "junk": np.array([])}
    known = {"imlist": ["blue", "green", "grey", "red"], "qimlist": ["asked"]}
    known |= {"gnd": gnd or [entry]} | changes
    (folder / "gnd_tiny.pkl").write_bytes(pickle.dumps(known))
    return folder


def test_a_benchmark_is_read_and_scored(tmp_path):
    found = load_revisited(benchmark(tmp_path))
    assert [path.stem for path in found.database] == ["blue", "green", "grey", "red"]
    assert found.truth == (Relevant(easy=(3,), hard=(1,)),)
    assert found.query(0).size == (8, 8)
    assert found.query(0).getpixel((4, 4))[0] > 200
    sizes = []

    def describe(images):
        sizes.append(tuple(images.shape))
        return images.mean((2, 3)) - 0.3

    scores = evaluate_revisited(describe, found, size=16, patch=4)
    # the red square is like red, then grey, and like green and blue alike
    assert scores.easy == 1.0
    assert 0 < scores.hard < 1
    assert sizes == [(1, 3, 8, 8)] + [(1, 3, 12, 16)] * 4


def test_pictures_are_brought_down_and_never_up():
    picture = Image.new("RGB", (100, 41), (255, 0, 0))
    assert as_tensor(picture, 50, 8).shape == (1, 3, 24, 48)
    assert as_tensor(picture, 500, 8).shape == (1, 3, 40, 96)
    assert as_tensor(Image.new("RGB", (3, 90)), 45, 8).shape == (1, 3, 48, 8)
    assert as_tensor(picture, 48, 8)[0, :, 3, 3].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_old_pickles_are_read(tmp_path, protocol):
    folder = benchmark(tmp_path)
    path = folder / "gnd_tiny.pkl"
    known = pickle.loads(path.read_bytes())
    known["gnd"][0]["bbx"] = np.array(known["gnd"][0]["bbx"])
    known["gnd"][0]["hard"] = [np.int64(1)]
    data = pickle.dumps(known, protocol)
    if protocol < 4:
        # the name before numpy 2, which is of another length but delimited by line ends
        data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        assert b"numpy.core" in data
    path.write_bytes(data)
    found = load_revisited(folder)
    assert found.truth == (Relevant(easy=(3,), hard=(1,)),)


class Evil:
    def __reduce__(self):
        return print, ("run",)


class Codec:
    def __reduce__(self):
        import codecs

        return codecs.encode, ("run", "rot13")


@pytest.mark.parametrize("evil", [Evil(), Codec()])
def test_a_pickle_that_runs_something_is_refused(tmp_path, evil, capsys):
    folder = benchmark(tmp_path)
    (folder / "gnd_tiny.pkl").write_bytes(pickle.dumps({"gnd": evil}))
    assert any(op.name == "REDUCE" for op, *_ in pickletools.genops(pickle.dumps(evil)))
    with pytest.raises(UserError, match="it names") as error:
        load_revisited(folder)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"imlist": ["blue", "gone"]}, "1 pictures are missing, such as .*gone.jpg"),
        ({"qimlist": []}, "0 queries and 1 truths"),
        ({"gnd": [{"easy": [0]}]}, "no ground truth of revisitop: KeyError"),
        ({"gnd": [{"bbx": [1], "easy": [0], "hard": [], "junk": []}]}, "no ground truth"),
        (
            {"gnd": [{"bbx": [0, 0, 9, 9], "easy": [0.5], "hard": [], "junk": []}]},
            "indices of type float64",
        ),
    ],
)
def test_ground_truth_that_is_none(tmp_path, changes, said):
    benchmark(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        load_revisited(tmp_path)


def test_folders_without_a_ground_truth(tmp_path):
    with pytest.raises(UserError, match=r"one gnd_\*.pkl; it holds none"):
        load_revisited(tmp_path)
    (tmp_path / "gnd_a.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="cannot be read"):
        load_revisited(tmp_path)
    (tmp_path / "gnd_a.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="holds a list"):
        load_revisited(tmp_path)
    (tmp_path / "gnd_b.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"it holds gnd_a.pkl, gnd_b.pkl"):
        load_revisited(tmp_path)


def test_pictures_that_cannot_be_read(tmp_path):
    folder = benchmark(tmp_path)
    found = load_revisited(folder)
    whole = (folder / "jpg" / "red.jpg").read_bytes()
    (folder / "jpg" / "red.jpg").write_bytes(whole[:-4])
    assert found.picture(3).size == (24, 16)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    (folder / "jpg" / "red.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"red.jpg' cannot be read"):
        found.picture(3)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_boxes_beside_the_picture(tmp_path):
    entry = {"bbx": [40, 0, 50, 9], "easy": [0], "hard": [], "junk": []}
    found = load_revisited(benchmark(tmp_path, gnd=[entry]))
    with pytest.raises(UserError, match="query 0: nothing of"):
        found.query(0)
