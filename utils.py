"""Helpers of `intel_classification.ipynb`."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
)

import scenes.drawings
from scenes import calibration, classifier, features, folders, grid_search, photos, settings


def download_photos() -> Path:
    """Download the data set from Kaggle (about 350 MB, once) and return its folder."""
    import kagglehub  # only here: it takes a second, and few runs download

    try:
        folder = kagglehub.dataset_download("puneet6060/intel-image-classification")
    except OSError as error:  # the errors of requests are such
        reason = f"Kaggle cannot be reached ({type(error).__name__})"
        raise OSError(f"{reason}: connect to the network, or set DOWNLOAD = False") from error
    return folders.find_photos(folder)


def load_images(
    folder: str | Path | None,
    output: str | Path | None,
    weights: str | Path | None,
    *,
    download: bool = False,
) -> tuple[Path | None, pd.DataFrame, np.ndarray | None]:
    """
    Return the folder of the photos, their table with digests, and their thumbnails.

    Without photos, these are None, the table of the bundled features, and None.

    Parameters
    ----------
    folder : path or None
        Where the photos are; None looks for the Intel photos, as `find_photos` says.
    output : path or None
        The folder for results, which may not lie among the photos.
    weights : str, path or None
        Those of the base model; the bundled features were computed with 'imagenet'.
    download : bool
        Fetch the Intel photos from Kaggle first.
    """
    place = download_photos() if download else folders.find_photos(folder)
    if place is None:
        if weights != "imagenet":
            raise ValueError(f"WEIGHTS is {weights!r}, but the bundled features are of 'imagenet'")
        images, _ = features.load_bundled_features()
        print(f"No photos found: using the bundled features of {len(images):,} Intel photos.")
        return None, images, None
    folders.check_output(output, place)
    images, thumbnails = folders.list_images(place), []
    digests = photos.digest_photos(images, place, thumbnails=thumbnails)
    return place, images.join(digests), np.stack(thumbnails)


def load_features(
    images: pd.DataFrame, folder: Path | None, base_model: keras.Model, cache: str | Path
) -> np.ndarray:
    """Return the features of all images, a row each: computed, or bundled without a folder."""
    if folder:
        # Of all images, in their order: the last digit depends on the others of a batch.
        cache = Path(cache, "features.npz")
        return features.extract_features(images, folder, base_model, cache=cache)
    return features.load_bundled_features()[1][images.index]


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
    tables = {
        name: rows[columns].sort_values(["digest", "path"]) for name, rows in findings.items()
    }
    return pd.concat(tables, names=["finding", None]).reset_index("finding")


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


def _set_apart(split, images, ratio, seed):
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


def _by_fold(results):
    """Return validation accuracies: a row for each setting and epoch, a column for each fold."""
    index = [*scenes.HYPERPARAMETERS, "epoch"]
    return results.pivot(index=index, columns="fold", values="val_accuracy")


def rank_epochs(results: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each setting and epoch, the best first, with the columns of `summarize`."""
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
        One row for each setting, the best first: its best `epoch`, and there the mean over
        folds of `val_accuracy` and `val_loss`; `std`, the standard deviation of
        `val_accuracy` over folds; `gap`, by how much `val_accuracy` is lower than that of
        the best setting; and `gap_sem`, the standard error of that gap (from the paired
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
        `val_loss` there; `gap` and `gap_sem` of the runner-up (see `summarize`): the choice
        is clear only if `gap` is well above `gap_sem`. Both are NaN if there is one setting.
    """
    ranked = summarize(results)
    best = ranked.loc[0, [*scenes.HYPERPARAMETERS, "epoch", "val_accuracy", "val_loss"]].to_dict()
    runner_up = ranked[["gap", "gap_sem"]].reindex([1]).iloc[0]
    return best | {"epoch": int(best["epoch"])} | runner_up.to_dict()


def describe_edge(results: pd.DataFrame) -> str:
    """
    Return a sentence for each hyperparameter whose best value is at an edge of the grid.

    A better value may lie beyond it, but none below 0; a list of one value has no edge.
    """
    sentences, best = [], best_hyperparameters(results)
    for name in scenes.HYPERPARAMETERS:
        value, low, high = best[name], results[name].min(), results[name].max()
        if low < high and value in (low, high) and value > 0:
            extreme, more = ("smallest", "smaller") if value == low else ("largest", "larger")
            what = f"The best {name.replace('_', ' ')}, {value:g}, is the {extreme} of the grid"
            sentences.append(f"{what}: add {more} ones to {name.upper()}S.")
    return "\n".join(sentences)


def accuracy_by_other_folds(results: pd.DataFrame) -> float:
    """
    Return the mean accuracy of each fold at the setting and epoch that the other folds choose.

    The highest mean of many settings and epochs is optimistic; this one is not.
    """
    folds = _by_fold(results)
    chosen = {fold: folds.drop(columns=fold).mean(axis=1).idxmax() for fold in folds}
    return float(np.mean([folds.loc[choice, fold] for fold, choice in chosen.items()]))


def predictions_table(images: pd.DataFrame, probabilities: np.ndarray, model: str) -> pd.DataFrame:
    """Return `model`, `path`, `label` of images and a column of probabilities for each class."""
    table = images[["path", "label"]].reset_index(drop=True)
    table.insert(0, "model", model)
    classes = list(images["label"].cat.categories)
    return table.join(pd.DataFrame(probabilities, columns=classes).round(6))


def compare_models(predictions: pd.DataFrame, *, class_weight: str | None = None) -> pd.DataFrame:
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
        A row for each model. Ties in accuracy are broken by the log loss after temperature
        scaling: before it, label smoothing alone would decide.
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


def compare_accuracies(images: pd.DataFrame, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """
    Return the accuracy of models on images, with its 95% confidence interval.

    A row for each model; if labels of these images were corrected, which flatters a model
    that has flagged them, another row for the images whose labels were not.
    """
    y, rows = images["label"].cat.codes.to_numpy(), {}
    corrected = images.get("corrected", pd.Series(False, images.index)).to_numpy()
    for name, of_model in probabilities.items():
        correct = of_model.argmax(axis=1) == y
        rows[name] = calibration.accuracy(correct)
        if corrected.any():
            rows[f"{name}, without corrected labels"] = calibration.accuracy(correct[~corrected])
    return pd.DataFrame(rows).T


def scores_by_class(labels: pd.Series, predictions: Sequence[str]) -> pd.DataFrame:
    """
    Return precision, recall with its 95% interval, F1 score and support of each class.

    A last row, `mean of the classes`, holds balanced accuracy and macro F1, in which a rare
    class counts as much as a frequent one. A class without a photo does not count.
    """
    classes, names = labels.cat.categories, ["precision", "recall", "F1", "support"]
    scores = precision_recall_fscore_support(
        labels.astype(str), predictions, labels=list(classes), zero_division=0
    )
    table = pd.DataFrame(dict(zip(names, scores, strict=True)), classes)
    present = classes[table["support"] > 0]
    hits = {name: np.asarray(predictions)[labels == name] == name for name in present}
    intervals = pd.DataFrame({name: calibration.accuracy(hit) for name, hit in hits.items()})
    table = table.join(intervals.T[["ci_low", "ci_high"]].add_prefix("recall "))
    table.loc["mean of the classes"] = table.loc[present, names[:3]].mean()
    table.loc["mean of the classes", "support"] = table["support"].sum()
    order = ["precision", "recall", "recall ci_low", "recall ci_high", "F1", "support"]
    return table[order].astype({"support": int})


def most_confident_errors(
    images: pd.DataFrame, probabilities: np.ndarray, n: int = 12
) -> pd.DataFrame:
    """Return path, label, prediction and its probability of the most confident errors."""
    classes = images["label"].cat.categories
    table = images[["path", "label"]].assign(
        predicted=classes[probabilities.argmax(axis=1)], probability=probabilities.max(axis=1)
    )
    wrong = table[table["label"].astype(str) != table["predicted"]]
    return wrong.nlargest(n, "probability")


def select_confused(
    images: pd.DataFrame, predictions: Sequence[str], label: str, predicted: str
) -> pd.DataFrame:
    """Return the photos with this label and prediction: a cell of the confusion matrix."""
    classes = images["label"].cat.categories
    for name in (label, predicted):
        if name not in classes:
            raise ValueError(f"{name!r} is no class; it must be one of {photos.some(classes)}")
    return images[(images["label"] == label) & (np.asarray(predictions) == predicted)]


def show_images(paths: Sequence[str | Path], titles: Sequence[str], *, columns: int = 6) -> Figure:
    """Return a matplotlib figure of photos with titles."""
    titles = ["\n".join(map(photos.printable, str(title).split("\n"))) for title in titles]
    return scenes.drawings.grid([photos.read_photo(p) for p in paths], titles, columns=columns)


def first_rows(table: pd.DataFrame, n: int = 5) -> pd.DataFrame | str:
    """Return the first rows of a table, or 'Nothing found.' if it has none."""
    return table.head(n) if len(table) else "Nothing found."


def show_photos(images: pd.DataFrame, titles: Sequence[str], folder: Path | None) -> Figure | None:
    """Return a figure of the photos of a table; without photos, print so."""
    if folder is None:
        print("With the photos, this cell shows some of them.")
    elif images.empty:
        print("Nothing found.")
    else:
        return show_images([folder / path for path in images["path"]], list(titles))


def show_predictions(model: keras.Model, folder: str | Path) -> Figure | None:
    """Return a figure of the photos of a folder under their predictions; else print why not."""
    if not Path(folder).is_dir():
        print(f"Put photos into {folder}/, and this cell shows the predictions.")
        return None
    unreadable = []
    table = classifier.predict(model, folder, failed=unreadable)
    print(*unreadable, sep="\n", end="\n" * bool(unreadable))
    titles = table["label"].astype(str) + table["unsure"].map({True: " (unsure)", False: ""})
    return show_images(list(table["path"]), list(titles))


def flag_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Return for each photo the class that confident learning suggests instead of its label, else -1.

    A class's threshold is the mean probability of the class on its own photos. A label is flagged
    if its probability is below the threshold of its class and that of another class is not; of
    several such classes the most probable is suggested (Northcutt et al., 2021). So a class that
    the classifier seldom predicts with confidence is not flagged more often for that.

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


def list_flagged_labels(images: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """
    Return the photos whose labels `flag_labels` flags, the largest difference first.

    Saved as a CSV and with the column `label` edited, the table is a file for CORRECTIONS.

    Parameters
    ----------
    images : DataFrame
        The photos: `path`, `split` and `label`.
    probabilities : ndarray, shape (n, classes)
        Out-of-fold: from classifiers that did not train on these photos.

    Returns
    -------
    DataFrame
        `path`, `label`, `suggested`, `split`, `label_probability`, `suggested_probability`.
    """
    classes, codes = images["label"].cat.categories, images["label"].cat.codes.to_numpy()
    suggested = flag_labels(probabilities, codes)
    rows = np.flatnonzero(suggested >= 0)
    of_label, of_other = probabilities[rows, codes[rows]], probabilities[rows, suggested[rows]]
    table = images.iloc[rows][["path", "label", "split"]].assign(
        label_probability=of_label.round(4), suggested_probability=of_other.round(4)
    )
    table.insert(2, "suggested", classes[suggested[rows]])
    return table.iloc[np.lexsort([table["path"], of_label - of_other])].reset_index(drop=True)
