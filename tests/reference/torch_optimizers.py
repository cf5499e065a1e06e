"""Slow oracle of torch.optim: every update written out from its documentation.

In plain arithmetic, so that it serves torch's tensors, differentiated by autograd, and mpmath's
numbers of fifty digits. Nothing of the package's simulation is used.
"""

from __future__ import annotations

import math

import mpmath
import torch


def _larger(a, b):
    return torch.maximum(a, b) if isinstance(a, torch.Tensor) else max(a, b)


def _sign(x):
    return x.sign() if isinstance(x, torch.Tensor) else mpmath.sign(x)


def _zero(x):
    return 0 * x


def _seen(p, g, o):
    g = -g if o["maximize"] else g
    decay = o.get("weight_decay", 0)
    if o.get("decoupled_weight_decay"):
        return p - o["lr"] * decay * p, g
    return p, g + decay * p


def sgd(p, g, s, t, o):
    p, g = _seen(p, g, o)
    if not o["momentum"]:
        return p - o["lr"] * g, {}
    b = o["momentum"] * s["momentum_buffer"] + (1 - o["dampening"]) * g if s else g
    return p - o["lr"] * (g + o["momentum"] * b if o["nesterov"] else b), {"momentum_buffer": b}


def _moments(g, s, o):
    b1, b2 = o["betas"]
    m = b1 * s.get("exp_avg", _zero(g)) + (1 - b1) * g
    v = b2 * s.get("exp_avg_sq", _zero(g)) + (1 - b2) * g**2
    return m, v


def adam(p, g, s, t, o):
    b1, b2 = o["betas"]
    p, g = _seen(p, g, o)
    m, v = _moments(g, s, o)
    after = {"exp_avg": m, "exp_avg_sq": v}
    if o["amsgrad"]:
        v = after["max_exp_avg_sq"] = _larger(s.get("max_exp_avg_sq", _zero(g)), v)
    return p - o["lr"] * m / (1 - b1**t) / ((v / (1 - b2**t)) ** 0.5 + o["eps"]), after


def nadam(p, g, s, t, o):
    b1, b2 = o["betas"]
    p, g = _seen(p, g, o)
    m, v = _moments(g, s, o)
    mus = [b1 * (1 - 0.96 ** (i * o["momentum_decay"]) / 2) for i in range(1, t + 2)]
    m_hat = mus[t] * m / (1 - math.prod(mus)) + (1 - mus[t - 1]) * g / (1 - math.prod(mus[:t]))
    after = {"exp_avg": m, "exp_avg_sq": v}
    return p - o["lr"] * m_hat / ((v / (1 - b2**t)) ** 0.5 + o["eps"]), after


def radam(p, g, s, t, o):
    b1, b2 = o["betas"]
    p, g = _seen(p, g, o)
    m, v = _moments(g, s, o)
    after = {"exp_avg": m, "exp_avg_sq": v}
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    m_hat = m / (1 - b1**t)
    if length <= 5:
        return p - o["lr"] * m_hat, after
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return p - o["lr"] * m_hat * r**0.5 * (1 - b2**t) ** 0.5 / (v**0.5 + o["eps"]), after


def adamax(p, g, s, t, o):
    b1, b2 = o["betas"]
    p, g = _seen(p, g, o)
    m = b1 * s.get("exp_avg", _zero(g)) + (1 - b1) * g
    u = _larger(b2 * s.get("exp_inf", _zero(g)), abs(g) + o["eps"])
    return p - o["lr"] * m / ((1 - b1**t) * u), {"exp_avg": m, "exp_inf": u}


def adagrad(p, g, s, t, o):
    p, g = _seen(p, g, o)
    total = s.get("sum", _zero(g) + o["initial_accumulator_value"]) + g**2
    return p - o["lr"] / (1 + (t - 1) * o["lr_decay"]) * g / (total**0.5 + o["eps"]), {"sum": total}


def rmsprop(p, g, s, t, o):
    a = o["alpha"]
    p, g = _seen(p, g, o)
    v = a * s.get("square_avg", _zero(g)) + (1 - a) * g**2
    after = {"square_avg": v}
    if o["centered"]:
        mean = after["grad_avg"] = a * s.get("grad_avg", _zero(g)) + (1 - a) * g
        v = v - mean**2
    d = g / (v**0.5 + o["eps"])
    if o["momentum"]:
        d = after["momentum_buffer"] = o["momentum"] * s.get("momentum_buffer", _zero(g)) + d
    return p - o["lr"] * d, after


