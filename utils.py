"""Helpers of `intel_classification.ipynb`."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

import scenes
from scenes import calibration, folders, grid_search, photos, settings


def download_photos() -> Path:
    """Download the data set from Kaggle (about 350 MB, once) and return its folder."""
    import kagglehub  # only here: it takes a second, and few runs download

    try:
        folder = kagglehub.dataset_download("puneet6060/intel-image-classification")
    except OSError as error:  # the errors of requests are such
        reason = f"Kaggle cannot be reached ({type(error).__name__})"
        raise OSError(f"{reason}: connect to the network, or set DOWNLOAD = False") from error
    return folders.find_photos(folder)


def audit_images(images: pd.DataFrame) -> pd.DataFrame:
    """
    Find what is wrong with the photos.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images` with the columns of `digest_photos`.

    Returns
    -------
    DataFrame
        One row for each photo concerned and finding: `finding` ('unreadable', 'duplicate',
        'two labels', 'two splits'), `path`, `label`, `split`, `digest` and `problem`.
        Duplicates are photos with the same pixels; of these, 'two labels' stand under
        different labels and 'two splits' in different splits.
    """
    readable = images[images["digest"] != ""]
    groups = readable.groupby("digest")
    labels = groups["label"].transform("nunique")
    splits = groups["split"].transform("nunique")
    findings = {
        "unreadable": images[images["digest"] == ""],
        "duplicate": readable[readable["digest"].duplicated(keep=False)],
        "two labels": readable[labels > 1],
        "two splits": readable[splits > 1],
    }
    columns = ["path", "label", "split", "digest", "problem"]
    table = pd.concat(
        [rows[columns].sort_values(["digest", "path"]) for rows in findings.values()],
        keys=findings,
        names=["finding", None],
    )
    return table.reset_index("finding")


def drop_leaks(images: pd.DataFrame) -> pd.DataFrame:
    """
    Return the table without photos that another split is to be judged by.

    Training photos go whose pixels are also those of a test or a validation photo, and
    validation photos whose pixels are also those of a test photo.
    """
    readable = images[images["digest"] != ""]
    digests = {split: rows["digest"] for split, rows in readable.groupby("split", observed=False)}
    leaks = (images["split"] != "test") & images["digest"].isin(digests["test"])
    leaks |= (images["split"] == "train") & images["digest"].isin(digests["validation"])
    return images[~leaks | images["label"].isna()]


def shrink(images: pd.DataFrame, factor: int = 4) -> pd.DataFrame:
    """
    Keep the first, the (factor + 1)-th, ... photo of each class in each split.

    Parameters
    ----------
    images : DataFrame
        The table of the photos; no file is touched.
    factor : int
        1 keeps all, 4 keeps a quarter. Prediction photos are all kept.

    Returns
    -------
    DataFrame
        The rows that stay, in their order and with their index.
    """
    settings.check(shrink_factor=factor)
    place = images.groupby(["split", "label"], observed=True).cumcount()
    return images[(place % factor == 0) | images["label"].isna()]


def create_test(images: pd.DataFrame, ratio: float = 0.2, *, seed: int = 0) -> pd.DataFrame:
    """
    Move a stratified share of the training photos to the test split, if that has none.

    Parameters and result are those of `create_validation`. The same photos are chosen in
    each run with the same seed, so that the test photos stay unseen.
    """
    settings.check(test_ratio=ratio, seed=seed)
    return _set_apart("test", images, ratio, seed)


def create_validation(images: pd.DataFrame, ratio: float = 0.2, *, seed: int = 0) -> pd.DataFrame:
    """
    Move a stratified share of the training photos to validation, if there is none.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with digests: photos with the same pixels stay together.
    ratio : float
        The share, above 0 and up to 0.5: one of `round(1 / ratio)` folds.
    seed : int
        The same seed chooses the same photos.

    Returns
    -------
    DataFrame
        A new table in which the `split` of these photos is 'validation'.
    """
    settings.check(validation_ratio=ratio, seed=seed)
    return _set_apart("validation", images, ratio, seed)


def _set_apart(split: str, images: pd.DataFrame, ratio: float, seed: int) -> pd.DataFrame:
    images, folds = images.copy(), round(1 / ratio)
    if not (images["split"] == split).any():
        train = images[images["split"] == "train"]
        labels = train["label"].to_numpy(dtype=str)
        _, rows = grid_search.make_folds(labels, train["digest"], folds=folds, seed=seed)[0]
        images.loc[train.index[rows], "split"] = split
        if split == "test" or f"{1 / folds:.0%}" != f"{ratio:.0%}":
            used = f"{len(rows):,} of {len(train):,} training photos"
            print(f"No {split} split found; using {used}, a random 1/{folds} (ratio {ratio:g}).")
    return images


def _by_fold(results: pd.DataFrame) -> pd.DataFrame:
    """Return validation accuracies: a row for each setting and epoch, a column for each fold."""
    index = [*scenes.HYPERPARAMETERS, "epoch"]
    return results.pivot(index=index, columns="fold", values="val_accuracy")


def rank_epochs(results: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each setting and epoch, the best first, with the columns of `summarize`."""
    folds = _by_fold(results)
    table = pd.DataFrame(
        {
            "val_accuracy": folds.mean(axis=1).round(9),
            "val_loss": results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_loss"].mean(),
            "std": folds.std(axis=1),
        }
    )
    order = ["val_accuracy", "val_loss", *scenes.HYPERPARAMETERS, "epoch"]
    table = table.sort_values(order, ascending=[False, *[True] * 5])
    differences = folds.loc[table.index[0]] - folds
    table = table.assign(behind=differences.mean(axis=1), noise=differences.sem(axis=1))
    return table.reset_index()


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """
    Rank the settings of a grid search.

    Returns
    -------
    DataFrame
        One row for each setting, the best first: its best `epoch`, and there the mean over
        folds of `val_accuracy` and `val_loss`; `std`, the standard deviation of
        `val_accuracy` over folds; `behind`, by how much it is lower than that of the best
        setting; and `noise`, the standard error of that difference (from the paired
        differences of the folds). Accuracies that agree in 9 digits are ties, broken by
        lower loss.
    """
    return rank_epochs(results).drop_duplicates(scenes.HYPERPARAMETERS, ignore_index=True)


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
        `val_loss` there; `behind` and `noise` of the runner-up (see `summarize`): the choice
        is clear only where `behind` is well above `noise`. Both are missing (NaN) where
        there is one setting.
    """
    ranked = summarize(results)
    told = ranked.loc[0, [*scenes.HYPERPARAMETERS, "epoch", "val_accuracy", "val_loss"]].to_dict()
    runner_up = ranked[["behind", "noise"]].reindex([1]).iloc[0]
    return told | {"epoch": int(told["epoch"])} | runner_up.to_dict()


def accuracy_by_other_folds(results: pd.DataFrame) -> float:
    """
    Return the mean accuracy of each fold at the setting and epoch that the other folds choose.

    The highest mean of many settings and epochs is optimistic; this one is not.
    """
    folds = _by_fold(results)
    chosen = {fold: folds.drop(columns=fold).mean(axis=1).idxmax() for fold in folds}
    return float(np.mean([folds.loc[choice, fold] for fold, choice in chosen.items()]))


def mcnemar(right: Sequence[bool], other: Sequence[bool]) -> float:
    """
    Return the p-value of McNemar's exact test of two classifiers on the same photos.

    Of the photos on which just one of them is right, equally good classifiers share each
    with chance one half; the p-value is the chance to differ as much as these or more.
    """
    right, other = np.asarray(right), np.asarray(other)
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    return float(binomtest(gained, max(1, gained + lost)).pvalue)


def scores_by_class(labels: pd.Series, predictions: Sequence[str]) -> pd.DataFrame:
    """
    Return precision, recall with its 95% interval, and F1 score of each class.

    A last row, `mean of the classes`, holds balanced accuracy and macro F1, in which a rare
    class counts as much as a frequent one. A class without a photo does not count.
    """
    classes = labels.cat.categories
    *scores, counts = precision_recall_fscore_support(
        labels.astype(str), predictions, labels=list(classes), zero_division=0
    )
    table = pd.DataFrame(dict(zip(["precision", "recall", "F1"], scores, strict=True)), classes)
    present = classes[counts > 0]
    hits = {name: np.asarray(predictions)[labels == name] == name for name in present}
    intervals = pd.DataFrame(
        {name: calibration.accuracy(of_class) for name, of_class in hits.items()}
    ).T
    table = table.join(intervals[["ci_low", "ci_high"]].add_prefix("recall ")).assign(photos=counts)
    table.loc["mean of the classes"] = table.loc[present, ["precision", "recall", "F1"]].mean()
    table.loc["mean of the classes", "photos"] = counts.sum()
    order = ["precision", "recall", "recall ci_low", "recall ci_high", "F1", "photos"]
    return table[order].astype({"photos": int})


def worst_mistakes(images: pd.DataFrame, probabilities: np.ndarray, n: int = 12) -> pd.DataFrame:
    """Return path, label, prediction and its probability of the most confident mistakes."""
    classes = images["label"].cat.categories
    table = images[["path", "label"]].assign(
        predicted=classes[probabilities.argmax(axis=1)], probability=probabilities.max(axis=1)
    )
    wrong = table[table["label"].astype(str) != table["predicted"]]
    return wrong.nlargest(n, "probability")


def confused_pairs(labels: pd.Series, predictions: Sequence[str]) -> pd.Series:
    """Return how many photos of each pair of classes are taken for the other, most first."""
    wrong = labels.astype(str).to_numpy() != np.asarray(predictions)
    pairs = zip(labels[wrong], np.asarray(predictions)[wrong], strict=True)
    return pd.Series([" and ".join(sorted(pair)) for pair in pairs], dtype=str).value_counts()


def show_images(paths: Sequence[str | Path], titles: Sequence[str], *, columns: int = 6) -> Figure:
    """Return a matplotlib figure of photos with titles."""
    rows = max(1, -(-len(paths) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.5 * rows), squeeze=False)
    for axis, path, title in itertools.zip_longest(axes.flat, paths, titles):
        axis.axis("off")
        if path is not None:
            axis.imshow(photos.read_photo(path))
            # The names of files and classes are text, not formulas between dollar signs.
            lines = "\n".join(map(photos.printable, str(title).split("\n")))
            axis.set_title(lines, fontsize=9, parse_math=False)
    figure.tight_layout()
    plt.close(figure)  # the notebook shows what a cell returns: not twice
    return figure


def find_suspects(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Return for each photo the class that its label should perhaps be, -1 where none is.

    A class's threshold is the mean of its own photos' probabilities of it. A photo is suspect
    where its label's probability is below that threshold and another class's is not; of several
    such classes the most probable is suggested (confident learning, Northcutt et al., 2021). So a
    class of which the classifier is seldom sure is not suspected more for that.

    Parameters
    ----------
    probabilities : ndarray, shape (n, classes)
        From classifiers that did not train on these photos.
    labels : ndarray of int, shape (n,)
    """
    own = np.eye(probabilities.shape[1], dtype=bool)[labels]
    sums = np.where(own, probabilities, 0).sum(axis=0, dtype="float64")
    thresholds = sums / np.maximum(own.sum(axis=0), 1)
    passes = (probabilities >= thresholds) & own.any(axis=0)
    others = np.where(passes & ~own, probabilities, 0)
    suspect = ~passes[own] & (others.max(axis=1) > 0)
    return np.where(suspect, others.argmax(axis=1), -1)


def list_suspects(images: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """
    Return the photos of `find_suspects`, the most suspect first.

    Parameters
    ----------
    images : DataFrame
        The photos: `path`, `split` and `label`.
    probabilities : ndarray, shape (n, classes)
        From classifiers that did not train on these photos.

    Returns
    -------
    DataFrame
        `path`, `split`, `label`, `suggested` and the probabilities of both classes.
    """
    classes, codes = images["label"].cat.categories, images["label"].cat.codes.to_numpy()
    suggested = find_suspects(probabilities, codes)
    rows = np.flatnonzero(suggested >= 0)
    of_label, of_other = probabilities[rows, codes[rows]], probabilities[rows, suggested[rows]]
    table = images.iloc[rows][["path", "split", "label"]].assign(
        suggested=classes[suggested[rows]],
        label_probability=of_label.round(4),
        suggested_probability=of_other.round(4),
    )
    return table.iloc[np.lexsort([table["path"], of_label - of_other])].reset_index(drop=True)
