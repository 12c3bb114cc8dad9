"""How sure a classifier is, and how often it is right."""

import numpy as np
import pytest

import utils


@pytest.fixture(scope="module")
def chances():
    """Return the probabilities of two classifiers for 2,000 photos, and the labels."""
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.full(6, 0.4), 2000)
    labels = np.array([rng.choice(6, p=chances) for chances in honest])
    boastful = honest**3 / (honest**3).sum(axis=1, keepdims=True)
    return {"honest": honest, "boastful": boastful}, labels


def test_calibration_compares_confidence_and_accuracy_bin_by_bin():
    """Two photos at 0.6, one right; three at 0.95, all right; one at 1.0, wrong."""
    labels = np.array([0, 1, 2, 3, 4, 0])
    sure = [0.6, 0.6, 0.95, 0.95, 0.95, 1.0]
    predicted = [0, 0, 2, 3, 4, 5]
    probabilities = np.repeat((1 - np.array(sure))[:, None] / 5, 6, axis=1)
    probabilities[np.arange(6), predicted] = sure
    table = utils.calibration(probabilities, labels)
    np.testing.assert_allclose(table["confidence"], [0.6, 3.85 / 4])
    np.testing.assert_allclose(table["accuracy"], [0.5, 0.75])
    assert list(table["photos"]) == [2, 4]
    expected = (2 * 0.1 + 4 * (3.85 / 4 - 0.75)) / 6
    assert utils.calibration_error(table) == pytest.approx(expected)


def test_the_calibration_error_tells_honest_from_boastful(chances):
    probabilities, labels = chances
    honest, boastful = (
        utils.calibration_error(utils.calibration(given, labels))
        for given in probabilities.values()
    )
    assert honest < 0.04
    assert boastful > 0.1
