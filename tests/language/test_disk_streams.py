"""A stream in segments on disk: what is read whole in memory, resumed, shared, bounded."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from test_tokenise import byte_level_bpe
from transformers import AutoTokenizer

from vfunc.errors import UserError
from vfunc.language.data import record_files, record_hub, tokenise
from vfunc.language.data.disk import segment_maker, stored_sequences, stream_sources
from vfunc.language.data.disk.segment_maker import SegmentMaker
from vfunc.language.data.disk.stored_sequences import StoredSequences
from vfunc.language.data.disk.stream_sources import Cutting, StreamSource, prepare_stream
from vfunc.language.data.examples import Example
from vfunc.language.data.reading import Source, file_data, tokenised
from vfunc.language.data.record_hub import HubData
from vfunc.language.data.records import Records
from vfunc.language.data.sequences import TABLE, WeightedStream, _permuted
from vfunc.language.data.sources import Examples, load_examples
from vfunc.language.data.tokenise import Encoder, blocks, encode_examples
from vfunc.language.embedded_learner import EMBEDDED_LEARNER

TOKENIZER = byte_level_bpe(eos_token="</s>", pad_token="<pad>")
EOS = TOKENIZER.eos_token_id
LENGTH = 16


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch):
    monkeypatch.setattr(segment_maker, "SEQUENCES", 8)
    monkeypatch.setattr(tokenise, "_BLOCK", 3)


def text(n: int) -> str:
    words = random.Random(n)
    return " ".join(words.choice(["pens", "rolls", "12", "31 - 4"]) for _ in range(3 + n % 17))


def jsonl(path: Path, count: int, *, questions: bool = False) -> Path:
    records = (
        {"question": f"How many {n}?", "answer": text(n)} if questions else {"text": text(n)}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def plain(sequences) -> list:
    return [(s.tokens.tolist(), s.predict_from, s.wrong.tolist(), s.domain) for s in sequences]


def batches(stream, count: int = 60, size: int = 4) -> list:
    found = [stream.batch(at * size, size) for at in range(count // size)]
    return [(b.tokens.tolist(), b.predict.tolist(), b.domains.tolist()) for b in found]


def cutting(folder: Path | None = None, **more) -> Cutting:
    return Cutting(LENGTH, folder=folder, **more)


# records on from any place


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.txt", "d.txt.gz", "d.parquet",
                                  "d.json", "d.csv"])  # fmt: skip
def test_records_go_on_from_where_an_earlier_reading_was(tmp_path, name, monkeypatch):
    monkeypatch.setattr(record_files, "PIECE", 64)
    path = tmp_path / name
    rows = [{"text": text(n)} for n in range(40)]
    if name == "d.parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    else:
        written = {
            "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "txt": "\n".join(row["text"] for row in rows) + "\n",
            "json": json.dumps(rows),
            "csv": "text\n" + "".join(row["text"] + "\n" for row in rows),
        }[name.removesuffix(".gz").partition(".")[2]]
        opened = gzip.open if name.endswith(".gz") else open
        with opened(path, "wt", encoding="utf-8") as file:
            file.write(written)
    whole = list(Records(str(path)))
    assert len(whole) > 8
    for stop in (1, 7, len(whole) - 1):
        first = Records(str(path))
        begun = [next(first) for _ in range(stop)]
        place = json.loads(json.dumps(first.place))
        assert begun + list(Records(str(path), place)) == whole


def test_a_text_in_pieces_gives_the_tokens_of_the_whole(tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    lines = ["\ufeffé" * 40, "", "  indented", "x" * 300, "", "ü\r", *(text(n) for n in range(200))]
    path.write_bytes("\n".join(lines).encode())
    real = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)
    whole = encode_examples(load_examples(path, split="stream").examples, real, LENGTH)
    monkeypatch.setattr(record_files, "PIECE", 256)
    assert len(list(Records(str(path)))) > 10
    assert load_examples(path, split="stream").examples[0].completion.count("\n") == len(lines) - 1
    encoder = Encoder(real, LENGTH)
    pieces = [s for block in blocks(Examples(str(path), "stream")) for s in encoder.encode(block)]
    assert plain(pieces) == plain(whole.sequences)


# packing


def test_packed_text_is_predicted_everywhere_once(tmp_path):
    documents = [Example("", text(n)) for n in range(23)]
    encoder = Encoder(TOKENIZER, LENGTH, pack=True)
    sequences = [*encoder.encode(documents[:9]), *encoder.encode(documents[9:]), *encoder.rest()]
    assert [len(s.tokens) for s in sequences[:-1]] == [LENGTH + 1] * (len(sequences) - 1)
    assert {s.predict_from for s in sequences} == {1}
    joined = [t for d in documents for t in [*TOKENIZER(d.completion)["input_ids"], EOS]]
    read = [sequences[0].tokens.tolist()[0]]
    for s in sequences:
        assert s.tokens.tolist()[0] == read[-1]  # what one predicts last, the next reads
        read += s.tokens.tolist()[1:]
    assert read == joined


def test_examples_with_a_prompt_are_never_packed():
    encoder = Encoder(TOKENIZER, LENGTH, pack=True)
    block = [Example("", text(1)), Example("12?\n", "7"), Example("", text(2))]
    sequences = [*encoder.encode(block), *encoder.rest()]
    alone = encode_examples([block[1]], TOKENIZER, LENGTH).sequences
    assert plain(alone)[0] in plain(sequences)
    assert sum(s.predict_from > 1 for s in sequences) == 1
    assert any(EOS in s.tokens.tolist()[:-1] for s in sequences if s.predict_from == 1)


# the cache


def test_the_cache_changes_no_number(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", 30), jsonl(tmp_path / "b.jsonl", 40, questions=True)]
    raw = file_data([Source(str(f)) for f in files], [Source(str(files[1]))], _apart(tmp_path), 3)
    before = tokenised(raw, TOKENIZER, LENGTH, 3)
    sources = [StreamSource(str(f), domain=n) for n, f in enumerate(files)]
    for folder in (None, tmp_path / "cache", tmp_path / "cache"):
        made = prepare_stream(sources, TOKENIZER, cutting(folder, seed=3))
        assert batches(made.stream) == batches(before.stream)
        assert dict(made.summary) == before.summary["stream"]
    one = replace(sources[0], limit=9)
    raw = file_data([Source(one.name, limit=9)], [Source(str(files[1]))], _apart(tmp_path), 3)
    drawn = prepare_stream([one], TOKENIZER, cutting(tmp_path / "cache", seed=3))
    assert batches(drawn.stream) == batches(tokenised(raw, TOKENIZER, LENGTH, 3).stream)


def _apart(tmp_path: Path) -> Source:
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"question": "And?", "answer": "12"}))
    return Source(str(path))


def test_a_second_run_reads_nothing_again(tmp_path, monkeypatch):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 50)))
    first = prepare_stream([source], TOKENIZER, cutting(tmp_path / "cache"))

    def refused(*_):
        raise AssertionError

    monkeypatch.setattr(SegmentMaker, "made", refused)
    again = prepare_stream([source], TOKENIZER, cutting(tmp_path / "cache"))
    assert batches(again.stream) == batches(first.stream)
    assert again.digest == first.digest


@pytest.mark.parametrize("what", ["contents", "tokenizer", "length", "pack", "cap", "fields"])
def test_what_the_tokens_depend_on_makes_another_cache(tmp_path, what):
    path = jsonl(tmp_path / "a.jsonl", 30)
    source, cut, tokenizer = StreamSource(str(path)), cutting(tmp_path / "cache"), TOKENIZER
    prepare_stream([source], tokenizer, cut)
    if what == "contents":
        path.write_text(path.read_text().replace("pens", "pegs"))
    elif what == "tokenizer":
        tokenizer = byte_level_bpe(eos_token="</s>", pad_token="<pad>", bos_token="<s>")
    elif what in ("length", "pack"):
        cut = replace(cut, **{what: {"length": 9, "pack": True}[what]})
    else:
        source = replace(source, **{what: {"cap": 5, "fields": "text=text"}[what]})
    prepare_stream([source], tokenizer, cut)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("pack", [False, True])
def test_making_that_is_interrupted_goes_on(tmp_path, monkeypatch, pack):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 90)))
    whole = prepare_stream([source], TOKENIZER, cutting(pack=pack))
    cut = cutting(tmp_path / "cache", pack=pack)
    taken, made = stored_sequences.write_segment, []

    def dying(folder, number, *rest):
        if number == 2:
            (folder / "000002.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        made.append(number)
        taken(folder, number, *rest)

    monkeypatch.setattr(stored_sequences, "write_segment", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_stream([source], TOKENIZER, cut)
    monkeypatch.setattr(stored_sequences, "write_segment",
                        lambda f, n, *rest: (made.append(n), taken(f, n, *rest)))  # fmt: skip
    assert batches(prepare_stream([source], TOKENIZER, cut).stream) == batches(whole.stream)
    assert made == sorted(set(made))  # nothing is made twice
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_segment_is_made_anew(tmp_path, damage):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 90)))
    cut = cutting(tmp_path / "cache")
    before = batches(prepare_stream([source], TOKENIZER, cut).stream)
    made = prepare_stream([source], TOKENIZER, cut)  # damaged under a run, too
    (path,) = tmp_path.rglob("000001.safetensors")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-3] ^= 4
    path.write_bytes(data[: 40 if damage == "cut" else None])
    if damage == "gone":
        path.unlink()
    assert batches(made.stream) == before
    assert batches(prepare_stream([source], TOKENIZER, cut).stream) == before


def test_a_folder_that_is_removed_under_a_run_changes_nothing(tmp_path):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 90)))
    cut = cutting(tmp_path / "cache")
    prepare_stream([source], TOKENIZER, cut)
    stream = prepare_stream([source], TOKENIZER, cut).stream  # nothing of it is open yet
    shutil.rmtree(tmp_path / "cache")
    assert batches(stream) == batches(prepare_stream([source], TOKENIZER, cutting()).stream)


def test_a_segment_that_is_made_anew_from_other_text_is_refused(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", 90)
    stream = prepare_stream(
        [StreamSource(str(path))], TOKENIZER, cutting(tmp_path / "cache")
    ).stream
    (gone,) = tmp_path.rglob("000001.safetensors")
    gone.unlink()
    path.write_text(path.read_text().replace("pens", "pins"))
    with pytest.raises(UserError, match="has changed since it was tokenised"):
        batches(stream)
    assert not gone.exists()


def test_reading_that_failed_is_not_taken_for_the_end(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", 90)
    whole, count = path.read_text(), len(sequences_of(path))
    path.write_text(whole.replace(text(60), "\n", 1))
    stored = sequences_of(path)
    with pytest.raises(UserError, match="malformed"):
        len(stored)
    path.write_text(whole)
    assert len(stored) == count


def sequences_of(path: Path) -> StoredSequences:
    opened = lambda place: Examples(str(path), "stream", place=place)  # noqa: E731
    return StoredSequences(SegmentMaker(opened, TOKENIZER, LENGTH), None)


def test_two_at_once_make_one_cache(tmp_path, monkeypatch):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 300)))
    alone = batches(prepare_stream([source], TOKENIZER, cutting()).stream)
    taken, made = stored_sequences.write_segment, []
    monkeypatch.setattr(stored_sequences, "_LOOK", 0.001)
    monkeypatch.setattr(stored_sequences, "write_segment",
                        lambda f, n, *rest: (made.append(n), taken(f, n, *rest)))  # fmt: skip

    def make(_):
        return batches(prepare_stream([source], TOKENIZER, cutting(tmp_path / "cache")).stream)

    # a lock of the kernel's is of an open file: threads keep each other out as processes do
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(make, range(2))) == [alone, alone]
    assert made == sorted(set(made))


def test_a_large_file_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_maker, "SEQUENCES", 64)
    monkeypatch.setattr(stored_sequences, "OPEN", 2)
    line = json.dumps({"text": "pens " * 4000}) + "\n"
    path = tmp_path / "large.jsonl"
    path.write_text(line * 100)  # 2 MB
    tracemalloc.start()
    made = prepare_stream([StreamSource(str(path))], TOKENIZER, Cutting(256, folder=tmp_path))
    for at in range(0, 60, 4):
        made.stream.batch(at, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made.stream) > 1000
    assert peak < path.stat().st_size  # its text alone, read at once, would be more


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 3)))
    with pytest.raises(UserError, match="--data-cache"):
        prepare_stream([source], TOKENIZER, cutting(tmp_path / "file"))


# the Hub, and reading no further than is asked


class Counted:
    """Records that count how often they are asked for."""

    def __init__(self, count):
        self.count, self.read = count, 0

    def __iter__(self):
        for n in range(self.count):
            self.read += 1
            yield {"text": text(n)}


@pytest.fixture
def hub(monkeypatch):
    """A data set of the Hub, by what opens it."""

    def given(records, newest="abc"):
        def opened(name, *, streaming, revision=None):
            return HubData(records() if callable(records) else records, revision or newest)

        monkeypatch.setattr(stream_sources, "open_hub", opened)

    return given


def test_a_stream_of_the_hub_is_read_no_further_than_its_cap(tmp_path, hub):
    records = Counted(10**9)
    hub(records)
    made = prepare_stream([StreamSource("org/web", cap=20)], TOKENIZER, cutting(tmp_path / "c"))
    assert records.read == 20
    plainly = prepare_stream([StreamSource(str(jsonl(tmp_path / "a.jsonl", 20)))], TOKENIZER,
                             cutting())  # fmt: skip
    assert batches(made.stream) == batches(plainly.stream)


def test_another_commit_is_another_stream_though_it_begins_alike(tmp_path, hub):
    """A run that is resumed on it would read on in other texts."""

    def digest(newest):
        hub(lambda: Counted(10**9), newest)
        return prepare_stream([StreamSource("org/web")], TOKENIZER, cutting(window=24)).digest

    assert digest("abc") == digest("abc") != digest("def")


def test_without_an_end_it_is_read_a_window_at_a_time(tmp_path, hub):
    records = Counted(10**9)
    hub(records)
    cut = cutting(tmp_path / "cache", window=24)
    made = prepare_stream([StreamSource("org/web")], TOKENIZER, cut)
    first = batches(made.stream, 24)
    assert 0 < records.read < 60
    far = made.stream.batch(200, 4).tokens.tolist()
    assert records.read < 300
    # whoever reads on, from wherever: the same
    hub(lambda: Counted(10**9))
    again = prepare_stream([StreamSource("org/web")], TOKENIZER, cut)
    assert again.stream.batch(200, 4).tokens.tolist() == far
    elsewhere = prepare_stream([StreamSource("org/web")], TOKENIZER, replace(cut, folder=None))
    assert elsewhere.stream.batch(200, 4).tokens.tolist() == far
    assert batches(elsewhere.stream, 24) == first
    assert elsewhere.digest == again.digest == made.digest
    assert dict(elsewhere.summary) == dict(again.summary)


def test_windows_give_every_sequence_once_an_epoch(tmp_path):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 40)))
    whole = prepare_stream([source], TOKENIZER, cutting())
    made = prepare_stream([source], TOKENIZER, cutting(window=16))
    count = len(whole.stream)
    for epoch in range(2):
        read = plain(made.stream.sequences(epoch * count, count))
        assert sorted(map(str, read)) == sorted(map(str, plain(whole.stream.encoded.sequences)))
    assert plain(made.stream.sequences(0, 16)) != plain(made.stream.sequences(count, 16))


def test_a_streaming_data_set_goes_on_by_its_own_state(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "a.jsonl", 120)

    def load(hub_id, config, *, split, **more):
        assert more.pop("streaming")
        return datasets.load_dataset("json", data_files=str(path), split=split, streaming=True)

    def opened(name, *, streaming, revision=None):
        return HubData(load(name, None, split="train", streaming=streaming), "abc")

    monkeypatch.setattr(stream_sources, "open_hub", opened)
    whole = prepare_stream([StreamSource(str(path))], TOKENIZER, cutting(window=16))
    cut = cutting(tmp_path / "cache", window=16)
    first = prepare_stream([StreamSource("org/web")], TOKENIZER, cut)
    assert batches(first.stream, 16) == batches(whole.stream, 16)
    later = prepare_stream([StreamSource("org/web")], TOKENIZER, cut)  # opened at a place
    assert batches(later.stream, 120) == batches(whole.stream, 120)


def test_a_connection_that_breaks_is_told_and_gone_on_from(tmp_path, hub):
    class Breaking(Counted):
        def __iter__(self):
            for n, record in enumerate(super().__iter__()):
                if n == 50:
                    raise ConnectionError("gone")
                yield record

    hub(lambda: Breaking(80))
    cut = cutting(tmp_path / "cache")
    with pytest.raises(UserError, match="record 51: cannot be read from the Hub"):
        prepare_stream([StreamSource("org/web")], TOKENIZER, cut)
    rest = Counted(80)
    hub(rest)
    made = prepare_stream([StreamSource("org/web")], TOKENIZER, cut)
    whole = prepare_stream([StreamSource(str(jsonl(tmp_path / "a.jsonl", 80)))], TOKENIZER,
                           cutting())  # fmt: skip
    assert batches(made.stream) == batches(whole.stream)


def test_what_the_hub_is_asked_for(monkeypatch):
    class Within:
        def __enter__(self):
            return True

        def __exit__(self, *_):
            pass

    asked = []
    monkeypatch.setattr(record_hub, "hub_within_reach", Within)
    monkeypatch.setattr(record_hub, "_revision", lambda _: "f00")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *given, **more: asked.append((given, more)) or [{"a": 1}]
    )
    found = record_hub.open_hub("org/web:en:validation", streaming=True)
    more = {"split": "validation", "streaming": True, "revision": "f00"}
    assert (asked, found.revision) == ([(("org/web", "en"), more)], "f00")


# mixtures


def test_weights_are_shares_and_positions_are_pure(tmp_path):
    sources = [StreamSource(str(jsonl(tmp_path / f"{n}.jsonl", 20 + n)), domain=n)
               for n in range(3)]  # fmt: skip
    cut = cutting(weights=(0.6, 0.3, 0.1), seed=5)
    stream = prepare_stream(sources, TOKENIZER, cut).stream
    assert isinstance(stream, WeightedStream)
    drawn = [s.domain for s in stream.sequences(0, 1500)]
    for domain, share in enumerate((0.6, 0.3, 0.1)):
        assert abs(drawn.count(domain) / 1500 - share) < 0.05
    for at in (0, 700, 1490):
        assert plain(stream.sequences(at, 3)) == plain(stream.sequences(0, at + 3)[at:])
    for domain, stored in enumerate(one.sequences for one in stream.sets):
        own = [s for s in stream.sequences(0, 1500) if s.domain == domain][: len(stored)]
        assert sorted(map(str, plain(own))) == sorted(map(str, plain(stored)))  # no one twice
    other = prepare_stream(sources, TOKENIZER, replace(cut, seed=6)).stream
    assert [s.domain for s in other.sequences(0, 100)] != drawn[:100]


def test_long_orders_are_permutations_without_a_table():
    for count in (1, 2, 3, 100, 1025):
        assert sorted(_permuted(count, n, (3, 1)) for n in range(count)) == list(range(count))
    found = {_permuted(10 * TABLE, n, (3, 1)) for n in range(2000)}
    assert len(found) == 2000
    assert max(found) > 9 * TABLE


def test_sequences_are_found_by_their_number(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", 40)
    maker = SegmentMaker(lambda at: Examples(str(path), "stream", place=at), TOKENIZER, LENGTH)
    stored = StoredSequences(maker, tmp_path / "cache", domain=2)
    everything = plain(stored)
    assert len(everything) == len(stored)
    assert plain([stored[3]]) == [everything[3]]
    for outside in (-1, len(everything)):
        with pytest.raises(IndexError):
            stored[outside]


def test_a_token_that_the_learner_lacks_is_refused(tmp_path):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 5)))
    with pytest.raises(UserError, match="the stream data hold the token"):
        prepare_stream([source], TOKENIZER, cutting(vocabulary=10))


def test_packing_nothing_is_refused(tmp_path):
    source = StreamSource(str(jsonl(tmp_path / "a.jsonl", 5, questions=True)))
    with pytest.raises(UserError, match="--pack joins documents of raw text"):
        prepare_stream([source], TOKENIZER, cutting(pack=True))


def test_mistaken_spans_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "12 pens", "wrong": [[0, 2]]}))
    made = prepare_stream([StreamSource(str(path))], TOKENIZER, cutting(tmp_path / "cache"))
    (one,) = made.stream.sequences(0, 1)
    assert made.wrong
    assert torch.equal(one.wrong.nonzero()[0], torch.tensor([one.predict_from]))
