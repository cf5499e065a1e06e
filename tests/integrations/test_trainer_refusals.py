"""What would make a trainer's step another than estimates simulate is refused in a line."""

from __future__ import annotations

import types

import pytest
import torch
from small_run import shallow  # noqa: F401  a fixture
from small_trainer import run_of, trainer_of
from torch import nn

import vfunc
from vfunc.errors import UserError
from vfunc.integrations.trainer_refusals import refuse
from vfunc.integrations.trainer_run import feedback_of
from vfunc.integrations.transformers import ValueOptions


class Model(nn.Linear):
    """A model that nothing speaks against."""

    def get_input_embeddings(self):
        return self


def trainer(**more):
    """What is looked at of a trainer; a dotted name is of its part."""
    args = {
        "fsdp": [],
        "deepspeed": None,
        "n_gpu": 1,
        "parallel_mode": "not_parallel",
        "label_smoothing_factor": 0.0,
        "neftune_noise_alpha": None,
        "use_liger_kernel": False,
        "torch_compile": False,
        "auto_find_batch_size": False,
    }
    space = types.SimpleNamespace
    own = space(
        args=space(**args),
        accelerator=space(
            gradient_state=space(plugin_kwargs={}), num_processes=1, mixed_precision="bf16"
        ),
        compute_loss_func=None,
        model=Model(1, 1),
    )
    for name, value in more.items():
        part, _, last = name.rpartition("__")
        setattr(getattr(own, part) if part else own, last, value)
    return own


REFUSED = {
    "FSDP": {"is_fsdp_enabled": True},
    "DeepSpeed": {"is_deepspeed_enabled": True},
    "DataParallel": {"args__n_gpu": 2},
    "parallel mode tpu": {"args__parallel_mode": "tpu"},
    "split among processes": {"model__tp_size": 2},
    "loaded in shards": {"is_distributed_loading_by_transformers": True},
    "spread over devices": {"is_model_parallel": True},
    "mixed precision fp16": {"accelerator__mixed_precision": "fp16"},
    "compute_loss_func": {"compute_loss_func": print},
    "label_smoothing_factor": {"args__label_smoothing_factor": 0.1},
    "loss_type=dft": {"args__loss_type": "dft"},
    "neftune": {"args__neftune_noise_alpha": 5.0},
    "liger": {"args__use_liger_kernel": True},
    "torch_compile": {"args__torch_compile": True},
    "auto_find_batch_size": {"args__auto_find_batch_size": True},
    "quantised": {"model__is_quantized": True},
    "virtual tokens": {"model__peft_config": {"own": types.SimpleNamespace(is_prompt_learning=1)}},
    "router": {"model__config": types.SimpleNamespace(output_router_logits=True)},
    "encoder and a decoder": {"model__config": types.SimpleNamespace(is_encoder_decoder=True)},
    "packing=True": {"args__packing": True},
    "padding_free=True": {"args__padding_free": True},
    "activation_offloading": {"args__activation_offloading": True},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_go_with_designed_targets_is_refused(said):
    refuse(trainer())
    with pytest.raises(UserError, match=said):
        refuse(trainer(**REFUSED[said]))


def test_several_processes_sum_at_the_end_of_a_window():
    several = trainer(accelerator__num_processes=2)
    refuse(several)
    several.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    with pytest.raises(UserError, match="sync_each_batch"):
        refuse(several)


@pytest.mark.parametrize("given", [None, {}])
def test_feedback_that_is_none_is_refused(given):
    with pytest.raises(UserError, match="feedback_dataset holds no data set"):
        feedback_of(given, Model(1, 1), 0, 0)


@pytest.mark.usefixtures("shallow")
def test_an_optimizer_that_is_not_simulated_is_refused_before_a_step(tmp_path):
    found = trainer_of(run_of(), tmp_path, optim="adafactor")
    before = {n: p.detach().clone() for n, p in found.model.named_parameters()}
    with pytest.raises(UserError, match=r"transformers.*Adafactor .optim='adafactor'"):
        found.train()
    assert all(torch.equal(p, before[n]) for n, p in found.model.named_parameters())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"meta_period": 0}, "meta_period must be at least 1"),
        ({"estimator": "dot"}, "estimator takes an estimator"),
        ({"feedback_batch_size": 0}, "feedback_batch_size must be at least 1"),
        ({"freeze_designer": True}, "a new designer has to be trained"),
        ({"feedback_every": 2, "estimator": vfunc.Unrolled()}, "asks for L_down elsewhere"),
        (
            {"designer_steps": 2, "estimator": vfunc.FirstOrder("cosine")},
            "designer_steps=2 goes on",
        ),
        ({"mean_bank": 2}, "mean_bank does nothing here"),
        ({"mean_decays": (0.5, 0.6), "estimator": vfunc.FirstOrder("deflated")}, "mean-decays"),
        ({"top_k": 1}, "top_k"),
        ({"feedback_weights": {"a": 1.0, "b": 2.0}}, r"in the order of .* not a dict: .1.0, 2.0."),
    ],
)
def test_options_that_do_nothing_or_do_not_fit_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        ValueOptions(**given)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"feedback_bank": 1000}, "the 32 feedback examples"),
        ({"feedback_weights": (1.0, 2.0)}, "2 weights for 1"),
        ({"top_k": 10_000}, "vocabulary"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(value, said, tmp_path):
    with pytest.raises(UserError, match=said):
        trainer_of(run_of(), tmp_path, value=value)
