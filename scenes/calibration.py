"""
Calibration (sections 9 and 10): is a classifier as accurate as it is confident?

Temperature, abstention threshold, reliability, coverage and confidence intervals. Works
on probabilities and labels; knows nothing of images and models.

Everywhere, `probabilities` is an ndarray of shape (n, n_classes) whose rows sum to 1,
and `y` an ndarray of int of shape (n,): the column of each image's label. A confidence
is the probability of the predicted class, the highest of a row. Shares, confidences and
accuracies are between 0 and 1.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import norm

TARGET = 0.98  # the selective accuracy that a threshold is fitted for


def accuracy(correct: Sequence[bool]) -> pd.Series:
    """
    Return the share of True, its 95% confidence interval (Wilson, 1927) and the count.

    Parameters
    ----------
    correct : sequence of bool, shape (n,)
        Whether each prediction is that of the label.

    Returns
    -------
    Series
        `accuracy`, `ci_low`, `ci_high` and `photos`. Of no photos the accuracy is NaN,
        and the interval is 0 to 1.
    """
    photos = len(correct)
    share = np.mean(correct) if photos else np.nan
    low, high = _wilson(share, photos) if photos else (0, 1)
    values = {"accuracy": share, "ci_low": low, "ci_high": high, "photos": photos}
    return pd.Series(values)


def _wilson(shares, n):
    """Return the 95% confidence interval of each share of n photos."""
    z = norm.ppf(0.975)
    scale = 1 + z**2 / n
    middle = shares + z**2 / (2 * n)
    variances = shares * (1 - shares) / n
    half = z * np.sqrt(variances + z**2 / (4 * n**2))
    # Of a share of 0 or 1, rounding would put an end beyond it.
    low = np.maximum(middle - half, 0) / scale
    high = np.minimum((middle + half) / scale, 1)
    return low, high


def percent(correct: Sequence[bool]) -> str:
    """
    Return the share of True with its 95% confidence interval, as '94.0% (93.1 to
    94.8)'; of no photos, 'undefined (no photos)'.
    """
    share, low, high, photos = accuracy(correct)
    if not photos:
        return "undefined (no photos)"
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """
    Return probabilities whose logarithms are divided by a temperature.

    The result has the shape of `probabilities` and is float64; its rows sum to 1.
    """
    powers = np.asarray(probabilities, "float64") ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, y: np.ndarray) -> float:
    """
    Return the temperature that minimizes the log loss on held-out data (Guo et al.,
    2017), with a prior.

    It is above 1 for an overconfident classifier, below 1 for an underconfident one,
    such as label smoothing trains.

    Notes
    -----
    The temperature rests on all images, but without an error among them, the log loss
    has no minimum: the lower, the better. So its logarithm has a normal prior, as the
    weights of a penalized logistic regression have. The mean is 0, since a classifier
    that minimizes the log loss needs no temperature; the standard deviation is ln 2, so
    that 95% of all temperatures lie between 1/4 and 4. It weighs as much as some five
    images.
    """
    rows = np.arange(len(y))

    def penalized_loss(logarithm):
        scaled = apply_temperature(probabilities, np.exp(logarithm))
        of_labels = np.maximum(scaled[rows, y], 1e-12)
        penalty = (logarithm / np.log(2)) ** 2 / 2
        return -np.log(of_labels).sum() + penalty

    found = minimize_scalar(penalized_loss, bounds=(-4, 4), method="bounded")
    return float(np.exp(found.x))


def coverage_curve(probabilities: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """
    Return `confidence`, `coverage`, selective `accuracy` and its 95% interval,
    `ci_low` and `ci_high`, most confident first.

    Row i is of the i + 1 most confident images: the confidence of the last of them,
    their share of all, and their accuracy.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == y
    order = np.argsort(-confidence, kind="stable")
    n = np.arange(1, len(order) + 1)
    accuracies = np.cumsum(correct[order]) / n
    table = pd.DataFrame({"confidence": confidence[order], "coverage": n / len(n)})
    table["accuracy"] = accuracies
    table["ci_low"], table["ci_high"] = _wilson(accuracies, n)
    return table


