"""Runs that train some blocks: what is kept changes no number, and the rest does not move."""

from __future__ import annotations

import pytest
import torch
from small_run import new_run, small, train

from vfunc.designer_file import save_designer
from vfunc.errors import UserError
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.loading import load_learner
from vfunc.training.assemble import assemble
from vfunc.training.build.language_frozen import freeze_others
from vfunc.training.certifying import certified_arm, certify_start
from vfunc.training.loop import one_step

pytestmark = pytest.mark.usefixtures("shallow")
LAST = {"train": "last:1", "align": "all"}


def kept(folder, precision="float32", **more):
    return LAST | {"cache_edge": precision, "edge_dir": str(folder)} | more


def parameters(state):
    return {n: p.detach().clone() for n, p in state.learner.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"designer_features": "hidden", "value": "cosine"},
        {"estimator": "unrolled", "lookahead_steps": 2, "accumulate": 2},
        {"estimator": "implicit", "batch_size": 1},
        {"feedback_bank": 4, "feedback_every": 2, "value": "deflated", "meta_batch_size": 1},
        {"train": "re:layers.1.mlp", "align": "re:up_proj", "probe_batches": 1},
        {"lora_rank": 2, "train": "lora:last:1", "align": "lora"},
    ],
    ids=["dot", "hidden", "lookahead", "implicit", "bank", "narrower S", "adapters"],
)
def test_kept_and_computed_are_the_same_run(tmp_path, options):
    one = train(**LAST | options)
    other = train(**kept(tmp_path) | options)
    again = train(**kept(tmp_path) | options)
    for found in (other, again):
        for name, p in parameters(one.state).items():
            assert torch.equal(p, dict(found.state.learner.named_parameters())[name]), name
        designed = dict(found.state.designer.named_parameters())
        assert all(torch.equal(p, designed[n]) for n, p in one.state.designer.named_parameters())
        assert found.evaluation.metrics == one.evaluation.metrics
    assert list(tmp_path.rglob("*.safetensors"))


def test_it_is_the_run_of_the_whole_learner_to_rounding():
    """The oracle: the same subset trained by an optimizer that holds no more, nothing left out."""
    run = new_run(**LAST)
    whole = new_run(**LAST)
    plain = whole.workload
    object.__setattr__(whole, "workload", type(plain)(**{**vars(plain), "frozen": None}))
    for _ in range(3):
        one, other = one_step(run), one_step(whole)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
        assert one["value"] == pytest.approx(other["value"], rel=1e-3)


def test_what_is_frozen_does_not_move_and_what_is_trained_does():
    run = new_run(**LAST)
    before = parameters(run.state)
    for _ in range(2):
        one_step(run)
    for name, p in run.state.learner.named_parameters():
        trained = name.startswith(("model.layers.1", "model.norm"))
        assert p.requires_grad is trained
        assert torch.equal(p, before[name]) is not trained, name
    assert set(run.state.functional.names) == {n for n, p in before.items() if n.startswith(("model.layers.1", "model.norm"))}  # fmt: skip


def test_bfloat16_is_near(tmp_path):
    one, other = train(**LAST), train(**kept(tmp_path, "bfloat16"))
    losses = [x.evaluation.metrics["loss"] for x in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("estimator", ["first_order", "unrolled"])
def test_it_is_certified(tmp_path, estimator):
    config = small(**kept(tmp_path), estimator=estimator, certify=True)
    assembled = assemble(config)
    found = certify_start(certified_arm(assembled), assembled)
    assert found is not None and "exact" in {row.verdict for row in found.rows}
    assert not {row.verdict for row in found.rows} & {"FAILED", "inconclusive"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache_edge": "float32"}, "give --train"),
        ({"edge_dir": "x", "train": "last:1"}, "give --cache-edge"),
        ({"edge_precision": "bfloat16"}, "give --train"),
        ({"train": "last"}, "must be all, last:N"),
        ({"train": "last:9"}, "--train last:9"),
        ({"train": "re:nothing"}, "selects no trainable parameter"),
        ({"train": "re:embed", "cache_edge": "float32"}, "no blocks are frozen"),
        ({"train": "last:1", "align": "re:layers.0"}, "selects no trainable parameter"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(UserError, match=said):
        assemble(small(**options))


@pytest.mark.usefixtures("deep")
def test_a_designer_that_looks_below_what_is_left_out_is_refused(tmp_path, monkeypatch):
    monkeypatch.undo()  # three blocks
    saved = tmp_path / "designer.safetensors"
    looking = new_run(train="last:2", align="all", designer_features="hidden", designer_width=4)
    save_designer(looking.state.designer, saved)
    new_run(train="last:2", align="last:1", designer=str(saved))  # where it was made
    with pytest.raises(UserError, match="looks at what enters block 1"):
        new_run(train="last:1", align="all", designer=str(saved))


def test_a_learner_that_skips_blocks_at_random_is_refused():
    module = load_learner(str(EMBEDDED_LEARNER))[0]
    module.model.layerdrop = 0.1
    freeze_others(module, "all")
    with pytest.raises(UserError, match="layerdrop"):
        freeze_others(module, "last:1")


def test_adapters_that_add_nothing_yet_share_a_store_whatever_their_seed(tmp_path):
    options = {"lora_rank": 2, "train": "lora:last:1", "align": "lora"}
    for seed in (0, 1):
        new_run(**kept(tmp_path, **options), seed=seed).workload.batch(0)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_dry_run_keeps_nothing(tmp_path, command, capsys):
    assert command("--dry-run", **kept(tmp_path / "edges")) == 0
    assert "1 of 2 blocks are frozen" in capsys.readouterr().out
    assert not (tmp_path / "edges").exists()
