"""
Evaluation (sections 6, 8 and 9): results and predictions as tables.

Ranks settings, compares models, scores classes and flags labels. Trains nothing, and
knows nothing of files and networks.
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
    table = folds.mean(axis=1).round(9).to_frame("val_accuracy")
    table["val_loss"] = results.groupby(table.index.names)["val_loss"].mean()
    table["std"] = folds.std(axis=1)
    order = ["val_accuracy", "val_loss", *scenes.HYPERPARAMETERS, "epoch"]
    table = table.sort_values(order, ascending=[False, *[True] * 5])
    differences = folds.loc[table.index[0]] - folds
    table = table.assign(gap=differences.mean(axis=1), gap_sem=differences.sem(axis=1))
    return table.reset_index()


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """
    Rank the settings of a grid search.

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
    return rank_epochs(results).drop_duplicates(
        scenes.HYPERPARAMETERS, ignore_index=True
    )


def best_hyperparameters(results: pd.DataFrame) -> dict[str, float]:
    """
    Return the setting with the highest mean validation accuracy at its best epoch.

    Parameters
    ----------
    results : DataFrame
        What `grid_search` returns.

    Returns
    -------
    dict
        `learning_rate`, `dropout`, `weight_decay`; its best `epoch`, `val_accuracy` and
        `val_loss` there; `gap` and `gap_sem` of the runner-up (see `summarize`): the
        choice is clear only if `gap` is well above `gap_sem`. Both are NaN if there is
        one setting.
    """
    ranked = summarize(results)
    best = ranked.loc[
        0, [*scenes.HYPERPARAMETERS, "epoch", "val_accuracy", "val_loss"]
    ].to_dict()
    runner_up = ranked[["gap", "gap_sem"]].reindex([1]).iloc[0]
    return best | {"epoch": int(best["epoch"])} | runner_up.to_dict()


def describe_edge(results: pd.DataFrame) -> str:
    """
    Return a sentence for each hyperparameter whose best value is at an edge of the
    grid.

    A better value may lie beyond it, but none below 0; a list of one value has no edge.
    """
    sentences, best = [], best_hyperparameters(results)
    for name in scenes.HYPERPARAMETERS:
        value, low, high = best[name], results[name].min(), results[name].max()
        if low < high and value in (low, high) and value > 0:
            extreme, more = (
                ("smallest", "smaller") if value == low else ("largest", "larger")
            )
            what = (
                f"The best {name.replace('_', ' ')}, {value:g}, "
                f"is the {extreme} of the grid"
            )
            sentences.append(f"{what}: add {more} ones to {name.upper()}S.")
    return "\n".join(sentences)


def accuracy_by_other_folds(results: pd.DataFrame) -> float:
    """
    Return the mean accuracy of each fold at the setting and epoch that the other folds
    choose.

    The highest mean of many settings and epochs is optimistic; this one is not.
    """
    folds = _by_fold(results)
    chosen = {fold: folds.drop(columns=fold).mean(axis=1).idxmax() for fold in folds}
    return float(np.mean([folds.loc[choice, fold] for fold, choice in chosen.items()]))


