from __future__ import annotations

from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfunc.arms import ARMS
from vfunc.config.layers import Layer
from vfunc.config.toml import read_toml
from vfunc.errors import UserError
from vfunc.estimators import ESTIMATORS, make_estimator
from vfunc.language.data.streams import PRESETS, StreamSpec
from vfunc.studies.estimators_on_offer import ESTIMATORS_ON_OFFER
from vfunc.training.budget import Budget
from vfunc.training.build.configuration import (
    COMMAND,
    catalogue_of,
    default_name,
    given_options,
    resolve,
    to_toml,
)
from vfunc.training.run_command_line import PRESETS as PRESET_FILES
from vfunc.vision.options import LABELS

FILES = {"stream": "a.jsonl", "feedback": "b.jsonl", "eval": "c.jsonl"}


def test_the_embedded_defaults():
    options = resolve({}).options
    expected = {
        "problem": "careless_everywhere", "batch_size": 32, "feedback_batch_size": 32,
        "optimizer": "adamw", "lr": 1e-3, "betas": (0.9, 0.99), "clip": 1.0, "warmup": 15 / 300,
        "final_lr": 0.1, "top_k": 16, "targets": "gate", "alpha_max": 1.0, "designer_width": 48,
        "designer_layers": 1, "designer_lr": 4e-3, "meta_period": 8, "align": "all",
        "budget": Budget(300, "steps"), "feedback_size": 1024, "eval_size": 512,
        "eval_split": "test", "arms": ("baseline", "vpretraining"), "learner": "embedded",
    }  # fmt: skip
    assert {name: options[name] for name in expected} == expected


def test_the_defaults_of_other_data_and_another_learner_are_the_papers():
    options = resolve(FILES | {"learner": "Qwen/Qwen2.5-0.5B"}).options
    expected = {
        "problem": None, "eval_split": None, "targets": "free", "alpha_max": 0.5, "top_k": 64,
        "designer_width": 256, "designer_layers": 6, "designer_heads": 4, "designer_lr": 1e-4,
        "lr": 1.5e-5, "seq_len": 512, "batch_size": 4, "align": "last:2", "warmup": 0.03,
        "eval_size": 256,
    }  # fmt: skip
    assert {name: options[name] for name in expected} == expected


def test_what_is_the_learners_follows_the_learner_and_what_is_the_datas_the_data():
    options = resolve(FILES).options
    expected = {
        "lr": 1e-3, "designer_width": 48, "designer_lr": 4e-3, "align": "all",
        "targets": "free", "alpha_max": 0.5, "top_k": 64,
    }  # fmt: skip
    assert {name: options[name] for name in expected} == expected
    options = resolve({"learner": "some/where"}).options
    assert (options["targets"], options["top_k"], options["batch_size"]) == ("gate", 16, 32)
    assert (options["lr"], options["align"]) == (1.5e-5, "last:2")


def test_adapters_change_the_defaults_of_another_learner():
    options = resolve({"learner": "some/where", "lora_rank": 8}).options
    assert (options["lora_alpha"], options["lr"]) == (16.0, 2e-4)
    assert (options["align"], options["lora_dropout"]) == ("lora:last:2", 0.05)


def test_defaults_follow_one_another():
    assert resolve({"targets": "free"}).targets.design["target"].alpha_max == 0.5
    assert resolve({"targets": "bounded"}).targets.gate_penalty_absolute == 0.3
    assert resolve({"batch_size": 6}).data.feedback_batch_size == 6
    assert resolve(FILES | {"targets": "gate"}).targets.design["target"].alpha_max == 1.0