def fit_threshold(
    probabilities: np.ndarray, y: np.ndarray, *, accuracy: float = TARGET
) -> float:
    """
    Return the confidence below which a classifier abstains.

    It gives the largest coverage of held-out data at which the selective accuracy is at
    least `accuracy`, even if one more answer were wrong; infinity, so that the
    classifier always abstains, if there is none. So few images that this would always
    be too low (48 and fewer, for 98%) are covered if their accuracy and their mean
    confidence are at least `accuracy`.

    Notes
    -----
    The best of many coverages looks better than it is, the more so the fewer the images
    are. One more error makes up for that: it is the correction of conformal risk
    control (Angelopoulos et al., 2024), here without its guarantee, since a selective
    accuracy may rise as the threshold falls.
    """
    curve = coverage_curve(probabilities, y)
    covered = curve.index.to_series() + 1
    best_with_one_wrong = covered / (covered + 1)
    with_one_wrong = curve["accuracy"] * best_with_one_wrong
    mean_confidence = curve["confidence"].cumsum() / covered
    of_few = np.minimum(curve["accuracy"], mean_confidence)
    estimate = with_one_wrong.where(best_with_one_wrong >= accuracy, of_few).round(9)
    # Images of the same confidence are covered together.
    is_last = ~curve["confidence"].duplicated(keep="last")
    following = curve["confidence"].shift(-1, fill_value=0)
    between = (curve["confidence"] + following) / 2
    possible = between[is_last & (estimate >= accuracy)]
    return float(possible.iloc[-1]) if len(possible) else np.inf


def fit(probabilities: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """
    Return `temperature` and `threshold` for `build_classifier`, fitted on images that
    the classifier has not trained on.
    """
    temperature = fit_temperature(probabilities, y)
    scaled = apply_temperature(probabilities, temperature)
    threshold = fit_threshold(scaled, y)
    return {"temperature": temperature, "threshold": threshold}


def describe_target(correct: Sequence[bool]) -> str:
    """
    Return one line: does the interval of the selective accuracy hold the `TARGET`?

    `correct` says of each photo that is answered whether the answer is right.
    """
    if not len(correct):
        return f"No photo is answered: the target of {TARGET:.0%} cannot be judged."
    _, low, high, _ = accuracy(correct)
    said = f"Selective accuracy {percent(correct)}: the target of {TARGET:.0%} lies"
    if high < TARGET:
        return f"{said} above that interval: fewer answers are right than aimed at."
    if low > TARGET:
        return f"{said} below that interval: the model abstains more than it needs to."
    return f"{said} in its interval."


def reliability(
    probabilities: np.ndarray, y: np.ndarray, *, bins: int = 15
) -> pd.DataFrame:
    """
    Return mean `confidence`, `accuracy`, `ci_low`, `ci_high` and `photos` per bin of
    confidence.

    The bins, a row each from the lowest confidence on, are of equal mass: each holds
    the same number of photos (one more or less), but photos of the same confidence stay
    together.
    """
    confidence = pd.Series(probabilities.max(axis=1))
    correct = pd.Series(probabilities.argmax(axis=1) == y)
    groups = _bin(confidence, bins)
    table = correct.groupby(groups).apply(accuracy).unstack()
    table["photos"] = table["photos"].astype(int)
    table.insert(0, "confidence", confidence.groupby(groups).mean())
    return table


def _bin(confidence, bins):
    """Return the number of the bin of each confidence."""
    ranks = confidence.rank(method="min").astype(int) - 1
    return ranks * bins // len(confidence)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """
    Return the ECE of a table of `reliability`: the mean gap of confidence and accuracy.

    The mean over the bins is weighted by their photos (Guo et al., 2017).
    """
    gap = abs(table["confidence"] - table["accuracy"])
    return float(np.average(gap, weights=table["photos"]))


def error_by_chance(
    probabilities: np.ndarray, *, bins: int = 15, draws: int = 1000
) -> float:
    """
    Return the ECE that a calibrated classifier exceeds once in twenty times, by chance.

    So many times, it is drawn whether each prediction is right: with the probability
    that is its confidence. Then the ECE over the bins of `reliability` is computed.

    Parameters
    ----------
    probabilities : ndarray, shape (n, n_classes)
    bins, draws : int
    """
    confidence = pd.Series(probabilities.max(axis=1))
    groups = _bin(confidence, bins)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(draws):
        correct = rng.random(len(confidence)) < confidence
        gaps = np.bincount(groups, correct - confidence)
        errors.append(np.abs(gaps).sum() / len(confidence))
    return float(np.quantile(errors, 0.95))
