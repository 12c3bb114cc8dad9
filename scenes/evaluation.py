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
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
)

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
    table = pd.DataFrame({"val_accuracy": folds.mean(axis=1).round(9)})
    table["val_loss"] = results.groupby(folds.index.names)["val_loss"].mean()
    table["std"] = folds.std(axis=1)
    # What is still equal stays in the order of the hyperparameters and epochs.
    table = table.sort_values(
        ["val_accuracy", "val_loss"], ascending=[False, True], kind="stable"
    )
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
        of the best setting; and `gap_sem`, the standard error of that gap (from the
        paired differences of the folds). Accuracies that agree in 9 digits are ties,
        broken by lower loss.
    """
    ranked = rank_epochs(results)
    return ranked.drop_duplicates(scenes.HYPERPARAMETERS, ignore_index=True)


def best_hyperparameters(results: pd.DataFrame) -> dict[str, float]:
    """
    Return the setting with the highest mean validation accuracy at its best epoch.

    Returns
    -------
    dict
        `learning_rate`, `dropout`, `weight_decay`; its best `epoch`, `val_accuracy` and
        `val_loss` there; `gap` and `gap_sem` of the runner-up (see `summarize`): the
        choice is clear only if `gap` is well above `gap_sem`. Both are NaN if there is
        one setting.
    """
    ranked = summarize(results).drop(columns="std")
    best, runner_up = ranked.reindex([0, 1]).to_dict("records")
    best["epoch"] = int(best["epoch"])
    best["gap"] = runner_up["gap"]
    best["gap_sem"] = runner_up["gap_sem"]
    return best


def describe_edge(results: pd.DataFrame) -> str:
    """
    Return a sentence for each hyperparameter whose best value is at an edge of the
    grid.

    A better value may lie beyond it, but none below 0; a list of one value has no edge.
    """
    best = best_hyperparameters(results)
    sentences = []
    for name in scenes.HYPERPARAMETERS:
        value, values = best[name], results[name]
        if values.nunique() == 1:
            continue
        if value == values.max():
            advice = "largest of the grid: add larger"
        elif value == values.min() > 0:
            advice = "smallest of the grid: add smaller"
        else:
            continue
        name_in_words = name.replace("_", " ")
        sentences.append(
            f"The best {name_in_words}, {value:g}, is the {advice} ones to "
            f"{name.upper()}S."
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
    images: pd.DataFrame, probabilities: np.ndarray, model: str
) -> pd.DataFrame:
    """
    Return `model`, `path`, `label` of images and a column of probabilities for each
    class.

    The probabilities are not rounded, since a temperature is fitted on them: rounded to
    0, a confident error would no longer count.
    """
    table = images[["path", "label"]].reset_index(drop=True)
    table.insert(0, "model", model)
    classes = list(images["label"].cat.categories)
    return table.join(pd.DataFrame(probabilities, columns=classes))


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
        A row for each model. Ties in accuracy are broken by the log loss after
        temperature scaling: before it, label smoothing alone would decide. `gain of the
        best` is that of the first model over each other one, as `describe_gain` says.
    """
    classes = list(predictions.columns[3:])
    metric, score = "accuracy", accuracy_score
    if class_weight:
        metric, score = "balanced_accuracy", balanced_accuracy_score
    rows, correct = {}, {}
    for model, table in predictions.groupby("model"):
        y = table["label"].map(classes.index)
        probabilities = table[classes].to_numpy()
        temperature = calibration.fit_temperature(probabilities, y)
        scaled = calibration.apply_temperature(probabilities, temperature)
        predicted = probabilities.argmax(axis=1)
        accuracy = score(y, predicted)
        correct[model] = predicted == y
        rows[model] = accuracy, log_loss(y, scaled, labels=range(len(classes)))
    table = pd.DataFrame(rows, index=[metric, "log_loss"]).T.rename_axis("model")
    table = table.round(9).sort_values([metric, "log_loss"], ascending=[False, True])
    best, *others = table.index
    gains = {name: describe_gain(correct[best], correct[name]) for name in others}
    table["gain of the best"] = pd.Series(gains, dtype=str)
    return table


