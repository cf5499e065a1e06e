"""Classifies pictures from frozen features, by a linear probe and by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from vfunc.errors import UserError
from vfunc.typecheck import typed


@dataclass(frozen=True)
class Accuracy:
    """The share of test pictures whose class is right, and 1 or 0 for each of them."""

    accuracy: float
    correct: tuple[float, ...]


@typed
def linear_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    regularisation: float = 1.0,
) -> Accuracy:
    """Logistic regression on features standardised by the training pictures.

    Args:
        train: features of the training pictures.
        train_labels: their classes.
        test: features of the test pictures.
        test_labels: their classes; one that no training picture has is never right.
        regularisation: the strength of the L2 penalty, 1 / C of scikit-learn, on the sum of the
            training pictures' losses.

    Raises:
        UserError: no test pictures, or training pictures of fewer than two classes.
    """
    _require(train_labels, test_labels)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / regularisation, max_iter=2000, tol=1e-4)
    )
    return _accuracy(model, train, train_labels, test, test_labels)


@typed
def knn_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Accuracy:
    """Votes of the nearest neighbours by cosine, each weighted by exp(cosine / temperature).

    As DINO evaluates features (Caron et al. 2021, after Wu et al. 2018, arXiv 1805.01978).

    Args:
        train: features of the training pictures.
        train_labels: their classes.
        test: features of the test pictures.
        test_labels: their classes.
        neighbours: number of neighbours, k; all training pictures where they are fewer.
        temperature: temperature of the weights.

    Raises:
        UserError: no test pictures, or training pictures of fewer than two classes.
    """
    _require(train_labels, test_labels)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp(-distance / temperature)

    k = min(neighbours, len(train))
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)  # pyright: ignore[reportArgumentType]  sklearn annotates the default alone
    return _accuracy(model, train, train_labels, test, test_labels)


def _require(train_labels: Tensor, test_labels: Tensor) -> None:
    if not len(test_labels):
        raise UserError("no test picture has a class: accuracy is not defined")
    found = len(train_labels.unique())
    if found < 2:
        raise UserError(
            f"the {len(train_labels)} training pictures are of {found} class(es), and a "
            "classifier needs two: take more of them"
        )


def _accuracy(
    model: Any,
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
) -> Accuracy:
    # in float64, so that equal features are at equal distances
    model.fit(train.double().cpu().numpy(), train_labels.cpu().numpy())
    predicted = model.predict(test.double().cpu().numpy())
    correct = (predicted == test_labels.cpu().numpy()).astype(float)
    return Accuracy(float(correct.mean()), tuple(correct.tolist()))