def adadelta(p, g, s, t, o):
    rho, eps = o["rho"], o["eps"]
    p, g = _seen(p, g, o)
    u = s.get("acc_delta", _zero(g))
    v = rho * s.get("square_avg", _zero(g)) + (1 - rho) * g**2
    d = (u + eps) ** 0.5 / (v + eps) ** 0.5 * g
    return p - o["lr"] * d, {"square_avg": v, "acc_delta": rho * u + (1 - rho) * d**2}


def rprop(p, g, s, t, o):
    less, more = o["etas"]
    g = -g if o["maximize"] else g
    agree = _sign(g * s.get("prev", _zero(g))).detach()
    size = s.get("step_size", _zero(g) + o["lr"])
    size = (size * (1 + (agree > 0) * (more - 1) + (agree < 0) * (less - 1))).clamp(
        *o["step_sizes"]
    )
    g = g * (agree >= 0)
    return p - _sign(g) * size, {"prev": g, "step_size": size}


def asgd(p, g, s, t, o):
    p, g = _seen(p, g, o)

    def fallen(t):
        return o["lr"] / (1 + o["lambd"] * o["lr"] * t) ** o["alpha"] if t else o["lr"]

    eta = fallen(t - 1)
    p = (1 - o["lambd"] * eta) * p - eta * g
    mu = 1 / max(1, t - 1 - o["t0"])
    mean = s.get("ax", _zero(g))
    return p, {"ax": mean + mu * (p - mean)}


def muon(p, g, s, t, o):
    """The iteration in bfloat16, its slope that of the same iteration in p's precision."""
    b = o["momentum"] * s.get("momentum_buffer", _zero(g)) + (1 - o["momentum"]) * g
    x = (1 - o["momentum"]) * g + o["momentum"] * b if o["nesterov"] else b

    def iterated(x):
        a, b, c = o["ns_coefficients"]
        tall = len(x) > len(x.T)
        x = x.T if tall else x
        x = x / x.norm().clamp(min=o["eps"])
        for _ in range(o["ns_steps"]):
            square = x @ x.T
            x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x.T if tall else x

    smooth = iterated(x)
    rows, columns = p.shape
    ratio = {
        "original": max(1, rows / columns) ** 0.5,
        "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5,
        "spectral_unclamped": (rows / columns) ** 0.5,
    }[o["adjust_lr_fn"] or "original"]
    narrow = iterated(x.detach().bfloat16()).to(x.dtype)
    update = smooth + (narrow - smooth).detach()
    return p - o["lr"] * o["weight_decay"] * p - o["lr"] * ratio * update, {"momentum_buffer": b}


def adafactor(p, g, s, t, o):
    g = -g if o["maximize"] else g
    eps1, eps2 = o["eps"]
    eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
    w = t ** o["beta2_decay"]
    rate = (p**2).mean().sqrt().clamp(min=eps2) * min(o["lr"], t**-0.5)
    if g.dim() > 1:
        r = (1 - w) * s.get("row_var", 0) + w * (g**2).mean(-1, keepdim=True)
        c = (1 - w) * s.get("col_var", 0) + w * (g**2).mean(-2, keepdim=True)
        v, after = r @ c / r.mean(-2, keepdim=True).clamp(min=eps1), {"row_var": r, "col_var": c}
    else:
        v = (1 - w) * s.get("variance", _zero(g)) + w * g**2
        after = {"variance": v}
    u = g / v.clamp(min=eps1**2).sqrt()
    length = (u**2).mean().sqrt() / o["d"]
    return p - o["lr"] * o["weight_decay"] * p - rate * u / length.clamp(min=1.0), after


UPDATES = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adam,
    "NAdam": nadam,
    "RAdam": radam,
    "Adamax": adamax,
    "Adagrad": adagrad,
    "RMSprop": rmsprop,
    "Adadelta": adadelta,
    "Rprop": rprop,
    "ASGD": asgd,
    "Muon": muon,
    "Adafactor": adafactor,
}
