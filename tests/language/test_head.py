"""The head apart: the same tangent as forward mode through the logits, in less memory and work."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import vfunc
from vfunc import trees
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.language.data.examples import TokenBatch
from vfunc.language.learner import LanguageLearner
from vfunc.language.soft_targets.soft_loss import candidate_log_probs

V, B, T, K = 211, 2, 7, 5
SIZES = {"vocab_size": V, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
SIZES |= {"intermediate_size": 24, "bos_token_id": 0, "eos_token_id": 0}


def qwen(tied=True, **sizes):
    config = Qwen2Config(**(SIZES | sizes), num_key_value_heads=1, tie_word_embeddings=tied)
    return Qwen2ForCausalLM(config)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=32, n_embd=16, n_layer=3, n_head=2))


def phi():
    """Its head has a bias."""
    return PhiForCausalLM(PhiConfig(**SIZES, resid_pdrop=0.0))


@pytest.fixture(autouse=True)
def attention():
    """The kernel that the engine keeps attention on."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def in_eval(make):
    torch.manual_seed(0)
    return make().eval()


def batch(seed=0):
    drawn = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (B, T + 1), generator=drawn)
    predict = torch.rand(B, T, generator=drawn) > 0.3
    return TokenBatch(tokens, predict, torch.zeros_like(predict))


def both(model, subset, dtype=None):
    """The tangent by the head apart, and by forward mode through the logits."""
    functional = vfunc.functional(model, subset)
    texts = batch()
    learner = LanguageLearner(functional, dtype).cut(texts)
    assert learner.head is not None
    theta = functional.theta
    drawn = torch.Generator().manual_seed(1)
    w = {n: torch.randn(x.shape, generator=drawn).to(x) for n, x in theta.items()}
    ids = torch.randint(V, (B, T, K), generator=drawn)
    weight = texts.predict.float()

    def log_probs(at):
        return candidate_log_probs(learner.logits(at, texts.inputs, dropout=True), ids, weight)

    ours = learner.log_probs_along(theta, w, texts.inputs, ids, weight)
    return ours, trees.tangent_along(log_probs, theta, w)[1]


@pytest.mark.parametrize("subset", ["last:1", "all"])
@pytest.mark.parametrize("make", [qwen, lambda: qwen(tied=False), gpt2, phi])
def test_the_tangent_is_that_of_forward_mode(make, subset):
    ours, expected = both(in_eval(make).double(), subset)
    # transformers' norms compute in float32 whatever the model's dtype
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
    assert not bool(ours[~batch().predict].any()) and bool(ours.any())


def test_it_is_in_the_precision_of_the_pass():
    ours, expected = both(in_eval(qwen), "all", torch.bfloat16)
    assert ours.dtype == expected.dtype == torch.float32
    assert float((ours - expected).norm() / expected.norm()) < 0.02
    exact, _ = both(in_eval(qwen), "all")
    assert float((ours - exact).norm() / exact.norm()) > 1e-4


def test_the_live_learner_is_as_it_was():
    model = in_eval(qwen)
    before = copy.deepcopy(model.state_dict())
    both(model, "last:1")
    assert "forward" not in vars(model.lm_head)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def capped():
    config = Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8, final_logit_softcapping=30.0)
    return Gemma2ForCausalLM(config)


def scaled():
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25))


def hooked():
    model = qwen()
    model.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
    return model


def adapted():
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM")
    return get_peft_model(qwen(tied=False), config)


@pytest.mark.parametrize("make", [capped, scaled, hooked, adapted])
def test_logits_that_are_more_than_a_linear_layer_are_left_to_forward_mode(make):
    functional = vfunc.functional(in_eval(make), "last:1" if make is not adapted else "lora")
    assert LanguageLearner(functional).cut(batch()).head is None


def test_an_adapted_body_keeps_its_head():
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    ours, expected = both(in_eval(lambda: get_peft_model(qwen(), config)), "lora")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_neither_logits_nor_their_tangent_exist_and_a_frozen_head_costs_two_products(monkeypatch):
    size = 20_000
    model = in_eval(lambda: qwen(vocab_size=size))
    functional = vfunc.functional(model, "last:1")
    texts = batch()
    learner = LanguageLearner(functional).cut(texts)
    theta, ids = functional.theta, torch.zeros(B, T, K, dtype=torch.long)
    weight = torch.ones(B, T)
    w = {n: torch.randn_like(x) for n, x in theta.items()}
    monkeypatch.setattr("vfunc.language.soft_targets.soft_loss.CPU_CHUNK_ELEMENTS", 2 * size)

    def along():
        return learner.log_probs_along(theta, w, texts.inputs, ids, weight)

    with counting_peak(torch.device("cpu")) as counter:
        along()
    assert counter.peak < B * T * size * 4
    with FlopCounterMode(display=False) as whole:
        along()
    with FlopCounterMode(display=False) as body, learner.head.left_out(model):
        trees.tangent_along(lambda at: learner.logits(at, texts.inputs, dropout=True), theta, w)
    products = (whole.get_total_flops() - body.get_total_flops()) / (2 * B * T * size * 16)
    assert products == 2 + K / size  # and the candidates' own entries
