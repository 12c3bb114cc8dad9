"""Helpers of `intel_classification.ipynb`."""

from collections.abc import Sequence
from pathlib import Path

import scenes  # isort: skip  (first: it sets up TensorFlow for Keras)

import keras
import numpy as np
import pandas as pd
import sklearn.datasets
from matplotlib.figure import Figure

from scenes import (
    classifier,
    dataset,
    drawings,
    evaluation,
    features,
    fine_tuning,
    folders,
    grid_search,
    heads,
    photos,
    runs,
    settings,
)


def download_photos() -> Path:
    """Download the data set from Kaggle (about 350 MB, once) and return its folder."""
    import kagglehub  # only here: it takes a second, and few runs download

    try:
        folder = kagglehub.dataset_download("puneet6060/intel-image-classification")
    except OSError as error:  # the errors of requests are such
        raise OSError(
            f"Kaggle cannot be reached ({type(error).__name__}): connect to the "
            f"network, or set DOWNLOAD = False"
        ) from error
    return folders.find_photos(folder)


def load_images(
    folder: str | Path | None,
    output: str | Path | None,
    weights: str | Path | None,
    *,
    download: bool = False,
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """
    Return the table of the photos, with digests, and their thumbnails.

    Without photos, these are the table of the bundled features, whose `file` is
    missing, and None.

    Parameters
    ----------
    folder : path or None
        Where the photos are; None looks for the Intel photos, as `find_photos` says.
    output : path or None
        The folder for results, which may be no folder of a class or split.
    weights : str, path or None
        Those of the base model; the bundled features were computed with 'imagenet'.
    download : bool
        Fetch the Intel photos from Kaggle first.
    """
    if download and folder:
        raise ValueError("set PHOTOS or DOWNLOAD, not both: each says which photos")
    place = download_photos() if download else folders.find_photos(folder)
    if place is None:
        if weights != "imagenet":
            raise ValueError(
                f"WEIGHTS is {weights!r}, but the bundled features are of 'imagenet': "
                f"set it to that, or PHOTOS to a folder"
            )
        images, _ = features.load_bundled_features()
        print(
            f"No photos found: using the bundled features of "
            f"{len(images):,} Intel photos."
        )
        return images, None
    folders.check_output(output, place)
    images = folders.list_images(place)
    digests, thumbnails = dataset.digest_photos(images)
    return images.join(digests), thumbnails


def load_features(
    images: pd.DataFrame, base_model: keras.Model, cache: str | Path
) -> np.ndarray:
    """
    Return the features of all images, a row each: computed, or bundled without photos.
    """
    if images["file"].notna().all():
        # Of all images, in their order: the last digit depends on the others of a
        # batch.
        return features.extract_features(images, base_model, cache=cache)
    _, X = features.load_bundled_features()
    return X[images.index]


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
        One row for each photo concerned and finding: `finding` ('unreadable',
        'duplicate', 'conflicting labels', 'leakage'), `path`, `label`, `split`,
        `digest` and `problem`. Duplicates are photos with the same pixels; of these,
        'conflicting labels' have different labels, and 'leakage' lies in different
        splits.
    """
    is_readable = images["digest"] != ""
    readable = images[is_readable]
    copies = readable.groupby("digest")[["path", "label", "split"]]
    differs = copies.transform("nunique") > 1
    findings = {
        "unreadable": images[~is_readable],
        "duplicate": readable[differs["path"]],
        "conflicting labels": readable[differs["label"]],
        "leakage": readable[differs["split"]],
    }
    table = pd.concat(findings, names=["finding", None])
    table = table.reset_index("finding")
    columns = ["finding", "path", "label", "split", "digest", "problem"]
    return table[columns].sort_values(["finding", "digest", "path"])


def drop_leaks(images: pd.DataFrame) -> pd.DataFrame:
    """
    Return the table without photos that are also in a later split.

    Training photos go whose pixels are also those of a test or a validation photo, and
    validation photos whose pixels are also those of a test photo. How many is printed.

    Raises
    ------
    ValueError
        A class has no photo left in a split.
    """
    split = images["split"].astype(str)
    rank = split.map({"train": 0, "validation": 1, "test": 2})
    highest = rank.groupby(images["digest"]).transform("max")
    is_leak = (rank < highest) & (images["digest"] != "")
    cells = split + " photo of " + images["label"].astype(str)
    if is_leak.any():
        counts = split[is_leak].value_counts()
        what = " and ".join(f"{n} {name}" for name, n in counts.items())
        print(
            f"Left out {what} photo(s): the same photos are in the validation or test "
            f"split."
        )
    emptied = set(cells[is_leak]) - set(cells[~is_leak])
    if emptied:
        raise ValueError(
            f"no {min(emptied)} is left, since each is also in the validation or test "
            f"split; delete the copies there, or the whole split: it is then drawn"
        )
    return images[~is_leak]


def shrink(images: pd.DataFrame, factor: int = 4, *, start: int = 0) -> pd.DataFrame:
    """
    Return every so many-th photo of each class in each split.

    Parameters
    ----------
    images : DataFrame
        The table of the photos; no file is touched.
    factor : int
        1 keeps all, 4 keeps a quarter. Prediction photos are all kept.
    start : int
        The number of the first photo that is kept; of `factor` starts, each keeps other
        photos. In a smaller class, `start` counts modulo its size.

    Returns
    -------
    DataFrame
        The rows that stay, in their order and with their index.
    """
    settings.check(shrink_factor=factor)
    of_class = images.groupby(["split", "label"], observed=True)
    number = of_class.cumcount()
    size = number + of_class.cumcount(ascending=False) + 1
    first = start % np.minimum(factor, size)
    is_kept = number % factor == first
    return images[is_kept | images["label"].isna()]


def create_test(
    images: pd.DataFrame, ratio: float = 0.2, *, seed: int = 0
) -> pd.DataFrame:
    """
    Move a stratified share of the training photos to the test split, if that has none.

    Parameters and result are those of `create_validation`. The same photos are chosen
    in each run with the same seed, so that the test photos stay unseen.
    """
    settings.check(test_ratio=ratio, seed=seed)
    return _set_apart("test", images, ratio, seed)


def create_validation(
    images: pd.DataFrame, ratio: float = 0.2, *, seed: int = 0
) -> pd.DataFrame:
    """
    Move a stratified share of the training photos to validation, if there is none.

    A validation set that is given is in no fold of the cross-validation; one that is
    drawn from the training photos is in the folds with these.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with `group`: photos of one group stay together.
    ratio : float
        The share, above 0 and up to 0.5: one of `round(1 / ratio)` folds.
    seed : int
        The same seed chooses the same photos.

    Returns
    -------
    DataFrame
        A new table in which the `split` of these photos is 'validation', and
        `in_folds` says which photos are cross-validated.
    """
    settings.check(validation_ratio=ratio, seed=seed)
    is_given = (images["split"] == "validation").any()
    if not is_given or "in_folds" not in images:  # else an earlier call has drawn it
        images = images.assign(in_folds=images["split"] == "train")
    return _set_apart("validation", images, ratio, seed)


def _set_apart(split, images, ratio, seed):
    """Return the table with one of the folds of the training photos as a split."""
    images = images.copy()
    if (images["split"] == split).any():
        return images
    folds = round(1 / ratio)
    is_train = images["split"] == "train"
    _, rows = _draw(images, is_train, folds, seed)[0]
    images.loc[images.index[rows], "split"] = split
    print(
        f"No {split} split found; using {len(rows):,} of {is_train.sum():,} training "
        f"photos, a random 1/{folds} (ratio {ratio:g})."
    )
    return images


def draw_folds(
    images: pd.DataFrame, folds: int, *, seed: int = 0
) -> list[grid_search.Fold]:
    """
    Return (training rows, held-out rows) of each fold: numbers of rows of the table.

    Parameters
    ----------
    images : DataFrame
        Training and validation photos, with `label`, `group` and `in_folds`, as
        `create_validation` returns them. The classes have the same shares in each
        fold, and no group is divided.
    folds, seed : int
    """
    settings.check(folds=folds, seed=seed)
    return _draw(images, images["in_folds"], folds, seed)


def _draw(images, among, folds, seed):
    """Return the folds of some photos, as numbers of rows of the whole table."""
    rows = np.flatnonzero(among)
    labels = images["label"].iloc[rows]
    groups = images["group"].iloc[rows]
    splits = grid_search.make_folds(labels, groups, folds=folds, seed=seed)
    return [(rows[training], rows[held_out]) for training, held_out in splits]


def cross_fit(
    images: pd.DataFrame,
    X: np.ndarray,
    splits: Sequence[grid_search.Fold],
    base_model: keras.Model,
    head_options: settings.HeadOptions,
    options: settings.FineTuningOptions,
    *,
    cache: str | Path,
) -> np.ndarray:
    """
    Return the probabilities of fine-tuned models that have not trained on the photos.

    For each fold, a model is fine-tuned on the others and predicts the photos of the
    fold. A model that is fine-tuned on all folds predicts the photos that are in none.
    Each training resumes, and all share their activations.

    Parameters
    ----------
    images : DataFrame
        Training and validation photos.
    X : ndarray, shape (n, n_features)
        Their features.
    splits : sequence of (training rows, validation rows)
        Those of `draw_folds`.
    base_model : keras.Model
    head_options, options
        How each head trains, and each fine-tuning from it.
    cache : path
        As for `fine_tune`.

    Returns
    -------
    ndarray, shape (n, n_classes)
    """
    y = images["label"].cat.codes.to_numpy()
    classes = list(images["label"].cat.categories)
    in_folds = np.sort(np.concatenate([held_out for _, held_out in splits]))
    in_none = np.setdiff1d(np.arange(len(images)), in_folds)
    parts = list(splits)
    if len(in_none):
        parts.append((in_folds, in_none))
    probabilities = np.zeros((len(images), len(classes)))
    for training, held_out in parts:
        head = heads.train_head(X[training], y[training], head_options)
        split = np.full(len(images), "validation")
        split[training] = "train"
        of_part = images.assign(split=split)
        base, head, _ = fine_tuning.fine_tune(
            of_part, base_model, head, options, cache=cache
        )
        model = classifier.build_classifier(base, head, classes)
        files = list(images["file"].iloc[held_out])
        predictions = classifier.predict(model, files)
        probabilities[held_out] = predictions[classes]
    return probabilities


def show_images(paths: Sequence[str | Path], titles: Sequence[str]) -> Figure:
    """Return a matplotlib figure of photos with titles, six a row."""
    shown = [photos.read_photo(path) for path in paths]
    printable = []
    for title in titles:
        lines = map(photos.printable, str(title).split("\n"))
        printable.append("\n".join(lines))
    return drawings.grid(shown, printable, columns=6)


def percent(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """
    Return a table to be read: shares as '94.23%', counts as whole numbers, no NaN.

    Parameters
    ----------
    table : DataFrame
    columns : sequence of str
        Those that hold shares, between 0 and 1.
    """
    shown = table.convert_dtypes().astype(object)
    for name in columns:
        shown[name] = table[name].map("{:.2%}".format)
    return shown.where(table.notna(), "")


def describe_times(head_seconds: float, results: pd.DataFrame) -> str:
    """Return one line on the seconds of one head and of a search, unless it resumed."""
    if results.attrs["resumed"]:
        return "The search was resumed: its time is not that of the whole search."
    n_settings = results.groupby(scenes.HYPERPARAMETERS).ngroups
    return (
        f"One head: {head_seconds:.0f} s; {n_settings} settings x "
        f"{results['fold'].nunique()} folds: {results.attrs['seconds']:.0f} s"
    )


def describe_search(best: dict, accuracy: float, metric: str, with_photos: bool) -> str:
    """
    Return one line on the best setting of a search, and its cross-validated accuracy.

    Without photos, that of the committed search stands beside it.

    Parameters
    ----------
    best : dict
        That of `evaluation.best_hyperparameters`.
    accuracy : float
        That of `evaluation.accuracy_by_other_folds`.
    metric : str
        What the accuracy is called.
    with_photos : bool
    """
    line = (
        f"Head of this run: learning rate {best['learning_rate']:g}, dropout "
        f"{best['dropout']:g}, weight decay {best['weight_decay']:g}, "
        f"{best['epochs']} epochs; {metric} if selected by the other folds "
        f"{accuracy:.2%}"
    )
    if not with_photos:
        committed = pd.read_csv(runs.COMMITTED / "grid_search.csv")
        accuracy = evaluation.accuracy_by_other_folds(committed)
        line += f" (committed search: accuracy {accuracy:.2%})"
    return line


def first_rows(table: pd.DataFrame, n: int = 5) -> pd.DataFrame | str:
    """Return the first rows of a table, or 'Nothing found.' if it has none."""
    return table.head(n) if len(table) else "Nothing found."


def show_photos(images: pd.DataFrame, titles: Sequence[str]) -> Figure | None:
    """Return a figure of the photos of a table; without photos, print so."""
    if images.empty:
        print("Nothing found.")
    elif images["file"].isna().any():
        print("With the photos, this cell shows some of them.")
    else:
        return show_images(images["file"], titles)


def choose_examples(images: pd.DataFrame, *, shipped: bool) -> pd.DataFrame:
    """
    Return `path` and `file` of four test photos, or of two that scikit-learn ships.

    Parameters
    ----------
    images : DataFrame
        The test photos.
    shipped : bool
        Take those of scikit-learn.
    """
    if not shipped:
        examples = images[["path", "file"]]
        return examples.sample(min(4, len(examples)), random_state=0)
    folder = Path(sklearn.datasets.__file__).with_name("images")
    names = ["china.jpg", "flower.jpg"]
    files = [str(folder / name) for name in names]
    return pd.DataFrame({"path": names, "file": files})


def show_predictions(
    model: keras.Model, folder: str | Path, n: int = 36
) -> Figure | None:
    """
    Return a figure of the first n photos of a folder under their predictions.

    What is not shown is printed; without a photo, there is no figure.
    """
    if not Path(folder).is_dir():
        print(f"Put photos into {folder}/, and this cell shows the predictions.")
        return None
    found, skipped = folders.sort_files(Path(folder))
    said = folders.describe_skipped(skipped, Path(folder))
    if said:
        print(said)
    if not found:
        print(f"There is no photo in {folder}/.")
        return None
    if len(found) > n:
        print(f"The first {n} of {len(found):,} photos are shown.")
    table, unreadable = classifier.predict_readable(model, found[:n])
    for problem in unreadable:
        print(problem)
    if table.empty:
        return None
    marks = table["unsure"].map({True: " (unsure)", False: ""})
    titles = table["label"].astype(str) + marks
    return show_images(table["path"], titles)
