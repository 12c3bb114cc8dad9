"""
Calibration (section 10): is a classifier as often right as it is confident?

Temperature, abstention threshold, reliability and intervals of probabilities that are given.
Knows nothing of images and models.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest


def accuracy(right: Sequence[bool]) -> pd.Series:
    """Return the share of True, its 95% interval (Wilson, 1927) and the number of photos."""
    hits, n = int(np.sum(right)), len(right)
    if not n:  # nothing is known
        return pd.Series({"accuracy": np.nan, "from": 0.0, "to": 1.0, "photos": 0})
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return pd.Series({"accuracy": hits / n, "from": low, "to": high, "photos": n})


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities whose logarithms were divided by a temperature."""
    powers = np.asarray(probabilities, "float64") ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    Return the temperature at which the labels of held-out photos are likeliest.

    One number that makes a classifier as sure as it is right (Guo et al., 2017). It is above
    1 where the classifier was too sure, below 1 where it was not sure enough, as label
    smoothing makes it. At least 1/4 and at most 4: beyond, it tells more of too few photos.
    """

    def loss(logarithm: float) -> float:
        chances = temper(probabilities, np.exp(logarithm))[np.arange(len(labels)), labels]
        return -np.log(np.maximum(chances, 1e-12)).mean()

    logarithm = minimize_scalar(loss, bounds=(-4, 4), method="bounded").x
    return float(np.clip(np.exp(logarithm), 1 / 4, 4))


def fit_threshold(
    probabilities: np.ndarray, labels: np.ndarray, *, accuracy: float = 0.98
) -> float:
    """
    Return the probability below which a classifier is to be unsure.

    At this threshold, the largest share of held-out photos is answered of which at least
    `accuracy` are right. Infinite, so that all are unsure, where no share reaches that.
    """
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    confidence = probabilities.max(axis=1)[order]
    right = (probabilities.argmax(axis=1) == labels)[order]
    share_right = np.cumsum(right) / np.arange(1, len(right) + 1)
    following = np.append(confidence[1:], 0)
    possible = np.flatnonzero((share_right >= accuracy) & (confidence > following))
    if not len(possible):
        return float("inf")
    return float((confidence[possible[-1]] + following[possible[-1]]) / 2)


def calibration(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 10) -> pd.DataFrame:
    """
    Compare how sure a classifier is with how often it is right.

    Parameters
    ----------
    probabilities : ndarray, shape (n, classes)
    labels : ndarray of int, shape (n,)
        The number of each photo's class, as that of its column of probabilities.
    bins : int
        Photos are grouped by their confidence, the probability of the predicted class,
        into so many bins of equal width.

    Returns
    -------
    DataFrame
        One row for each bin that holds a photo: the mean `confidence`, the `accuracy` and
        the number of `photos`.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    table = pd.DataFrame({"confidence": confidence, "accuracy": right, "photos": 1})
    groups = table.groupby(np.minimum((confidence * bins).astype(int), bins - 1))
    return groups.agg({"confidence": "mean", "accuracy": "mean", "photos": "sum"})


def calibration_error(table: pd.DataFrame) -> float:
    """
    Return the expected calibration error of a table of `calibration`.

    It is the mean over all photos of the distance between confidence and accuracy of their
    bin (Guo et al., 2017).
    """
    distance = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(distance, weights=table["photos"]))
