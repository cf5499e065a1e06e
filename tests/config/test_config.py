from __future__ import annotations

import dataclasses
import tomllib

import pytest

from vfunc.arms import ARMS
from vfunc.config.declared import Depending, default_words
from vfunc.config.layers import Layer
from vfunc.config.toml import read_preset, read_toml
from vfunc.config.values import check_bounds
from vfunc.errors import UserError
from vfunc.training.build.configuration import COMMAND, MODALITIES, catalogue_of, resolve, to_toml
from vfunc.training.run_command_line import PRESETS


def test_every_option_is_explained_and_named_once():
    for modality in MODALITIES:
        for name, known in catalogue_of(modality).items():
            assert known.name == name and known.kind is not None
            assert len(known.help) > 5 and known.help.endswith("."), name
            assert known.default is not dataclasses.MISSING, f"{name}: which default?"
            told = known.said.shown or default_words(known.default, {"modality": modality})
            assert told or known.default is None, name


def test_fixed_defaults_are_within_their_own_bounds():
    for modality in MODALITIES:
        for name, known in catalogue_of(modality).items():
            if known.default is not None and not isinstance(known.default, Depending):
                check_bounds(known, known.default, name)


def test_groups_are_frozen():
    config = resolve({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.lr = 1.0


def test_help_names_every_arm():
    said = catalogue_of("language")["arms"].help
    assert all(arm in said for arm in ARMS)


NAMES = sorted(p.relative_to(PRESETS).with_suffix("").as_posix() for p in PRESETS.rglob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_resolves_and_is_kept_by_its_own_toml(name, tmp_path):
    path = PRESETS / f"{name}.toml"
    config = resolve(read_preset(name, PRESETS))
    given = {
        name: str(value) if name == "budget" else value for name, value in config.options.items()
    }
    table = tomllib.loads(path.read_text())
    table.pop("base", None)
    for name, value in table.items():
        several = isinstance(value, list) or name in ("stream", "feedback")
        wanted = (value,) if isinstance(value, str) and several else value
        if name == "arms":
            wanted, several = value.split(",") if isinstance(value, str) else value, True
        assert given[name] == (tuple(wanted) if several else value), name
    written = tmp_path / "config.toml"
    written.write_text(to_toml(config))
    assert resolve(read_toml(written)) == config


def test_the_presets_asked_for_are_there():
    assert set(NAMES) >= {
        "careless_everywhere", "careless_source", "random_slips", "style_shift",
        "smollm2_careless", "paper_targets", "quick", "paper/qwen2.5_0.5b_full",
        "paper/qwen1.5_4b_lora", "paper/ade20k_vit_b",
    }  # fmt: skip


def test_the_embedded_presets_are_the_embedded_problems():
    for name in ("careless_everywhere", "careless_source", "random_slips", "style_shift"):
        assert resolve(read_preset(name, PRESETS)) == resolve({"problem": name})


def test_toml_leaves_out_the_command_and_what_does_nothing():
    config = resolve({"name": "x", "overwrite": True, "debug": True, "runs_dir": "elsewhere"})
    options = tomllib.loads(to_toml(config))
    assert not set(options) & set(COMMAND)
    assert not set(options) & {"momentum", "shift_bound", "lora_alpha", "fixed_alpha", "stream"}
    assert options["betas"] == [0.9, 0.99] and options["budget"] == "300steps"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("designer_l = 1e-3", "no such option 'designer_l'; did you mean designer_lr?"),
        ("designer-lr = 1e-3", "did you mean designer_lr?"),
        ("qqqq = 1", "no such option 'qqqq'"),
        ("[optimizer]\nlr = 1", r"\[optimizer\] is a table"),
        ("lr = ", "not TOML"),
        ("lr = 1\nlr = 2", "not TOML"),
        ("overwrite = true", "give --overwrite"),
        ("dry_run = true", "give --dry-run"),
        ('lr = "fast"', "lr must be a number, not 'fast'"),
        ("lr = true", "lr must be a number"),
        ("seed = true", "seed must be a whole number"),
        ("seed = 1.0", "seed must be a whole number"),
        ("betas = [0.9]", "betas must be 2 numbers"),
        ("designer_features = 1", "designer_features must be true or false"),
        ('optimizer = "adm"', "optimizer must be one of adamw, sgd"),
        ("stream = 3", "stream must be one or more names"),
        ("arms = [1]", "arms must be names, separated by commas"),
        ("lr = -1", "lr must be above 0"),
        ("lr = nan", "lr must be above 0"),
        ("weight_decay = inf", "weight_decay must be at least 0, not inf"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        resolve(read_toml(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such configuration file"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(UserError, match="cannot be read"):
        read_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(UserError, match="cannot be read"):
        read_toml(tmp_path / "latin.toml")


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(UserError, match=r"did you mean paper_targets\?.*quick"):
        read_preset("paper_target", PRESETS)
    with pytest.raises(UserError, match=r"did you mean paper/nyuv2_vit_b\?"):
        read_preset("nyuv2_vit_b", PRESETS)
    with pytest.raises(UserError, match="unknown preset"):
        read_preset("../presets/quick", PRESETS)


@pytest.mark.parametrize(
    ("path", "name"),
    [("presets/quick", "quick"), ("configs/paper/ade20k_vit_b", "paper/ade20k_vit_b")],
)
def test_the_paths_of_a_checkout_lead_to_the_presets(path, name):
    file = PRESETS.parents[1] / "experiments" / f"{path}.toml"
    assert resolve(read_toml(file)) == resolve(read_preset(name, PRESETS))


def test_whole_numbers_and_lists_become_what_the_option_wants():
    config = resolve(Layer({"lr": 1, "betas": [0, 0.5], "arms": ["baseline", "vpretraining"]}))
    assert isinstance(config.optimizer.lr, float)
    assert config.optimizer.betas == (0.0, 0.5)
    assert config.run.arms == ("baseline", "vpretraining")


@pytest.mark.parametrize("base", ["below", "below.toml"])
def test_a_base_is_named_with_its_ending_or_without(tmp_path, base):
    (tmp_path / "below.toml").write_text("lr = 1e-3\nclip = 2.0\n")
    (tmp_path / "mine.toml").write_text(f'base = "{base}"\nlr = 2e-3\n')
    assert read_toml(tmp_path / "mine.toml").given == {"lr": 2e-3, "clip": 2.0}


def test_a_base_that_is_not_there_is_told_by_the_file_that_names_it(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "quick"\n')
    said = r"mine\.toml: base = 'quick' names quick\.toml beside it, which is not there; .*--preset"
    with pytest.raises(UserError, match=said):
        read_toml(tmp_path / "mine.toml")
