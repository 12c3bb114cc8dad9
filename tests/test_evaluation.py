"""
What is said of the results of a search and of a classifier's predictions: the best
setting, scores, errors.
"""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import scenes
from scenes import calibration, evaluation

pytestmark = pytest.mark.quick

COLUMNS = [*scenes.HYPERPARAMETERS, "fold", "epoch", *scenes.METRICS]


def results_of(figures: dict[tuple, list[list[tuple]]]) -> pd.DataFrame:
    """Return a table of (accuracy, loss) for each setting, fold and epoch."""
    rows = [
        (*setting, fold, epoch, 0.0, 0.0, loss, accuracy)
        for setting, folds in figures.items()
        for fold, epochs in enumerate(folds, start=1)
        for epoch, (accuracy, loss) in enumerate(epochs, start=1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


A, B, C = (0.001, 0.1, 1e-4), (0.001, 0.1, 1e-2), (0.005, 0.3, 1e-4)


@pytest.fixture
def three():
    """
    Return a search: A's means are 0.80 and 0.86, B's 0.90 and 0.70, C's 0.84 and 0.88.
    """
    of_a = [
        [(0.80, 0.5), (0.86, 0.4)],
        [(0.82, 0.5), (0.87, 0.4)],
        [(0.78, 0.5), (0.85, 0.4)],
    ]
    of_b = [
        [(0.94, 0.3), (0.70, 0.9)],
        [(0.91, 0.4), (0.70, 0.9)],
        [(0.85, 0.8), (0.70, 0.9)],
    ]
    of_c = [
        [(0.84, 0.3), (0.88, 0.3)],
        [(0.84, 0.3), (0.87, 0.3)],
        [(0.84, 0.3), (0.89, 0.3)],
    ]
    return results_of({A: of_a, B: of_b, C: of_c})


def test_the_best_setting_has_the_highest_mean_at_its_best_epoch(three):
    """
    By hand: in the folds, B is above C by 0.06, 0.04, -0.04 and above A by 0.08, 0.04,
    0.
    """
    sem = np.std([0.06, 0.04, -0.04], ddof=1) / 3**0.5
    best = evaluation.best_hyperparameters(three)
    names = [*scenes.HYPERPARAMETERS, "epochs"]
    assert best == dict(zip(names, (*B, 1), strict=True))
    ranked = evaluation.summarize(three)
    assert [tuple(row) for row in ranked[scenes.HYPERPARAMETERS].to_numpy()] == [
        B,
        C,
        A,
    ]
    assert list(ranked["epoch"]) == [1, 2, 2]
    assert_allclose(ranked["val_accuracy"], [0.90, 0.88, 0.86])
    assert_allclose(ranked["std"], [0.0021**0.5, 0.01, 0.01])
    assert_allclose(ranked["gap"], [0, 0.02, 0.04], atol=1e-12)
    assert_allclose(ranked["gap_sem"], [0, sem, 0.04 / 3**0.5])
    margin = 4.302653 * ranked["gap_sem"]  # Student's t with two degrees of freedom
    assert_allclose(ranked["gap_margin"], margin, atol=1e-7)


def test_the_variation_is_shared_out_among_the_hyperparameters():
    """
    By hand: the means of the rates are 0.3 apart, of the dropouts 0.1, of the decays 0;
    the rest, that of 0.2 between the decays at one rate alone, is how they act together.
    """
    accuracies = {}
    for rate, dropout, decay in product((0.1, 0.2), (0, 1), (0, 1)):
        together = 0.02 * (-1) ** (decay + (rate == 0.2))
        accuracies[rate, dropout, decay] = (
            0.3 * (rate == 0.2) + 0.1 * dropout + together
        )
    results = results_of({s: [[(a, 1.0)]] * 2 for s, a in accuracies.items()})
    summary = evaluation.summarize(results)
    shares = evaluation.variation_shares(summary)
    total = 0.15**2 + 0.05**2 + 0.02**2
    assert list(shares.index) == ["learning_rate", "dropout", "weight_decay"]
    expected = [0.15**2 / total, 0.05**2 / total, 0]
    assert_allclose(shares, expected, atol=1e-9)
    assert evaluation.variation_shares(summary.assign(val_accuracy=1.0)).empty


def results_with_best(
    values: dict[str, list[float]], best: dict[str, float]
) -> pd.DataFrame:
    """Return results of a grid, in which one setting is the best."""
    settings = [
        dict(zip(values, row, strict=True)) for row in product(*values.values())
    ]
    return results_of(
        {tuple(s.values()): [[(float(s == best), 1.0)]] * 2 for s in settings}
    )


VALUES = {"learning_rate": [0.0005, 0.001, 0.005], "dropout": [0, 0.3, 0.5]}
VALUES |= {"weight_decay": [0, 1e-4, 0.01]}
MIDDLE = {"learning_rate": 0.001, "dropout": 0.3, "weight_decay": 1e-4}


@pytest.mark.parametrize(
    ("best", "extremes"),
    [
        ({}, []),
        ({"dropout": 0, "weight_decay": 0}, []),
        ({"learning_rate": 0.005}, ["learning rate, 0.005, is the largest"]),
        (
            {"learning_rate": 0.0005, "weight_decay": 0.01},
            [
                "learning rate, 0.0005, is the smallest",
                "weight decay, 0.01, is the largest",
            ],
        ),
    ],
)
def test_a_best_value_at_an_edge_of_the_grid_is_named(best, extremes):
    said = evaluation.describe_edge(
        results_with_best(VALUES, MIDDLE | best)
    ).splitlines()
    for line, extreme in zip(said, extremes, strict=True):
        assert line.startswith(
            f"The best {extreme} of the grid; one beyond it, added to "
        )


def test_a_list_of_one_value_has_no_edge():
    one = {name: [value] for name, value in MIDDLE.items()}
    assert evaluation.describe_edge(results_with_best(one, MIDDLE)) == ""


def test_a_best_value_that_ties_with_another_one_is_no_edge():
    results = results_with_best(VALUES, MIDDLE | {"dropout": 0.5})
    setting = results[["learning_rate", "weight_decay"]].eq([0.001, 1e-4]).all(axis=1)
    results.loc[setting & (results["dropout"] == 0), "val_accuracy"] = 1.0
    assert evaluation.describe_edge(results) == ""


def test_other_folds_choose_setting_and_epoch():
    """
    By hand: the other folds' means choose B, 0.9, for fold 1, A, 0.8, and A's epoch 2,
    0.865.
    """
    accuracies = {
        A: [(0.9, 0.88), (0.8, 0.85), (0.7, 0.6)],
        B: [(0.6, 0.1), (0.9, 0.1), (0.9, 0.1)],
    }
    results = results_of(
        {s: [[(a, 1) for a in fold] for fold in t] for s, t in accuracies.items()}
    )
    assert evaluation.accuracy_by_other_folds(results) == pytest.approx(
        (0.6 + 0.8 + 0.6) / 3
    )


@pytest.mark.parametrize("order", [1, -1])
def test_equal_accuracy_is_decided_by_lower_loss_and_then_by_order(order):
    """The means are equal though 0.1 + 0.2 and 0.3 + 0.0 differ in the last digit."""
    of_c = [[(0.1, 0.4)] * 2, [(0.2, 0.5)] * 2]
    of_b, of_a = [[(0.3, 0.4)], [(0.0, 0.5)]], [[(0.1, 0.5)], [(0.2, 0.5)]]
    results = results_of({A: of_a, B: of_b, C: of_c})[::order]
    ranked = evaluation.rank_epochs(results)
    found = ranked[[*scenes.HYPERPARAMETERS, "epoch"]].to_numpy()
    assert list(map(tuple, found)) == [(*B, 1), (*C, 1), (*C, 2), (*A, 1)]
    assert ranked["gap"].iloc[1] == pytest.approx(0, abs=1e-12)


# --- What is said of a classifier's answers -------------------------------------------

LABELS = pd.Series(pd.Categorical(list("aaaabbbc"), list("abcd")))
GUESSES = list("aaabbbac")


def of_models(classes="aabb", **probabilities):
    """Return the predictions of models for photos of the classes a, a, b, b."""
    images = pd.DataFrame({"label": pd.Categorical(list(classes))})
    images["path"] = images.index.astype(str)
    tables = [
        evaluation.predictions_table(images, np.array(p), n)
        for n, p in probabilities.items()
    ]
    return pd.concat(tables)


RIGHT, WRONG = [[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2, [[0.9, 0.1]] * 4
UNSURE = [[0.6, 0.4]] * 2 + [[0.4, 0.6]] + [[0.9, 0.1]]  # one confident error
BOLD = [[0.99, 0.01]] * 2 + [[0.01, 0.99]] + [[0.55, 0.45]]  # one that is not


def test_predictions_keep_the_digits_that_a_temperature_is_fitted_on():
    """Rounded to 0, the probability of a confident error would no longer count."""
    sharp = np.array([[1 - 1e-8, 1e-8]] * 4, "float32")
    table = of_models(head=sharp)
    assert_array_equal(table[["a", "b"]], sharp)
    assert (table["b"] > 0).all()


def test_the_model_with_the_highest_validation_accuracy_is_selected():
    table = evaluation.compare_models(of_models(head=WRONG, tuned=RIGHT, other=UNSURE))
    assert list(table.index) == ["tuned", "other", "head"]
    assert list(table["accuracy"]) == [1, 0.75, 0.5]
    assert list(table["photos"]) == [4, 4, 4]
    assert evaluation.describe_choice(table) == (
        "In this run, on 4 validation photos, the accuracy of 'tuned' is 100.0%, that of 'head' "
        "50.0%: a difference of 50.0 points (95%: -26.3 to 93.0), a tie. Selected is "
        "'tuned', which ties with 'other'."
    )
    kept = evaluation.compare_models(of_models(head=RIGHT, tuned=WRONG))
    told = evaluation.describe_choice(kept)
    assert "'head' is 100.0%, that of 'tuned' 50.0%" in told
    assert told.endswith("a tie. Selected is 'head'.")
    alone = evaluation.describe_choice(kept.loc[["head"]])
    assert alone == "In this run, nothing was fine-tuned: the head is selected."


def test_a_difference_that_is_measurable_is_no_tie():
    table = evaluation.compare_models(
        of_models(head=WRONG * 20, tuned=RIGHT * 20, classes="aabb" * 20)
    )
    told = evaluation.describe_choice(table)
    assert "80 validation photos" in told
    assert "tie" not in told


def test_the_difference_of_two_models_has_an_interval_of_paired_photos():
    """
    By hand, for 115 photos won and 43 lost of 3,000: (116 - 44) / 3,002, and its
    standard error, the root of (160 / 3,002 - that squared) / 3,002.
    """
    n = np.arange(3000)
    first, second = n < 115, (n >= 115) & (n < 158)
    difference, low, high = evaluation.accuracy_difference(first, second)
    middle = 72 / 3002
    half = 1.959964 * ((160 / 3002 - middle**2) / 3002) ** 0.5
    assert difference == pytest.approx(2.4)
    assert (low, high) == pytest.approx((100 * (middle - half), 100 * (middle + half)))
    told = evaluation.describe_difference(difference, low, high)
    assert told == "2.4 points (95%: 1.6 to 3.2)"
    back = evaluation.accuracy_difference(second, first)
    assert back == pytest.approx((-2.4, -high, -low))


def test_the_difference_of_balanced_accuracies_is_the_mean_over_the_classes():
    classes = np.repeat([0, 1], [900, 100])
    won = np.r_[np.arange(900) < 90, np.zeros(100, bool)]
    difference, low, high = evaluation.accuracy_difference(
        won, np.zeros(1000, bool), classes
    )
    assert difference == pytest.approx((10 + 0) / 2)
    parts = [(91, 1, 902), (1, 1, 102)]  # won, lost and photos, one and two more each
    middle = np.mean([(b - c) / n for b, c, n in parts])
    variances = [((b + c) / n - ((b - c) / n) ** 2) / n for b, c, n in parts]
    half = 1.959964 * sum(variances) ** 0.5 / 2
    assert (low, high) == pytest.approx((100 * (middle - half), 100 * (middle + half)))


def test_ties_in_accuracy_are_broken_by_the_log_loss_after_temperature_scaling():
    table = evaluation.compare_models(of_models(first=UNSURE, second=BOLD))
    assert table["accuracy"].nunique() == 1
    assert list(table.index) == ["second", "first"]
    sharp = np.array(BOLD * 100)
    flat = sharp**0.4 / (sharp**0.4).sum(axis=1, keepdims=True)
    table = evaluation.compare_models(
        of_models(sharp=sharp, flat=flat, classes="aabb" * 100)
    )
    losses = table["log_loss"]
    assert losses["sharp"] == pytest.approx(losses["flat"], abs=1e-3)


def test_balanced_class_weights_compare_balanced_accuracies():
    images = pd.DataFrame(
        {"path": list("12345"), "label": pd.Categorical(list("aaaab"))}
    )
    always_a = evaluation.predictions_table(images, np.array([[0.9, 0.1]] * 5), "head")
    assert evaluation.compare_models(always_a)["accuracy"].item() == 0.8
    balanced = evaluation.compare_models(always_a, class_weight="balanced")
    assert balanced["balanced accuracy"].item() == 0.5


@pytest.mark.parametrize("labels", ["aaba", "aab"])
def test_accuracy_is_also_given_without_corrections(labels):
    """UNSURE is wrong for the last photo, which is relabelled or left out."""
    original = pd.DataFrame({"label": pd.Categorical(list("aabb"))})
    corrected = pd.DataFrame({"label": pd.Categorical(list(labels))})
    models = {"head": np.array(UNSURE)}
    compare = evaluation.compare_accuracies
    table = compare(original, models, original)
    assert table["accuracy"].to_dict() == {"head": 0.75}
    table = compare(corrected, models, original)
    assert table["accuracy"].to_dict() == {"head": 1, "head, without corrections": 0.75}
    assert list(table["photos"]) == [len(labels), 4]


def test_scores_of_each_class_and_their_mean():
    """
    By hand: a is guessed 5 times, 3 of them right, and is 4 photos; d has no photo.
    """
    table = evaluation.scores_by_class(LABELS, list("aaabbaac"))
    assert list(table.index) == [*"abcd", "mean of the classes"]
    assert list(table["support"]) == [4, 3, 1, 0, 8]
    assert_allclose(table["precision"], [3 / 5, 1 / 2, 1, 0, 7 / 10])
    assert_allclose(table["recall"], [3 / 4, 1 / 3, 1, 0, 25 / 36])
    assert_allclose(table["F1"], [2 / 3, 2 / 5, 1, 0, 31 / 45])
    interval = calibration.accuracy([True, False, False])[["ci_low", "ci_high"]]
    assert list(table.loc["b", ["recall ci_low", "recall ci_high"]]) == list(interval)
    assert table.loc[["d", "mean of the classes"], "recall ci_low"].isna().all()


def test_the_most_frequent_errors_are_listed_by_pair_of_classes():
    """Of equally frequent ones, the first by name."""
    pairs = evaluation.confused_pairs(LABELS, list("abbcaabc"))
    expected = {("a", "b"): 2, ("b", "a"): 2, ("a", "c"): 1}
    assert pairs["photos"].to_dict() == expected
    assert list(pairs.index) == list(expected)
    assert pairs.index.names == ["label", "predicted"]
    assert_allclose(pairs["share"], [2 / 4, 2 / 3, 1 / 4])
    first = evaluation.confused_pairs(LABELS, list("abbcaabc"), 1)
    pd.testing.assert_frame_equal(first, pairs[:1])
    assert evaluation.confused_pairs(LABELS, list(LABELS)).empty


def test_label_smoothing_sets_a_floor_to_the_loss():
    others = 0.1 / 6
    floor = -(0.9 + others) * np.log(0.9 + others) - 5 * others * np.log(others)
    assert evaluation.loss_floor(0.1, 6) == pytest.approx(floor)
    assert evaluation.loss_floor(0, 6) == 0


def test_the_most_confident_mistakes_come_first():
    images = pd.DataFrame(
        {"path": [f"{n}.jpg" for n in range(4)], "label": LABELS[[0, 1, 4, 7]]}
    )
    images.index = [7, 5, 3, 1]
    probabilities = np.array(
        [
            [0.1, 0.6, 0.2, 0.1],
            [0.9, 0.1, 0, 0],
            [0.1, 0.1, 0, 0.8],
            [0.4, 0.3, 0.2, 0.1],
        ]
    )
    table = evaluation.most_confident_errors(images, probabilities, n=2)
    assert list(table.index) == [3, 7]
    assert table.to_numpy().tolist() == [
        ["2.jpg", "b", "d", 0.8],
        ["0.jpg", "a", "b", 0.6],
    ]
    assert len(evaluation.most_confident_errors(images, probabilities)) == 3


# --- What an accuracy is worth --------------------------------------------------------


def test_folds_that_are_easier_than_the_validation_set_are_told():
    def correct(right, n):
        return np.arange(n) < right

    said = evaluation.describe_gap(correct(930, 1000), correct(67, 100))
    assert said.startswith(
        "Accuracy of the head in the folds: 93.0% (91.2 to 94.4), on the validation "
        "set: 67.0% (57.3 to 75.4).\nThe folds are easier: "
    )
    assert "GROUPS" in said
    for lower in (88, 95):  # their intervals overlap, or it is the other way round
        said = evaluation.describe_gap(correct(930, 1000), correct(lower, 100))
        assert said.endswith(").")


def test_what_may_flatter_a_model_is_told_beside_its_accuracy():
    correct = pd.Series([True] * 8 + [False] * 2)
    images = pd.DataFrame({"path": list("abcdefghij"), "group": list("xxyyyzzzzz")})
    images["corrected"] = images["path"] == "i"
    describe = evaluation.describe_doubts
    said = describe(images, correct, images[:3], 1).splitlines()
    assert said[0].startswith("Without the 3 test photos whose group (duplicates, look")
    assert said[0].endswith("is in another split, too: 71.4% (35.9 to 91.8)")
    assert said[1].startswith("The 10 test photos are of 3 groups, within which they")
    assert said[2].startswith("Labels of 2 test photos were corrected, or the photos")
    images = images.assign(group=images["path"], corrected=False)
    assert describe(images, correct, images[:0], 0).startswith("No test photo was cor")


def test_a_selected_head_is_not_compared_with_itself():
    correct, of_head = np.arange(100) < 80, np.arange(100) < 70
    said = evaluation.describe_gain("tuned", "this run", correct, of_head)
    assert said.startswith("'tuned' of this run against the head of this run: 10.0 poi")
    said = evaluation.describe_gain("head", "this run", correct, of_head)
    assert "points" not in said


def test_a_label_is_flagged_by_the_thresholds_of_the_classes():
    """By hand: the thresholds are 0.5, 0.41 and 0.28; class 3 has no photo and none."""
    probabilities = np.array(
        [
            [
                0.1,
                0.5,
                0.4,
                0.0,
            ],  # classes 1 and 2 reach theirs: the more probable is suggested
            [0.9, 0.1, 0.0, 0.0],
            [0.4, 0.6, 0.0, 0.0],
            [0.8, 0.2, 0.0, 0.0],
            [0.55, 0.43, 0.02, 0.0],  # class 0 reaches it, but so does the label
            [0.3, 0.2, 0.5, 0.0],
            [
                0.45,
                0.42,
                0.13,
                0.0,
            ],  # class 0 is more probable than class 1, but below its own
            [0.1, 0.1, 0.2, 0.6],  # class 3, the most probable, is never suggested
        ]
    )
    found = evaluation.flag_labels(probabilities, np.array([0, 0, 1, 1, 1, 2, 2, 2]))
    assert found.tolist() == [1, -1, -1, 0, -1, -1, 1, -1]


def test_flagged_labels_are_listed_by_their_difference_and_ties_by_path():
    """By hand: the thresholds are 0.55 (x) and 0.5 (y); rows 1, 2 and 4 are flagged."""
    probabilities = np.array(
        [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.4, 0.6], [0.7, 0.3], [0.4, 0.6]]
    )
    labels = pd.Categorical(list("xxxyyy"))
    images = pd.DataFrame({"path": list("fedcba"), "split": "train", "label": labels})
    images.index += 10
    table = evaluation.list_flagged_labels(images, probabilities)
    assert list(table.columns[:4]) == ["path", "label", "suggested", "split"]
    assert table.to_numpy().tolist() == [
        ["e", "x", "y", "train", 0.2, 0.8],
        ["b", "y", "x", "train", 0.3, 0.7],
        ["d", "x", "y", "train", 0.4, 0.6],
    ]