def predictions_table(
    images: pd.DataFrame, probabilities: np.ndarray, model: str
) -> pd.DataFrame:
    """
    Return `model`, `path`, `label` of images and a column of probabilities for each
    class.
    """
    table = images[["path", "label"]].reset_index(drop=True)
    table.insert(0, "model", model)
    classes = list(images["label"].cat.categories)
    return table.join(pd.DataFrame(probabilities, columns=classes).round(6))


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
        temperature scaling: before it, label smoothing alone would decide.
    """
    classes, rows = list(predictions.columns[3:]), {}
    metric = "balanced_accuracy" if class_weight else "accuracy"
    score = balanced_accuracy_score if class_weight else accuracy_score
    for model, table in predictions.groupby("model"):
        y, probabilities = table["label"].map(classes.index), table[classes].to_numpy()
        temperature = calibration.fit_temperature(probabilities, y)
        scaled = calibration.apply_temperature(probabilities, temperature)
        loss = log_loss(y, scaled, labels=range(len(classes)))
        rows[model] = {metric: score(y, probabilities.argmax(axis=1)), "log_loss": loss}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model").round(9)
    return table.sort_values([metric, "log_loss"], ascending=[False, True])


def describe_choice(comparison: pd.DataFrame) -> str:
    """Return one sentence on which model of `compare_models` is selected, and why."""
    best, accuracy = comparison.index[0], comparison.iloc[:, 0].map("{:.1%}".format)
    if best != "head":
        what = f"Fine-tuning helped on the validation set ({accuracy[best]}, and"
        return f"{what} {accuracy['head']} with the head alone): selected is '{best}'."
    if len(comparison) == 1:
        return "Nothing was fine-tuned: the head is selected."
    what = f"Fine-tuning did not help on the validation set ({accuracy.iloc[1]} after"
    return f"{what} {accuracy['head']}): the head is kept."


def compare_accuracies(
    images: pd.DataFrame, probabilities: dict[str, np.ndarray]
) -> pd.DataFrame:
    """
    Return the accuracy of models on images, with its 95% confidence interval.

    A row for each model; if labels of these images were corrected, which flatters a
    model that has flagged them, another row for the images whose labels were not.
    """
    y, rows = images["label"].cat.codes.to_numpy(), {}
    corrected = images.get("corrected", pd.Series(False, images.index)).to_numpy()
    for name, of_model in probabilities.items():
        correct = of_model.argmax(axis=1) == y
        rows[name] = calibration.accuracy(correct)
        if corrected.any():
            rows[f"{name}, without corrected labels"] = calibration.accuracy(
                correct[~corrected]
            )
    return pd.DataFrame(rows).T


def scores_by_class(labels: pd.Series, predictions: Sequence[str]) -> pd.DataFrame:
    """
    Return precision, recall with its 95% interval, F1 score and support of each class.

    A last row, `mean of the classes`, holds balanced accuracy and macro F1, in which a
    rare class counts as much as a frequent one. A class without a photo does not count.
    """
    classes, names = labels.cat.categories, ["precision", "recall", "F1", "support"]
    scores = precision_recall_fscore_support(
        labels.astype(str), predictions, labels=list(classes), zero_division=0
    )
    table = pd.DataFrame(dict(zip(names, scores, strict=True)), classes)
    present = classes[table["support"] > 0]
    hits = {name: np.asarray(predictions)[labels == name] == name for name in present}
    intervals = pd.DataFrame(
        {name: calibration.accuracy(hit) for name, hit in hits.items()}
    )
    table = table.join(intervals.T[["ci_low", "ci_high"]].add_prefix("recall "))
    table.loc["mean of the classes"] = table.loc[present, names[:3]].mean()
    table.loc["mean of the classes", "support"] = table["support"].sum()
    order = ["precision", "recall", "recall ci_low", "recall ci_high", "F1", "support"]
    return table[order].astype({"support": int})


def most_confident_errors(
    images: pd.DataFrame, probabilities: np.ndarray, n: int = 12
) -> pd.DataFrame:
    """
    Return path, label, prediction and its probability of the most confident errors.
    """
    classes = images["label"].cat.categories
    table = images[["path", "label"]].assign(
        predicted=classes[probabilities.argmax(axis=1)],
        probability=probabilities.max(axis=1),
    )
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
    probabilities : ndarray, shape (n, classes)
        Out-of-fold: from classifiers that did not train on these photos.
    labels : ndarray of int, shape (n,)
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
    probabilities : ndarray, shape (n, classes)
        Out-of-fold: from classifiers that did not train on these photos.

    Returns
    -------
    DataFrame
        `path`, `label`, `suggested`, `split`, `label_probability`,
        `suggested_probability`.
    """
    classes, codes = (
        images["label"].cat.categories,
        images["label"].cat.codes.to_numpy(),
    )
    suggested = flag_labels(probabilities, codes)
    rows = np.flatnonzero(suggested >= 0)
    of_label, of_other = (
        probabilities[rows, codes[rows]],
        probabilities[rows, suggested[rows]],
    )
    table = images.iloc[rows][["path", "label", "split"]].assign(
        label_probability=of_label.round(4), suggested_probability=of_other.round(4)
    )
    table.insert(2, "suggested", classes[suggested[rows]])
    return table.iloc[np.lexsort([table["path"], of_label - of_other])].reset_index(
        drop=True
    )
