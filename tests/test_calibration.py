"""How sure a classifier is, and how often it is right."""

import numpy as np
import pytest
from conftest import held_out
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal

from scenes import calibration

pytestmark = pytest.mark.quick


def with_confidence(
    confidence: list[float], correct: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of three classes with these confidences, and the labels."""
    predicted = np.arange(len(confidence)) % 3
    probabilities = np.repeat((1 - np.array(confidence))[:, None] / 2, 3, axis=1)
    probabilities[np.arange(len(confidence)), predicted] = confidence
    return probabilities, np.where(correct, predicted, (predicted + 1) % 3)


def test_reliability_compares_confidence_and_accuracy_in_bins_of_equal_mass():
    probabilities, labels = with_confidence(
        [0.9, 0.6, 1.0, 0.7, 0.95, 0.8], [1, 0, 1, 1, 0, 1]
    )
    table = calibration.reliability(probabilities, labels, bins=3)
    assert_allclose(table["confidence"], [0.65, 0.85, 0.975])
    assert_allclose(table["accuracy"], [0.5, 1, 0.5])
    assert list(table["photos"]) == [2, 2, 2]
    expected = calibration.accuracy([True, False])[["ci_low", "ci_high"]]
    assert_allclose(table.loc[0, ["ci_low", "ci_high"]].astype(float), expected)
    error = calibration.expected_calibration_error(table)
    assert error == pytest.approx((0.15 + 0.15 + 0.475) / 3)


def test_photos_of_the_same_confidence_share_a_bin_and_the_error_is_weighted_by_photos():
    probabilities, labels = with_confidence([0.5, 0.6, 1, 1, 1, 1], [1, 0, 1, 1, 1, 0])
    table = calibration.reliability(probabilities, labels, bins=6)
    assert_allclose(table["confidence"], [0.5, 0.6, 1])
    assert list(table["photos"]) == [1, 1, 4]
    error = calibration.expected_calibration_error(table)
    assert error == pytest.approx((0.5 + 0.6 + 4 * 0.25) / 6)
    assert len(calibration.reliability(*with_confidence([0.4] * 20, [1] * 20))) == 1


@pytest.mark.parametrize("photos", [3, 100, 3001])
def test_reliability_has_15_bins_of_as_many_photos_as_there_are(photos):
    confidence = default_rng(0).uniform(0.4, 1, photos)
    table = calibration.reliability(*with_confidence(list(confidence), [1] * photos))
    assert len(table) == min(photos, 15)
    assert table["photos"].sum() == photos
    assert np.ptp(table["photos"]) <= 1
    assert table["confidence"].is_monotonic_increasing


# --- How sure -------------------------------------------------------------------------


def drawn_probabilities(
    temperature: float, n: int = 20_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that are too sure by a known temperature, and labels."""
    rng = default_rng(0)
    honest = rng.dirichlet(np.full(4, 0.5), n)
    labels = (
        (honest.cumsum(axis=1) < rng.random((len(honest), 1))).sum(axis=1).clip(0, 3)
    )
    return calibration.apply_temperature(
        np.maximum(honest, 1e-9), 1 / temperature
    ), labels


@pytest.mark.parametrize("photos", [40, 3000])
def test_one_in_twenty_calibrated_classifiers_exceeds_the_error_by_chance(photos):
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([0.2] * 6, photos)
    errors = []
    for _ in range(300):
        draws = rng.random((photos, 1)) < probabilities.cumsum(axis=1)
        table = calibration.reliability(probabilities, draws.argmax(axis=1))
        errors.append(calibration.expected_calibration_error(table))
    limit = calibration.error_by_chance(probabilities)
    assert 0.01 < np.mean(np.array(errors) > limit) < 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_that_is_known_is_found(temperature):
    probabilities, labels = drawn_probabilities(temperature)
    found = calibration.fit_temperature(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    before, after = (
        calibration.expected_calibration_error(calibration.reliability(given, labels))
        for given in (
            probabilities,
            calibration.apply_temperature(probabilities, found),
        )
    )
    assert after < 0.01
    assert temperature == 1 or before > 0.05


@pytest.mark.parametrize("confidence", [0.6, 0.85, 0.99])
def test_photos_without_an_error_make_a_classifier_surer_the_more_they_are(confidence):
    """By hand, of two classes: the derivative of loss and prior is 0."""
    temperatures = []
    for n in (1, 10, 100):
        probabilities = np.tile([confidence, 1 - confidence], (n, 1))
        found = calibration.fit_temperature(probabilities, np.zeros(n, int))
        margin = np.log(confidence / (1 - confidence)) / found
        gained = n * margin / (1 + np.exp(margin))
        assert gained == pytest.approx(-np.log(found) / np.log(2) ** 2, abs=0.01)
        temperatures.append(found)
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] < 1


def test_few_photos_hardly_move_the_temperature_and_hundreds_of_errors_set_it():
    probabilities, labels = drawn_probabilities(3.0)
    assert 1 < calibration.fit_temperature(probabilities[:5], labels[:5]) < 2.5
    found = calibration.fit_temperature(probabilities[:2000], labels[:2000])
    assert found == pytest.approx(3, rel=0.1)
    wrong = np.tile([0.9, 0.1], (3, 1)), np.ones(3, int)
    assert 1 < calibration.fit_temperature(*wrong) < 4


def test_a_temperature_of_1_changes_nothing_and_no_label_ever_changes():
    probabilities, _ = drawn_probabilities(2.0)
    assert_allclose(calibration.apply_temperature(probabilities, 1), probabilities)
    for temperature in (0.3, 5):
        cooled = calibration.apply_temperature(probabilities, temperature)
        assert_allclose(cooled.sum(axis=1), 1)
        assert_array_equal(cooled.argmax(axis=1), probabilities.argmax(axis=1))


@pytest.mark.parametrize("accuracy", [0.8, 0.9, 0.95])
def test_the_threshold_answers_as_many_as_it_may_with_one_wrong_answer_more(accuracy):
    probabilities, labels = drawn_probabilities(1.0, n=2000)
    threshold = calibration.fit_threshold(probabilities, labels, accuracy=accuracy)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels

    def with_one_wrong(lowest):
        return np.mean([*right[confidence >= lowest], False])

    assert with_one_wrong(threshold) >= accuracy
    for lower in np.unique(confidence[confidence < threshold]):
        assert with_one_wrong(lower) < accuracy


def test_thresholds_at_the_ends_and_at_ties():
    sure = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    fit = calibration.fit_threshold
    assert fit(sure, np.array([1, 1, 1, 1])) == np.inf  # none is right: all are unsure
    right = np.array([0, 0, 0, 0])
    assert fit(sure, right, accuracy=0.8) == pytest.approx(0.3)  # 4 of 5
    tie = np.array([0, 0, 1, 0])
    assert fit(sure, tie, accuracy=0.5) == pytest.approx(0.3)  # 3 of 5
    assert fit(sure, tie, accuracy=0.76) == pytest.approx(0.85)  # both ties or none


@pytest.mark.parametrize(
    ("high", "n", "wrong", "threshold"),
    [
        (0.99, 48, 0, 0.98),  # the mean confidence of all 48 is 97.8%
        (0.996, 48, 0, 0.485),  # of all 48, 98.1%
        (0.99, 49, 0, 0.485),  # of 49 right answers and a wrong one, 98% are right
        (0.99, 48, 1, np.inf),
        (0.99, 1000, 20, np.inf),  # 980 of 1,000, but not with one more
    ],
)
def test_few_photos_need_confidence_and_many_one_wrong_answer_more(
    high, n, wrong, threshold
):
    confidence = [high] * 20 + [0.97] * (n - 20)
    correct = [0] * wrong + [1] * (n - wrong)
    given = with_confidence(confidence, correct)
    assert calibration.fit_threshold(*given) == pytest.approx(threshold)


def test_few_photos_promise_more_than_others_keep_half_as_often_as_the_best_coverage():
    """Of the Intel model: 83 photos of the validation set judged by the others."""
    probabilities, y = held_out()
    rng = default_rng(0)
    selective = []
    for _ in range(100):
        few = np.isin(np.arange(len(y)), rng.permutation(len(y))[:83])
        fitted = calibration.fit(probabilities[few], y[few])
        scaled = calibration.apply_temperature(probabilities, fitted["temperature"])
        curve = calibration.coverage_curve(scaled[few], y[few])
        best = curve.loc[curve["accuracy"] >= 0.98, "confidence"].min()
        confidence = scaled[~few].max(axis=1)
        correct = scaled[~few].argmax(axis=1) == y[~few]
        pair = (
            calibration.accuracy(correct[confidence >= threshold])["accuracy"]
            for threshold in (best, fitted["threshold"])
        )
        selective.append(list(pair))
    missed_by_best, missed_by_fitted = np.mean(np.array(selective) < 0.97, axis=0)
    assert missed_by_fitted < missed_by_best / 2


# --- Accuracy -------------------------------------------------------------------------


def test_accuracy_has_the_interval_of_wilson():
    """By hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964."""
    found = calibration.accuracy([True] * 8 + [False] * 2)
    assert found[["accuracy", "photos"]].to_list() == [0.8, 10]
    z = 1.959963985
    middle, half = 0.8 + z**2 / 20, z * (0.8 * 0.2 / 10 + z**2 / 400) ** 0.5
    assert found["ci_low"] == pytest.approx((middle - half) / (1 + z**2 / 10))
    assert found["ci_high"] == pytest.approx((middle + half) / (1 + z**2 / 10))
    assert calibration.accuracy([True] * 5)[["accuracy", "ci_high"]].to_list() == [1, 1]
    assert calibration.accuracy([False] * 5)[["accuracy", "ci_low"]].to_list() == [0, 0]


def test_each_point_of_the_coverage_curve_has_the_interval_of_its_photos():
    probabilities, y = with_confidence([0.9, 0.6, 1.0, 0.7], [1, 0, 1, 0])
    curve = calibration.coverage_curve(probabilities, y)
    assert list(curve["confidence"]) == [1.0, 0.9, 0.7, 0.6]
    for n, correct in enumerate(([1], [1, 1], [1, 1, 0], [1, 1, 0, 0]), start=1):
        expected = calibration.accuracy(correct)
        columns = ["accuracy", "ci_low", "ci_high"]
        assert_allclose(curve.loc[n - 1, columns], expected[columns])


def test_of_no_photos_nothing_is_known():
    found = calibration.accuracy([])
    assert np.isnan(found["accuracy"])
    assert list(found[["ci_low", "ci_high", "photos"]]) == [0, 1, 0]


@pytest.mark.parametrize("errors", [0, 3, 60])
def test_temperature_and_threshold_are_always_fitted_of_errors_few_or_many(errors):
    confidence = np.linspace(0.6, 0.999, 200)
    y = (np.arange(200) < errors).astype(int)  # the least confident are the wrong ones
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    temperature = calibration.fit_temperature(probabilities, y)
    calibrated = calibration.apply_temperature(probabilities, temperature)
    threshold = calibration.fit_threshold(calibrated, y)
    given = calibration.fit(probabilities, y)
    assert given == {"temperature": temperature, "threshold": threshold}
    assert temperature != 1
    covered = calibrated[:, 0] >= threshold
    assert covered.sum() == {0: 200, 3: 200, 60: 141}[errors]


def test_a_target_beside_the_interval_of_the_selective_accuracy_is_called_missed():
    """The intervals: 94.6% to 99.4% of 98 in 100, 94.3% to 96.5%, 99.6% to 100%."""
    describe = calibration.describe_target
    assert describe(np.arange(100) < 98).endswith("lies in its interval.")
    assert "98% lies above that interval: fewer" in describe(np.arange(1500) < 1433)
    assert "98% lies below that interval: the model" in describe([True] * 1000)
    assert describe([]).startswith("No photo is answered")


def test_a_percentage_has_its_confidence_interval():
    assert calibration.percent(np.arange(3000) < 2820) == "94.0% (93.1 to 94.8)"
    assert calibration.percent([]) == "undefined (no photos)"
