"""Symmetric linear systems over parameter dicts, as matrices and as functions."""

from __future__ import annotations

import math

import measures
import torch

SHAPES = {"a": (2, 2), "b": (3,)}
N = 7


def named(vector, shapes=SHAPES):
    """A vector as a parameter dict."""
    parts = vector.split([math.prod(s) for s in shapes.values()])
    return {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}


def flat(params):
    """A parameter dict as a vector."""
    return torch.cat([x.flatten() for x in params.values()])


def matvec_of(matrix, shapes=SHAPES):
    """The matrix as a function of a parameter dict."""
    return lambda x: named(matrix @ torch.cat([x[n].flatten() for n in shapes]), shapes)


def counting(matvec):
    """The function, and a list that grows at every call."""
    calls = []

    def call(x):
        calls.append(1)
        return matvec(x)

    return call, calls


def right_hand_side(draw):
    """A random right-hand side."""
    return {n: measures.normal(draw, *s) for n, s in SHAPES.items()}


def symmetric(draw, eigenvalues):
    """A random symmetric matrix with these eigenvalues."""
    q, _ = torch.linalg.qr(measures.normal(draw, len(eigenvalues), len(eigenvalues)))
    return q @ torch.diag(torch.as_tensor(eigenvalues)) @ q.T