@pytest.mark.parametrize("name", PRESETS)
def test_the_stream_of_a_problem_is_its_preset_until_its_parts_are_given(name):
    assert resolve({"problem": name}).data.spec() == PRESETS[name]
    given = {
        "problem": name, "wrong_share": 0.25, "mistakes": "random_slips",
        "careless_styles": "textbook", "forum_share": 0.75, "eval_forum_share": 0.125,
        "levels": (1.0, 0.0, 0.0),
    }  # fmt: skip
    assert resolve(given).data.spec() == StreamSpec(
        "random_slips", 0.25, ("textbook",), 0.75, 0.125, (1.0, 0.0, 0.0)
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"momentum": 0.0}, "--momentum .*--optimizer sgd"),
        ({"optimizer": "sgd", "lr": 0.1, "betas": (0.9, 0.99)}, "--betas .*adamw"),
        ({"shift_bound": 1.0}, "--shift-bound .*bounded"),
        ({"freeze_designer": True}, "--freeze-designer .*--designer PATH"),
        ({"freeze_designer": False}, "--freeze-designer .*--designer PATH"),
        ({"designer": "d", "designer_width": 48}, "--designer-width .*saved with"),
        ({"designer": "d", "designer_features": True}, "--designer-features .*saved with"),
        ({"designer": "d", "targets": "gate"}, "--targets .*saved with"),
        ({"designer": "d", "freeze_designer": True, "designer_lr": 1e-3}, "trains no designer"),
        ({"designer": "d", "freeze_designer": True, "meta_period": 8}, "trains no designer"),
        ({"lora_alpha": 16}, "--lora-alpha .*--lora-rank"),
        ({"lora_dropout": 0.0}, "--lora-dropout .*--lora-rank"),
        ({"fixed_alpha": 0.5}, "--fixed-alpha .*uniform_smoothing"),
        ({"arms": "baseline", "top_k": 4}, "--top-k .*no candidates"),
        ({"arms": "baseline", "estimator": "unrolled"}, "--estimator .*designer"),
        ({"arms": "baseline,known_wrong", "designer_lr": 1e-3}, "--designer-lr .*designer"),
        ({"arms": "baseline", "probe_batches": 4}, "--probe-batches .*designer"),
        (FILES | {"problem": "random_slips"}, "--problem .*data of your own"),
        (FILES | {"wrong_share": 0.1}, "--wrong-share .*data of your own"),
        (FILES | {"eval_split": "test"}, "--eval-split .*data of your own"),
        (FILES | {"stream_size": 9}, "--stream-size .*data of your own"),
        ({"stream_limit": 9}, "--stream-limit .*--stream"),
        ({"eval_fields": "text=a"}, "--eval-fields .*--stream"),
        ({"problem": "style_shift", "mistakes": "systematic"}, "--mistakes .*--wrong-share"),
        ({"stream": "a"}, "--feedback and --eval is missing"),
        ({"feedback": "a", "eval": "b"}, "--stream is missing"),
        ({"arms": "baseline,basline"}, "unknown arm 'basline'; did you mean baseline.*known_wrong"),
        ({"arms": "baseline,vpretraining,baseline"}, "names baseline twice"),
        ({"arms": ","}, "names no arm"),
        ({"optimizer": "sgd"}, "--optimizer sgd has no learning rate .* give --lr"),
        ({"optimizer": "adafactor"}, "--optimizer adafactor has no learning rate .* give --lr"),
        (
            {"optimizer": "rmsprop", "lr": 0.1, "betas": (0.9, 0.9)},
            "--betas .* it is for --optimizer adamw, adam, nadam, radam or adamax",
        ),
        ({"designer_width": 50}, "--designer-width 50 must be even and divisible"),
        ({"designer_heads": 5}, "--designer-heads 5"),
        ({"designer_layers": 257}, "--designer-layers must be at least 1 and at most 256"),
        ({"value": "deflated", "mean_batches": 4097},
         "--mean-batches must be at least 0 and at most 4096"),
        ({"levels": (0.0, 0.0, 0.0)}, "--levels"),
        ({"align": "last"}, "--align must be all, last:N"),
        ({"align": "last:0"}, "--align must be all, last:N"),
        ({"align": "lora"}, "--align lora .*--lora-rank"),
        ({"device": "gpu"}, "--device must be auto, cpu"),
        ({"learner": " "}, "--learner is empty"),
        ({"name": "../x"}, "--name must be a plain directory name"),
        ({"name": ".."}, "--name must be a plain directory name"),
        ({"name": "a/b"}, "--name must be a plain directory name"),
        ({"budget": "5"}, "--budget '5'"),
        ({"warmup": 1.0}, "--warmup must be at least 0 and below 1"),
        ({"alpha_max": 1.5}, "--alpha-max must be at least 0 and at most 1"),
        ({"levels": (1.0, -1.0, 0.0)}, "--levels must be at least 0, not -1.0"),
        ({"top_k": 1}, "--top-k must be at least 2"),
        ({"lrr": 1.0}, "--lrr: no such option; did you mean lr"),
        ({"lr": None}, "--lr must be a number, not None"),
    ],
)  # fmt: skip
def test_options_that_do_nothing_or_disagree_are_refused(given, said):
    with pytest.raises(UserError, match=said) as caught:
        resolve(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
        {"targets": "bounded", "shift_bound": 2.0},
        {"designer": "d", "freeze_designer": True},
        {"designer": "d", "designer_lr": 1e-3},
        {"name": "run-1.b_2"},
        {"lora_rank": 4, "lora_alpha": 4, "lora_dropout": 0.0, "align": "lora:last:1"},
        {"arms": "baseline,self_distillation", "fixed_alpha": 0.25, "top_k": 4},
        {"arms": "random_feedback", "engine": "reverse"},
        FILES | {"stream_fields": "text=t", "stream_limit": 5},
        {"learner": "has/adapters", "align": "lora"},
        {"problem": "style_shift", "wrong_share": 0.5, "mistakes": "systematic"},
    ],
)
def test_options_that_do_something_are_kept(given):
    options = resolve(given).options
    for name, value in given.items():
        several = name in ("arms", "stream", "feedback")
        assert options[name] == (tuple(value.split(",")) if several else value)


