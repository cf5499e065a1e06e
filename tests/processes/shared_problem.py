"""A value problem in shares of any size, for one process and for one of several."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from measures import generator, normal
from optimizers import Optimizer

import vfunc

FEATURES, HIDDEN, CLASSES = 3, 4, 3
BATCHES, EXAMPLES, LABELLED = 4, 7, 5


def problem_of(
    optimizer: Optimizer, shares: list[slice], feedback: list[slice], processes: vfunc.Processes
) -> tuple[vfunc.ValueProblem, dict, dict]:
    """A process's part of the problem, the learner and the designer.

    An expert sees the inputs that are positive throughout alone, and a process's share may hold
    none of them: its own loss does not reach the expert then. Nor has it a graph where its feedback
    is empty.

    Args:
        optimizer: the learner's.
        shares: the rows of the batches that each process holds.
        feedback: the rows of the feedback.
        processes: this one among them.
    """
    draw = generator(3)
    batches = [normal(draw, EXAMPLES, FEATURES) for _ in range(BATCHES)]
    for x in batches:
        x[0].abs_()  # one at least for the expert, and in the first share alone
        x[1:, 0] = -x[1:, 0].abs()
    labels = [torch.randint(0, CLASSES, (EXAMPLES,), generator=draw) for _ in range(BATCHES)]
    fx, fy = (
        normal(draw, LABELLED, FEATURES),
        torch.randint(0, CLASSES, (LABELLED,), generator=draw),
    )
    theta = {
        "w1": normal(draw, HIDDEN, FEATURES),
        "w2": normal(draw, CLASSES, HIDDEN) / 2,
        "expert": normal(draw, CLASSES, FEATURES),
    }
    phi = {"r": normal(draw, CLASSES, FEATURES), "gate": normal(draw)}

    def logits(theta, x):
        z = torch.tanh(x @ theta["w1"].T) @ theta["w2"].T
        seen = (x > 0).all(-1)
        if not bool(seen.any()):
            return z
        return z + (seen[:, None] * torch.tanh(x @ theta["expert"].T))

    def construct(phi, batch):
        x, y = batch
        r = F.softmax(torch.tanh(x) @ phi["r"].T, -1)
        alpha = 0.5 * torch.sigmoid(phi["gate"])
        return {"x": x, "q": (1 - alpha) * F.one_hot(y, CLASSES).to(r) + alpha * r}

    def coefficients(theta, task):
        return -F.log_softmax(logits(theta, task["x"]), -1) / EXAMPLES

    def parts(theta, task):
        return (task["q"] * coefficients(theta, task)).sum(-1)

    own, labelled = shares[processes.rank], feedback[processes.rank]

    def feedback_loss(theta):
        if not len(fy[labelled]):
            return torch.zeros((), dtype=fx.dtype)
        return (
            F.cross_entropy(logits(theta, fx[labelled]), fy[labelled], reduction="sum") / LABELLED
        )

    problem = vfunc.ValueProblem(
        construct,
        lambda theta, task: parts(theta, task).sum(),
        feedback_loss,
        tuple((x[own], y[own]) for x, y in zip(batches, labels, strict=True)),
        optimizer.rule(),
        optimizer.state(),
        linear=vfunc.LinearForm("q", coefficients),
        composite=vfunc.CompositeForm(
            lambda theta, task: logits(theta, task["x"]),
            lambda z, task: -(task["q"] * F.log_softmax(z, -1)).sum() / EXAMPLES,
        ),
        parts=parts,
        processes=processes,
    )
    return problem, theta, phi


def without_the_linear_form(problem: vfunc.ValueProblem) -> vfunc.ValueProblem:
    """For the engines that do not need one, which `auto` would not take."""
    return replace(problem, linear=None)
