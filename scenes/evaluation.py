"""
Evaluation (sections 6, 8 and 9): results and predictions as tables.

Ranks settings, compares models, scores classes and flags labels. Trains nothing, and
knows nothing of files and networks.

Everywhere, `results` is the table of `grid_search`: a row for each setting (columns
`learning_rate`, `dropout`, `weight_decay`), `fold` and `epoch`, with `loss`,
`accuracy`, `val_loss` and `val_accuracy`. `images` is the table of the photos, whose
`label` is categorical. `probabilities` is an ndarray of shape (n, n_classes): row i is
of `images.iloc[i]`, the columns are in the order of `images["label"].cat.categories`.
Accuracies and probabilities are between 0 and 1.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import entropy, norm, t
from sklearn.metrics import log_loss, precision_recall_fscore_support

import scenes
from scenes import calibration


def _by_fold(results):
    """
    Return validation accuracies: a row for each setting and epoch, a column for each
    fold.
    """
    index = [*scenes.HYPERPARAMETERS, "epoch"]
    return results.pivot(index=index, columns="fold", values="val_accuracy")


def rank_epochs(results: pd.DataFrame) -> pd.DataFrame:
    """
    Return a row for each setting and epoch, the best first, with the columns of
    `summarize`.
    """
    folds = _by_fold(results)
    accuracies = folds.mean(axis=1)
    table = accuracies.round(9).to_frame("val_accuracy")
    losses = results.groupby(folds.index.names)["val_loss"]
    table["val_loss"] = losses.mean()
    table["std"] = folds.std(axis=1)
    # What is still equal stays in the order of the hyperparameters and epochs.
    table = table.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])
    differences = folds.loc[table.index[0]] - folds
    table["gap"] = differences.mean(axis=1)
    table["gap_sem"] = differences.sem(axis=1)
    return table.reset_index()


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """
    Return the settings of a grid search, the best first.

    Returns
    -------
    DataFrame
        One row for each setting, the best first: its best `epoch`, and there the mean
        over folds of `val_accuracy` and `val_loss`; `std`, the standard deviation of
        `val_accuracy` over folds; `gap`, by how much `val_accuracy` is lower than that
        of the best setting; `gap_sem`, the standard error of that gap (from the paired
        differences of the folds); and `gap_margin`, half its 95% confidence
        interval (Student's t with folds - 1 degrees of freedom; NaN for one fold). The
        best setting is the best by luck as well, so the gaps are a little too large.
        Accuracies that agree in 9 digits are ties, broken by lower loss.
    """
    ranked = rank_epochs(results)
    table = ranked.drop_duplicates(scenes.HYPERPARAMETERS, ignore_index=True)
    n_folds = results["fold"].nunique()
    margin = table["gap_sem"] * t.ppf(0.975, n_folds - 1)
    return table.assign(gap_margin=margin)


def variation_shares(summary: pd.DataFrame) -> pd.Series:
    """
    Return the share of each hyperparameter in the variation of the accuracy, the
    largest first.

    It is the sum of squares between the means of its values, divided by the total one
    (eta squared, 0 to 1), in a full grid, which a grid search is. The remainder to 1 is
    interaction. Empty if all settings have the same accuracy.

    Parameters
    ----------
    summary : DataFrame
        That of `summarize`.
    """
    accuracy = summary["val_accuracy"]
    variances = {}
    for name in scenes.HYPERPARAMETERS:
        of_value = accuracy.groupby(summary[name]).transform("mean")
        variances[name] = of_value.var()
    shares = pd.Series(variances) / accuracy.var()
    return shares.dropna().sort_values(ascending=False)


def best_hyperparameters(results: pd.DataFrame) -> dict[str, float]:
    """
    Return the setting with the highest mean validation accuracy at its best epoch.

    Returns
    -------
    dict
        `learning_rate`, `dropout`, `weight_decay` and `epochs`, as `HeadOptions` takes
        them.
    """
    names = [*scenes.HYPERPARAMETERS, "epoch"]
    settings = summarize(results)[names].rename(columns={"epoch": "epochs"})
    return settings.to_dict("records")[0]


def describe_edge(results: pd.DataFrame) -> str:
    """
    Return a sentence for each hyperparameter whose best value is at an edge of the
    grid.

    A better value may lie beyond it, but none below 0; a list of one value has no edge,
    and of a value that ties with another one, nothing is said.
    """
    settings = summarize(results)
    best = settings.iloc[0]
    sentences = []
    for name in scenes.HYPERPARAMETERS:
        value, values = best[name], results[name]
        others = settings["val_accuracy"][settings[name] != value]
        if others.empty or others.max() >= best["val_accuracy"]:
            continue
        if value == values.max():
            edge = "largest"
        elif value == values.min() > 0:
            edge = "smallest"
        else:
            continue
        name_in_words = name.replace("_", " ")
        sentences.append(
            f"The best {name_in_words}, {value:g}, is the {edge} of the grid; "
            f"one beyond it, added to {name.upper()}S, may be better."
        )
    return "\n".join(sentences)


def accuracy_by_other_folds(results: pd.DataFrame) -> float:
    """
    Return the mean accuracy of each fold at the setting and epoch that the other folds
    choose.

    The highest mean of many settings and epochs is optimistic; this one is nearly not.
    """
    folds = _by_fold(results)
    accuracies = []
    for fold in folds:
        others = folds.drop(columns=fold)
        choice = others.mean(axis=1).idxmax()
        accuracies.append(folds.loc[choice, fold])
    return float(np.mean(accuracies))


def predictions_table(
    images: pd.DataFrame, probabilities: np.ndarray | pd.DataFrame, model: str
) -> pd.DataFrame:
    """
    Return `model`, `path`, `label` of images and a column of probabilities for each
    class.

    The probabilities are not rounded, since a temperature is fitted on them: rounded to
    0, a confident error would no longer count.
    """
    table = images[["path", "label"]].reset_index(drop=True)
    table.insert(0, "model", model)
    classes = images["label"].cat.categories
    columns = pd.DataFrame(probabilities, columns=classes)
    return table.join(columns)


def compare_models(
    predictions: pd.DataFrame, *, class_weight: str | None = None
) -> pd.DataFrame:
    """
    Return accuracy and log loss of models on the same held-out images, the best first.

    Parameters
    ----------
    predictions : DataFrame
        Those of `predictions_table` of all models.
    class_weight : {None, 'balanced'}
        With 'balanced', the accuracies are, and are called, balanced accuracies.

    Returns
    -------
    DataFrame
        A row for each model: `accuracy` (or `balanced accuracy`), `log_loss`, `photos`,
        and `gap`, `gap_low`, `gap_high`: by how much its accuracy is lower than that of
        the best model, in points, with the interval of `accuracy_difference` (NaN for
        the best). Ties in accuracy are broken by the log loss after temperature
        scaling: before it, label smoothing alone would decide.
    """
    classes = list(predictions.columns[3:])
    metric = "balanced accuracy" if class_weight else "accuracy"
    rows, correct = {}, {}
    for model, table in predictions.groupby("model"):
        y = table["label"].map(classes.index).to_numpy()
        probabilities = table[classes].to_numpy()
        correct[model] = probabilities.argmax(axis=1) == y
        strata = y if class_weight else np.zeros(len(y))
        groups = pd.Series(correct[model]).groupby(strata)
        accuracy = groups.mean().mean()
        temperature = calibration.fit_temperature(probabilities, y)
        scaled = calibration.apply_temperature(probabilities, temperature)
        loss = log_loss(y, scaled, labels=range(len(classes)))
        rows[model] = {metric: accuracy, "log_loss": loss}
    table = pd.DataFrame(rows).T.rename_axis("model").round(9)
    table = table.sort_values([metric, "log_loss"], ascending=[False, True])
    table["photos"] = len(y)
    best, *others = table.index
    differences = {}
    for model in others:
        differences[model] = accuracy_difference(correct[best], correct[model], strata)
    gaps = pd.DataFrame(differences, ["gap", "gap_low", "gap_high"])
    return table.join(gaps.T)


def accuracy_difference(
    correct: np.ndarray, other: np.ndarray, strata: np.ndarray | None = None
) -> tuple[float, float, float]:
    """
    Return by how much the accuracy of a model is higher than that of another on the
    same images, and the 95% confidence interval, in points.

    The interval is the adjusted one of Bonett & Price (2012, "Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data"), which
    holds for few images, too: one image is added to the number of those that only one
    of the two models classifies correctly, for each of the two.

    Parameters
    ----------
    correct, other : ndarray of bool, shape (n,)
        Whether each prediction of the two models is right; the images are the same.
    strata : ndarray, shape (n,), optional
        The class of each image: the difference is then that of balanced accuracies.
    """
    if strata is None:
        strata = np.zeros(len(correct))
    table = pd.DataFrame({"won": correct & ~other, "lost": other & ~correct})
    groups = table.groupby(strata)
    means = groups.mean()
    difference = (means["won"] - means["lost"]).mean()
    sizes = groups.size() + 2
    counts = groups.sum() + 1
    adjusted = counts.div(sizes, axis=0)
    shift = adjusted["won"] - adjusted["lost"]
    variance = (adjusted.sum(axis=1) - shift**2) / sizes
    half = norm.ppf(0.975) * np.sqrt(variance.sum()) / len(variance)
    middle = shift.mean()
    return 100 * difference, 100 * (middle - half), 100 * (middle + half)


def describe_difference(difference: float, low: float, high: float) -> str:
    """Return a difference of accuracies as '2.4 points (95%: 1.6 to 3.2)'."""
    return f"{difference:.1f} points (95%: {low:.1f} to {high:.1f})"


def describe_gain(
    selected: str, run: str, correct: np.ndarray, head_correct: np.ndarray
) -> str:
    """
    Return a sentence on the test accuracy of a selected model against the head's.

    Parameters
    ----------
    selected, run : str
        The name of the model, and in which run it was trained.
    correct, head_correct : ndarray of bool, shape (n,)
        Whether each prediction is right: of the model, and of the head of this run.
    """
    if selected == "head":
        return "The head was selected: no other model is compared with it."
    difference = describe_difference(*accuracy_difference(correct, head_correct))
    return f"'{selected}' of {run} against the head of this run: {difference}"


def describe_choice(comparison: pd.DataFrame, run: str = "this run") -> str:
    """
    Return two or three sentences on which model of `compare_models` is selected, and
    why.

    A difference whose interval holds 0 is called a tie. `run` says in which run, as
    'the committed run'.
    """
    if len(comparison) == 1:
        return f"In {run}, nothing was fine-tuned: the head is selected."
    metric = comparison.columns[0]
    best, second = comparison.index[:2]
    other = second if best == "head" else "head"
    row = comparison.loc[other]
    difference = describe_difference(*row["gap":"gap_high"])
    said = (
        f"In {run}, on {row['photos']:,.0f} validation photos, the {metric} of "
        f"'{best}' is {comparison[metric][best]:.1%}, that of '{other}' "
        f"{row[metric]:.1%}: a difference of {difference}"
    )
    if row["gap_low"] <= 0:
        said = f"{said}, a tie"
    said = f"{said}. Selected is '{best}'"
    if other != second and comparison["gap_low"][second] <= 0:
        said = f"{said}, which ties with '{second}'"
    return f"{said}."


def describe_gap(of_folds: np.ndarray, validation: np.ndarray) -> str:
    """
    Return a sentence on the accuracy in the folds and on the validation set.

    If their 95% intervals do not overlap, another one names the usual cause.

    Parameters
    ----------
    of_folds, validation : ndarray of bool, shapes (n,) and (m,)
        Whether each out-of-fold prediction is right, and each of the validation photos.
    """
    said = (
        f"Accuracy of the head in the folds: {calibration.percent(of_folds)}, on the "
        f"validation set: {calibration.percent(validation)}."
    )
    lowest = calibration.accuracy(of_folds)["ci_low"]
    if lowest <= calibration.accuracy(validation)["ci_high"]:
        return said
    return (
        f"{said}\nThe folds are easier: probably photos of one series or object are in "
        f"several folds. GROUPS keeps them together; until then, believe the lower."
    )


def describe_doubts(
    images: pd.DataFrame, correct: pd.Series, divided: pd.DataFrame, n_left_out: int
) -> str:
    """
    Return lines on why the accuracy on the test photos, or its interval, may mislead.

    Parameters
    ----------
    images : DataFrame
        The test photos, with `group` and `corrected`.
    correct : Series of bool, shape (n,)
        Whether the prediction of each is right.
    divided : DataFrame
        The photos whose group lies in several splits, see `list_divided_groups`.
    n_left_out : int
        Test photos that CORRECTIONS has left out.
    """
    lines = []
    in_divided = images["path"].isin(divided["path"])
    if in_divided.any():
        without = calibration.percent(correct[~in_divided])
        lines.append(
            f"Without the {in_divided.sum()} test photos whose group (duplicates, "
            f"look-alikes, GROUPS) is in another split, too: {without}"
        )
    n_groups = images["group"].nunique()
    if len(images) > 1.1 * n_groups:
        lines.append(
            f"The {len(images):,} test photos are of {n_groups:,} groups, within which "
            f"they are alike: all intervals are too narrow."
        )
    n_corrected = n_left_out + images["corrected"].sum()
    if n_corrected:
        lines.append(
            f"Labels of {n_corrected} test photos were corrected, or the photos left "
            f"out, which flatters a model that has flagged them."
        )
    if not lines:
        return (
            "No test photo was corrected, and none is of a group that is in another "
            "split."
        )
    return "\n".join(lines)


def compare_accuracies(
    images: pd.DataFrame, probabilities: dict[str, np.ndarray], original: pd.DataFrame
) -> pd.DataFrame:
    """
    Return the accuracy of models on images, with its 95% confidence interval.

    Parameters
    ----------
    images : DataFrame
        The images, with their labels.
    probabilities : dict of str to ndarray
        Those of each model, by its name, for the rows of `original`.
    original : DataFrame
        The same images and those that were left out, in the order of the table, with
        their labels before any correction.

    Returns
    -------
    DataFrame
        `accuracy`, `ci_low`, `ci_high` and `photos`, a row for each model. If labels
        were corrected or images left out, which flatters a model that has flagged them,
        another row, `without corrections`: all images, with their original labels.
    """
    y = images["label"].cat.codes.to_numpy()
    y_original = original["label"].cat.codes.to_numpy()
    is_corrected = not np.array_equal(y, y_original)
    is_kept = original.index.isin(images.index)
    rows = {}
    for name, of_model in probabilities.items():
        predicted = of_model.argmax(axis=1)
        rows[name] = calibration.accuracy(predicted[is_kept] == y)
        if is_corrected:
            correct = predicted == y_original
            rows[f"{name}, without corrections"] = calibration.accuracy(correct)
    return pd.DataFrame(rows).T


def scores_by_class(labels: pd.Series, predictions: Sequence[str]) -> pd.DataFrame:
    """
    Return precision, recall with its 95% interval, F1 score and support of each class.

    A last row, `mean of the classes`, holds balanced accuracy and macro F1, in which a
    rare class counts as much as a frequent one. A class without a photo does not count.

    Parameters
    ----------
    labels : Series of categories, shape (n,)
    predictions : sequence of str, shape (n,)
        The predicted class of each image.
    """
    classes = list(labels.cat.categories)
    labels = labels.astype(str).to_numpy()
    scores = precision_recall_fscore_support(
        labels, predictions, labels=classes, zero_division=0
    )
    names = ["precision", "recall", "F1", "support"]
    table = pd.DataFrame(scores, names, classes).T
    means = table[table["support"] > 0].mean()
    means["support"] = len(labels)
    correct = pd.Series(labels == np.asarray(predictions))
    intervals = correct.groupby(labels).apply(calibration.accuracy).unstack()
    table.insert(2, "recall ci_low", intervals["ci_low"])
    table.insert(3, "recall ci_high", intervals["ci_high"])
    table.loc["mean of the classes"] = means
    return table.astype({"support": int})


def confused_pairs(
    labels: pd.Series, predictions: Sequence[str], n: int = 10
) -> pd.DataFrame:
    """
    Return the most frequent errors: for each pair of `label` and `predicted` (the
    index), the number of `photos` and their `share` of the photos with this label.

    Parameters
    ----------
    labels : Series of categories, shape (n,)
    predictions : sequence of str, shape (n,)
        The predicted class of each image.
    n : int
        The number of pairs.
    """
    labels = labels.astype(str).to_numpy()
    table = pd.DataFrame({"label": labels, "predicted": predictions})
    counts = table.groupby(["label", "predicted"]).size()
    pairs = counts.to_frame("photos")
    supports = counts.groupby("label").transform("sum")
    pairs["share"] = counts / supports
    errors = pairs.query("label != predicted")
    return errors.nlargest(n, "photos")


def loss_floor(label_smoothing: float, n_classes: int) -> float:
    """
    Return the lowest loss that label smoothing allows: the entropy of its targets.

    With 0.1 and six classes it is 0.42: the targets are 0.917 and five times 0.017.
    """
    targets = np.full(n_classes, label_smoothing / n_classes)
    targets[0] += 1 - label_smoothing
    return float(entropy(targets))


def most_confident_errors(
    images: pd.DataFrame, probabilities: np.ndarray, n: int = 12
) -> pd.DataFrame:
    """
    Return path, label, prediction and its probability of the most confident errors.
    """
    classes = images["label"].cat.categories
    table = images[["path", "label"]].copy()
    table["predicted"] = classes[probabilities.argmax(axis=1)]
    table["probability"] = probabilities.max(axis=1)
    wrong = table[table["label"].astype(str) != table["predicted"]]
    return wrong.nlargest(n, "probability")


def flag_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Return for each photo the class that confident learning suggests instead of its
    label, else -1.

    A class's threshold is the mean probability of the class on its own photos. A label
    is flagged if its probability is below the threshold of its class and that of
    another class is not; of several such classes the most probable is suggested
    (Northcutt et al., 2021). So a class that the classifier seldom predicts with
    confidence is not flagged more often for that.

    Parameters
    ----------
    probabilities : ndarray, shape (n, n_classes)
        Out-of-fold: from classifiers that did not train on these photos.
    labels : ndarray of int, shape (n,)
        The column of each photo's label.
    """
    _, n_classes = probabilities.shape
    own = np.eye(n_classes, dtype=bool)[labels]
    counts = own.sum(axis=0)
    own_probabilities = np.where(own, probabilities, 0)
    sums = own_probabilities.sum(axis=0, dtype="float64")
    thresholds = sums / np.maximum(counts, 1)
    passes = (probabilities >= thresholds) & (counts > 0)
    others = np.where(passes & ~own, probabilities, 0)
    flagged = ~passes[own] & others.any(axis=1)
    return np.where(flagged, others.argmax(axis=1), -1)


def list_flagged_labels(
    images: pd.DataFrame, probabilities: np.ndarray
) -> pd.DataFrame:
    """
    Return the photos whose labels `flag_labels` flags, the largest difference first.

    Saved as a CSV and with the column `label` edited, the table is a file for
    CORRECTIONS.

    Parameters
    ----------
    images : DataFrame
        The photos: `path`, `split` and `label`.
    probabilities : ndarray, shape (n, n_classes)
        Out-of-fold: from classifiers that did not train on these photos.

    Returns
    -------
    DataFrame
        `path`, `label`, `suggested`, `split`, `label_probability`,
        `suggested_probability`.
    """
    classes = images["label"].cat.categories
    codes = images["label"].cat.codes.to_numpy()
    suggested = flag_labels(probabilities, codes)
    rows = np.arange(len(images))
    table = images[["path", "label", "split"]].copy()
    table.insert(2, "suggested", classes[suggested])
    table["label_probability"] = probabilities[rows, codes]
    table["suggested_probability"] = probabilities[rows, suggested]
    table["difference"] = table["label_probability"] - table["suggested_probability"]
    flagged = table[suggested >= 0]
    flagged = flagged.sort_values(["difference", "path"], ignore_index=True)
    return flagged.drop(columns="difference").round(4)