def test_later_layers_win():
    config = resolve(Layer({"lr": 1.0, "seed": 1}, "a"), Layer({"lr": 2.0}, "b"), {"clip": 0.5})
    assert (config.optimizer.lr, config.run.seed, config.optimizer.clip) == (2.0, 1, 0.5)


def test_what_a_later_layer_makes_useless_gives_way_to_it():
    file = Layer({"betas": [0.5, 0.5], "lr": 1.0, "problem": "random_slips"}, "f.toml")
    config = resolve(file, {"optimizer": "sgd"} | FILES)
    assert config == resolve({"lr": 1.0, "optimizer": "sgd"} | FILES)


def test_g_down_held_by_a_file_gives_way_to_an_estimator_that_asks_for_its_own():
    file = Layer({"feedback_every": 2, "feedback_bank": 64}, "f.toml")
    config = resolve(file, {"estimator": "implicit"})
    assert config == resolve({"feedback_bank": 64, "estimator": "implicit"})
    assert resolve(file, {}).options["feedback_every"] == 2


def test_a_contradiction_says_which_of_its_options_nobody_typed():
    file = Layer({"feedback_bank": 8, "feedback_batch_size": 4}, "f.toml")
    with pytest.raises(UserError, match=r"\(--feedback-bank from f\.toml; another value on the"):
        resolve(file, {"feedback_batch_size": 16})
    with pytest.raises(UserError, match=r"lower that$"):
        resolve({"feedback_bank": 8, "feedback_batch_size": 16})


@pytest.mark.parametrize("name", ESTIMATORS_ON_OFFER)
def test_every_preset_takes_every_estimator(name):
    for preset in sorted(PRESET_FILES.rglob("*.toml")):
        resolve(read_toml(preset), ESTIMATORS_ON_OFFER[name])


def test_what_is_useless_in_its_own_layer_is_refused_with_its_place():
    with pytest.raises(UserError, match=r"f\.toml: momentum does nothing here"):
        resolve(Layer({"momentum": 0.5}, "f.toml"), {"seed": 1})
    with pytest.raises(UserError, match="--momentum does nothing here"):
        resolve(Layer({"optimizer": "adamw"}, "f.toml"), {"momentum": 0.5})


@pytest.mark.parametrize(
    "given",
    [
        {"estimator": "first_order", "value": "cosine", "engine": "reverse"},
        {"estimator": "unrolled", "lookahead_steps": 2, "truncate": 1, "checkpoint_every": 1},
        {"estimator": "implicit", "damping": 3.0, "solver_tolerance": 1e-3, "solver": "neumann",
         "curvature": "gauss_newton", "solver_steps": 3},
        {"estimator": "implicit", "inner_steps": 2, "engine": "forward"},
        {"estimator": "zero"},
    ],
    ids=lambda given: "-".join(given),
)  # fmt: skip
def test_only_the_estimators_own_options_that_were_given_reach_it(given):
    config = resolve(given | {"align": "last:1"})
    own = {k: v for k, v in given.items() if k != "estimator"}
    assert config.estimator.estimator == make_estimator(given["estimator"], own)
    written = given_options(config)
    for name, known in catalogue_of("language").items():
        if known.opened:
            assert config.options[name] == own.get(name) == written.get(name)


