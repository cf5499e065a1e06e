"""Files and Hub data sets to records, and what is said when they cannot be read."""

from __future__ import annotations

import gzip
import json
import time

import datasets
import pytest
from huggingface_hub import constants, utils

from vfunc.errors import UserError
from vfunc.language.data.records import read_records


def complaint(source) -> str:
    with pytest.raises(UserError) as caught:
        list(read_records(str(source)))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("suffix", "text", "expected"),
    [
        (".jsonl", '{"a": 1}\n\n{"a": "é\\r\\n"}\n', [{"a": 1}, {"a": "é\r\n"}]),
        (".json", '[{"a": 1}, {"a": null}]', [{"a": 1}, {"a": None}]),
        (".txt", "One.\r\n\r\nTwo.\n", [{"text": "One.\n\nTwo.\n"}]),
        (".jsonl", '\ufeff{"a": 1}', [{"a": 1}]),
        (".jsonl", "\n", []),
        (".json", " ", []),
    ],
)
def test_reads_every_kind_of_file(tmp_path, suffix, text, expected, zipped):
    path = tmp_path / f"data{suffix}{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert [record for _, record in read_records(str(path))] == expected


def test_says_where_a_record_stands(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [where for where, _ in read_records(str(path))] == [f"{path}, line 1", f"{path}, line 3"]
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1}]')
    assert [where for where, _ in read_records(str(path))] == [f"{path}, record 1"]


def test_reads_a_home_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.txt").write_text("x")
    assert [record for _, record in read_records("~/data.txt")] == [{"text": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", b'{"a": 1}\n{"a": \n', ["d.jsonl, line 2, column", "malformed JSON"]),
        ("d.jsonl", b'{"a": 1}\n[1]\n', ["d.jsonl, line 2", "not list"]),
        ("d.json", b'[{"a": 1},\n {"a" 2}]', ["d.json, line 2, column 7", "malformed JSON"]),
        ("d.json", b'{"a": 1}', ["d.json", "list of records"]),
        ("d.json", b"[3]", ["d.json, record 1", "not int"]),
        ("d.json", b"[" * 200_000, ["d.json, line 1", "malformed JSON"]),
        ("d.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', ["d.jsonl, line 2", "not UTF-8", "byte 7"]),
        ("d.jsonl.gz", b"plain text", ["d.jsonl.gz", "corrupt"]),
        ("d.txt.gz", gzip.compress(b"much text " * 99, mtime=0)[:-12], ["d.txt.gz", "cut-off"]),
        (
            "d.txt.gz",
            gzip.compress(b"x" * 99, mtime=0)[:10] + b"\xff" * 20,
            ["d.txt.gz", "invalid block"],
        ),
        ("d.tsv", b"a,b", ["d.tsv", "unknown kind", ".jsonl.gz"]),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    message = complaint(path)
    assert all(part in message for part in said), message


def test_a_missing_file_brings_its_neighbours_to_mind(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    message = complaint(tmp_path / "trian.jsonl")
    assert str(tmp_path / "trian.jsonl") in message
    assert "did you mean train.jsonl" in message
    assert "no folder" in complaint(tmp_path / "nowhere" / "train.jsonl")
    assert "not a file" in complaint(tmp_path)


def test_a_gzipped_file_is_read_as_a_stream(tmp_path):
    path = tmp_path / "data.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"a": "%d"}\n' % i for i in range(200_000)))
    path.write_bytes(whole[: len(whole) // 2])
    records = read_records(str(path))
    assert next(records)[1] == {"a": "0"}  # long before the end, which is missing
    with pytest.raises(UserError, match="cut-off"):
        list(records)


@pytest.mark.parametrize("name", ["a b", "org/name:config:train:more", "a/b/c"])
def test_what_is_neither_file_nor_hub_id(name):
    assert "neither a file nor a Hub id" in complaint(name)


def unreachable(monkeypatch):
    class Session:
        def head(self, url, timeout):
            raise OSError("no route")

    monkeypatch.setattr(utils, "get_session", Session)


def test_without_a_network_it_says_so_at_once(monkeypatch):
    unreachable(monkeypatch)
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    start = time.perf_counter()
    message = complaint("vfunc-tests/no-such-data:main:train")
    assert time.perf_counter() - start < 5  # datasets alone retries for 23 s
    assert "vfunc-tests/no-such-data:main:train" in message
    assert "cannot be reached" in message
    assert before == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:main", ("org/name", "main", "train")),
        ("org/name:main:test", ("org/name", "main", "test")),
        ("name::test", ("name", None, "test")),
    ],
)
def test_a_hub_id_names_data_set_configuration_and_split(monkeypatch, source, asked):
    unreachable(monkeypatch)  # as when the data set lies in the local cache
    rows = [{"question": "Q", "answer": "A"}, {"question": "R", "answer": "B"}]

    def load(path, name, split):
        assert (path, name, split) == asked
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    records = list(read_records(source))
    assert [record for _, record in records] == rows
    assert records[1][0] == f"{source}, record 2"


def test_what_the_hub_says_is_passed_on_in_one_line(monkeypatch):
    class Session:
        def head(self, url, timeout):
            assert url == constants.ENDPOINT

    def load(path, name, split):
        raise ValueError("Config name is missing.\nPlease pick one among: ['main', 'socratic']")

    monkeypatch.setattr(utils, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "pick one among: ['main', 'socratic']" in complaint("openai/gsm8k")


def test_a_file_wins_over_a_hub_id_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps({"a": 1}))
    assert [record for _, record in read_records("data.jsonl")] == [{"a": 1}]
