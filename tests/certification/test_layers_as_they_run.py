"""Layers that run otherwise than they are differentiated: fused kernels, grouped products, no jvp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import measures
import pytest
import torch
from cases import Cube
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

import vfunc
from vfunc import trees
from vfunc.pullback.missing import MissingDerivativeError


def linear_in_q(outputs, theta, shape):
    """A problem that declares that its loss is linear in the designed `q`."""
    draw = measures.generator(1)
    batch = torch.rand(shape, generator=draw)
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"q": phi["a"] * batch},
        lambda theta, task: (outputs(theta) * task["q"]).sum(),
        lambda theta: outputs(theta).square().mean(),
        (batch, batch.cos()),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        linear=vfunc.LinearForm("q", lambda theta, task: outputs(theta)),
    )
    return problem, theta, {"a": torch.rand(shape[-1], generator=draw)}


SHAPE: Any = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1, "num_experts_per_tok": 1, "max_position_embeddings": 8}  # fmt: skip
EXPERTS = {
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**SHAPE, intermediate_size=16, num_local_experts=2)
    ),
    "qwen": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SHAPE, intermediate_size=16, moe_intermediate_size=16, num_experts=2,
                       shared_expert_intermediate_size=16, decoder_sparse_step=1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERTS)
def test_a_mixture_of_experts_runs_by_default(name):
    """By grouped products, which have no forward mode, against experts one after another."""
    torch.manual_seed(0)
    module = EXPERTS[name]().eval()
    words = torch.randint(0, 12, (2, 4))
    f = vfunc.functional(module)

    def outputs(theta):
        return f(theta, input_ids=words).logits.log_softmax(-1)

    problem, theta, phi = linear_in_q(outputs, f.theta, (2, 4, 12))
    assert module.config._experts_implementation == "grouped_mm"
    found = vfunc.FirstOrder()(problem, theta, phi)
    ahead = vfunc.Unrolled(2)(problem, theta, phi)
    for engine in ("linear", "forward"):
        with pytest.raises(MissingDerivativeError, match="_grouped_mm has none"):
            vfunc.FirstOrder(engine=engine)(problem, theta, phi)
    certified = vfunc.certify(problem, theta, phi, vfunc.FirstOrder(), directions=1, quiet=True)
    assert [(row.engine, row.verdict) for row in certified.estimators] == [("reverse", "exact")]
    module.set_experts_implementation("eager")
    plain = replace(problem, linear=None)  # looked at anew: another piece of code
    assert measures.apart(found.grad, vfunc.FirstOrder()(plain, theta, phi).grad) < 1e-4
    assert measures.apart(ahead.grad, vfunc.Unrolled(2)(plain, theta, phi).grad) < 1e-4


@pytest.mark.usefixtures("float64")
def test_a_function_without_a_tangent_behind_a_linear_form_is_certified_by_another_engine():
    torch.manual_seed(0)
    f = vfunc.functional(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    x = measures.normal(measures.generator(0), 5, 3)
    problem, theta, phi = linear_in_q(lambda th: Cube.apply(f(th, x)), f.theta, (5, 2))
    problem = replace(problem, batches=problem.batches[:1])  # fewer lookaheads, less time
    found = vfunc.certify(problem, theta, phi, directions=1, quiet=True)
    by = {row.subject: row for row in found.estimators if row.engine in ("auto", "reverse")}
    assert found.certified
    for name in ("first_order dot", "first_order preconditioned", "unrolled 1"):
        assert by[name].verdict == "exact", by[name]


def test_what_is_certified_is_the_code_that_runs():
    """Encoder layers in eval mode take a fused kernel, but not inside the float64 of a check."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    f = vfunc.functional(nn.TransformerEncoder(layer, 1).eval())
    x = torch.randn(3, 5, 8)
    problem, theta, phi = linear_in_q(lambda th: f(th, x), f.theta, (3, 5, 8))
    with pytest.raises(RuntimeError, match="_transformer_encoder_layer_fwd"):
        trees.tangent_along(lambda th: f(th, x), theta, theta)
    # both take a part of the layers by themselves, and so keep them from their fused kernel
    for engine in ("auto", "linear", "forward"):
        estimator = vfunc.FirstOrder(engine=engine)
        assert vfunc.certify(problem, theta, phi, estimator, directions=1, quiet=True).certified