def test_an_option_of_another_estimator_is_refused_in_its_own_layer_and_gives_way_to_a_later_one():
    said = "--damping does nothing here: the estimator 'first_order' does not use it; it takes --va"
    with pytest.raises(UserError, match=said):
        resolve({"damping": 1.0, "truncate": 1})
    with pytest.raises(UserError, match=r"'unrolled' does not use it; it takes --look"):
        resolve(Layer({"estimator": "unrolled"}, "f.toml"), {"value": "dot"})
    with pytest.raises(UserError, match=r"f\.toml: value does nothing here"):
        resolve(Layer({"value": "dot", "estimator": "unrolled"}, "f.toml"), {"estimator": "zero"})
    file = Layer({"value": "deflated", "mean_bank": 2, "designer_steps": 2}, "f.toml")
    assert resolve(file, {"estimator": "unrolled"}) == resolve({"estimator": "unrolled"})
    with pytest.raises(UserError, match=r"unknown estimator 'unroled'; did you mean 'unrolled'"):
        resolve({"estimator": "unroled"})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"arms": "baseline,random_feedback", "value": "cosine"}, "vpretraining"),
        ({"arms": "baseline,random_feedback", "estimator": "implicit"}, "vpretraining"),
        ({"designer": "d", "freeze_designer": True, "value": "cosine"}, "trains no designer"),
        ({"designer": "d", "freeze_designer": True, "estimate_mode": "train"}, "trains no"),
    ],
)
def test_options_of_an_estimator_that_nothing_asks_are_refused(given, reason):
    with pytest.raises(UserError, match=reason):
        resolve(given)


def test_runs_without_a_name_get_one_from_what_they_are():
    assert default_name(resolve({"seed": 3})) == "careless_everywhere-first_order-seed3"
    own = {"stream": "data/docs.jsonl.gz", "estimator": "vfunc.estimators.unrolled:Unrolled"}
    assert default_name(resolve(FILES | own)) == "docs-Unrolled-seed0"
    assert default_name(resolve(FILES | {"stream": "openai/gsm8k:main"})).startswith("gsm8k-")


def _values(name):
    known = catalogue_of("language").get(name) or catalogue_of("vision")[name]
    hint, said = known.kind, known.said
    low = max(v for v in (said.above, said.least, 0) if v is not None)
    high = min(v for v in (said.below, said.most, 100) if v is not None)
    numbers = st.floats(low, high, exclude_min=low == said.above, exclude_max=high == said.below)
    if name == "budget":
        return st.sampled_from(["7steps", "2ktokens", "3kimages", "1.5s"])
    if name == "arms":
        return st.lists(st.sampled_from(list(ARMS)), min_size=1, unique=True).map(",".join)
    if name == "align":
        return st.sampled_from(["all", "last:1", "re:mlp", "lora"])
    if name == "device":
        return st.sampled_from(["cpu", "cuda:1"])
    if name == "estimator":
        return st.sampled_from(list(ESTIMATORS))
    if name == "labels":
        return st.lists(st.sampled_from(LABELS), min_size=1, unique=True).map(tuple)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.tuples(*[numbers] * len(get_args(hint)))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(int(low), int(high))
    if hint is float:
        return numbers
    return st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


_ANY = {
    name: _values(name)
    for name in (*catalogue_of("language"), *catalogue_of("vision"))
    if name not in COMMAND
}


@settings(max_examples=80, deadline=None)
@given(given_=st.fixed_dictionaries({}, optional=_ANY), files=st.booleans())
def test_a_resolved_configuration_repeats_itself(tmp_path_factory, given_, files):
    if not files:
        given_ = {k: v for k, v in given_.items() if k not in FILES}
    else:
        given_ |= FILES
    # what does nothing is weeded out one refusal at a time, so that every draw ends in a config
    while True:
        try:
            config = resolve(given_)
            break
        except UserError as error:
            refused = str(error).split("; it takes")[0].replace(",", " ")
            flags = [n for n in given_ if f"--{n.replace('_', '-')} " in f"{refused} "]
            flags += [n for n in given_ if n in str(error)]
            weed = flags or [n for n in ("arms", "optimizer", "designer_heads") if n in given_]
            assert weed, error
            given_ = {k: v for k, v in given_.items() if k not in weed[:1]}
    assert resolve(given_options(config)) == config
    path = tmp_path_factory.mktemp("run") / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert resolve(read_toml(path)) == config