def describe_choice(comparison: pd.DataFrame, run: str = "this run") -> str:
    """
    Return one sentence on which model of `compare_models` is selected, and why.

    `run` says in which run, as 'the committed run'.
    """
    best = comparison.index[0]
    accuracy = comparison.iloc[:, 0].map("{:.1%}".format)
    if len(comparison) == 1:
        return f"In {run}, nothing was fine-tuned: the head is selected."
    if best == "head":
        return (
            f"In {run}, fine-tuning did not help on the validation set "
            f"({accuracy.iloc[1]} after {accuracy['head']}): the head is kept."
        )
    return (
        f"In {run}, fine-tuning helped on the validation set ({accuracy[best]}, and "
        f"{accuracy['head']} with the head alone): selected is '{best}'."
    )


def describe_gain(correct: Sequence[bool], baseline: Sequence[bool]) -> str:
    """
    Return what a model gains over a baseline on the same photos, in words.

    As '+2.4 points (1.6 to 3.2); 115 won, 43 lost': photos, and the 95% interval of the
    mean of the differences photo by photo.

    Parameters
    ----------
    correct, baseline : sequences of bool, shape (n,)
        Whether the prediction of the model, and that of the baseline, is the label.
    """
    gains = np.asarray(correct, int) - np.asarray(baseline, int)
    mean = 100 * gains.mean()
    half = 196 * gains.std() / np.sqrt(len(gains))
    return (
        f"{mean:+.1f} points ({mean - half:.1f} to {mean + half:.1f}); "
        f"{np.sum(gains > 0)} won, {np.sum(gains < 0)} lost"
    )


def compare_accuracies(
    images: pd.DataFrame, probabilities: dict[str, np.ndarray]
) -> pd.DataFrame:
    """
    Return the accuracy of models on images, with its 95% confidence interval.

    Parameters
    ----------
    images : DataFrame
        With the column `corrected` (bool), if labels were corrected.
    probabilities : dict of str to ndarray
        Those of each model, by its name.

    Returns
    -------
    DataFrame
        `accuracy`, `ci_low`, `ci_high` and `photos`, a row for each model; if labels of
        these images were corrected, which flatters a model that has flagged them,
        another row for the images whose labels were not.
    """
    y = images["label"].cat.codes.to_numpy()
    corrected = np.asarray(images.get("corrected", False))
    rows = {}
    for name, of_model in probabilities.items():
        correct = of_model.argmax(axis=1) == y
        rows[name] = calibration.accuracy(correct)
        if corrected.any():
            others = f"{name}, without corrected labels"
            rows[others] = calibration.accuracy(correct[~corrected])
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
    table = pd.DataFrame(scores, ["precision", "recall", "F1", "support"], classes).T
    correct = pd.Series(labels == np.asarray(predictions))
    intervals = correct.groupby(labels).apply(calibration.accuracy).unstack()
    table.insert(2, "recall ci_low", intervals["ci_low"])
    table.insert(3, "recall ci_high", intervals["ci_high"])
    means = table.loc[table["support"] > 0, ["precision", "recall", "F1"]].mean()
    means["support"] = len(labels)
    table.loc["mean of the classes"] = means
    return table.astype({"support": int})


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
    own = np.eye(probabilities.shape[1], dtype=bool)[labels]
    sums = np.where(own, probabilities, 0).sum(axis=0, dtype="float64")
    thresholds = sums / np.maximum(own.sum(axis=0), 1)
    passes = (probabilities >= thresholds) & own.any(axis=0)
    others = np.where(passes & ~own, probabilities, 0)
    flagged = ~passes[own] & (others.max(axis=1) > 0)
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
    flagged = table[suggested >= 0].sort_values(["difference", "path"])
    return flagged.drop(columns="difference").round(4).reset_index(drop=True)
