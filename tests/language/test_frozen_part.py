"""What frozen blocks make of a text: the same in every batch, kept or not, and shared by right."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vfunc.errors import UserError
from vfunc.language.data.examples import TokenBatch, first_rows, take_rows
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.loading import load_learner
from vfunc.language.trimmed.edge_store import EdgeStore
from vfunc.language.trimmed.frozen_part import (
    FrozenPart,
    digest_of_frozen,
    frozen_part,
    require_frozen_blocks,
    texts_of,
)
from vfunc.language.trimmed.trim import Trim
from vfunc.split import Whole
from vfunc.training.build.language_frozen import freeze_others

CPU = torch.device("cpu")
LENGTHS = (7, 3, 5)


def frozen_learner(subset="last:1"):
    module = load_learner(str(EMBEDDED_LEARNER))[0]
    freeze_others(module, subset)
    return module


def part_of(module):
    part = frozen_part(module, torch.arange(4), CPU)
    assert isinstance(part, FrozenPart)
    return part


def batch_of(lengths=LENGTHS, seed=0):
    g = torch.Generator().manual_seed(seed)
    longest = max(lengths) + 1
    tokens = torch.zeros(len(lengths), longest, dtype=torch.long)
    predict = torch.zeros(len(lengths), longest - 1, dtype=torch.bool)
    for row, n in enumerate(lengths):
        tokens[row, : n + 1] = torch.randint(1, 300, (n + 1,), generator=g)
        predict[row, n // 2 : n] = True
    return TokenBatch(tokens, predict, torch.zeros_like(predict))


def kept(part, folder, dtype=torch.float32):
    return dataclasses.replace(part, store=EdgeStore(folder / "made", dtype))


def test_the_learner_above_gives_what_the_whole_gives():
    module = frozen_learner()
    part, batch = part_of(module), batch_of()
    attached = part.attached(batch)
    trim = Trim(rows=True, frozen=part.split)
    rows = batch.predicted_rows
    with trim.applied(module, rows, attached.below):
        some = module(input_ids=batch.inputs).logits
    whole = module(input_ids=batch.inputs).logits.flatten(0, 1)[rows]
    torch.testing.assert_close(some, whole, rtol=1e-4, atol=1e-4)
    assert some.grad_fn is not None
    # and the frozen blocks do not run: what is below decides
    with trim.applied(module, rows, attached.below + 1.0):
        moved = module(input_ids=batch.inputs).logits
    assert not torch.allclose(moved, some, atol=1e-2)


def test_a_text_does_not_depend_on_its_batch():
    part = part_of(frozen_learner())
    batch = batch_of()
    whole = part.attached(batch).below
    for row, n in enumerate(LENGTHS):
        alone = part.attached(take_rows(batch, torch.tensor([row])))
        assert torch.equal(alone.below[0, :n], whole[row, :n])
        assert not whole[row, n:].any()
    assert torch.equal(first_rows(part.attached(batch), 2).below, whole[:2])


def test_kept_in_float32_it_is_the_same_and_is_computed_once(tmp_path, monkeypatch):
    part, batch = part_of(frozen_learner()), batch_of()
    plain = part.attached(batch).below
    store = kept(part, tmp_path)
    assert len(store.missing(texts_of([batch, batch]))) == len(LENGTHS)
    assert torch.equal(store.attached(batch).below, plain)
    assert not store.missing(texts_of([batch]))
    monkeypatch.setattr(FrozenPart, "_computed", lambda *_: pytest.fail("computed again"))
    assert torch.equal(store.attached(batch).below, plain)
    assert not part.missing(texts_of([batch]))  # nothing is kept without a store


def test_kept_in_bfloat16_it_is_near_and_the_same_at_every_reading(tmp_path):
    part, batch = part_of(frozen_learner()), batch_of()
    plain = part.attached(batch).below
    store = kept(part, tmp_path, torch.bfloat16)
    first, again = store.attached(batch).below, store.attached(batch).below
    assert torch.equal(first, again) and first.dtype == torch.float32
    assert torch.equal(first, plain.bfloat16().float())


def a_bit_flipped(data):
    return data[:-3] + bytes([data[-3] ^ 0x40]) + data[-2:]


@pytest.mark.parametrize(
    "damaged",
    [lambda data: b"", lambda data: b"no tensors", lambda data: data[:-9], a_bit_flipped],
    ids=["empty", "other", "cut", "a bit"],
)
def test_a_damaged_file_is_made_again(tmp_path, damaged):
    part, batch = kept(part_of(frozen_learner()), tmp_path), batch_of((4,))
    plain = part.attached(batch).below
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    assert torch.equal(part.attached(batch).below, plain)
    assert file.read_bytes() == whole
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_of_another_text_or_dtype_is_not_taken(tmp_path):
    part, batch = part_of(frozen_learner()), batch_of((4,))
    one = kept(part, tmp_path)
    plain = one.attached(batch).below
    kept(part, tmp_path, torch.bfloat16).attached(batch)
    assert torch.equal(one.attached(batch).below, plain)


def test_texts_of_one_length_are_kept_apart(tmp_path):
    part, batch = part_of(frozen_learner()), batch_of((5, 5, 5))
    plain = part.attached(batch).below
    store = kept(part, tmp_path)
    assert torch.equal(store.attached(batch).below, plain)
    assert torch.equal(store.attached(batch).below, plain)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "made").write_text("a file")
    with pytest.raises(UserError, match="--edge-dir"):
        kept(part_of(frozen_learner()), tmp_path).attached(batch_of())


def test_the_digest_is_of_all_that_it_depends_on():
    module = frozen_learner()
    first = digest_of_frozen(part_of(module))
    assert digest_of_frozen(part_of(frozen_learner())) == first
    assert digest_of_frozen(dataclasses.replace(part_of(module), autocast=torch.bfloat16)) != first
    assert digest_of_frozen(part_of(frozen_learner("last:2"))) != first
    with torch.no_grad():
        module.model.layers[2].mlp.up_proj.weight.add_(1)  # it is trained: of no matter
    assert digest_of_frozen(part_of(module)) == first
    with torch.no_grad():
        module.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    assert digest_of_frozen(part_of(module)) != first
    module = frozen_learner()
    module.config.rms_norm_eps = 1e-3
    assert digest_of_frozen(part_of(module)) != first


@pytest.mark.parametrize("subset", ["all", "re:embed|layers.2"])
def test_what_has_no_frozen_part(subset):
    found = frozen_part(frozen_learner(subset), torch.arange(4), CPU)
    assert isinstance(found, Whole)
    with pytest.raises(UserError, match="--cache-edge float32: no blocks are frozen"):
        require_frozen_blocks(found, "--cache-edge float32")


def test_padding_may_be_a_token_of_texts():
    batch = batch_of((5,))
    batch.tokens[0, 2] = 0
    assert len(texts_of([batch])[0]) == 5
