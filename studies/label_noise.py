"""
Label noise: the numbers of `label_noise.md`, and how to repeat what they come from.

`python -m studies.label_noise` prints each number of the page. With `pairs`, it lists
the near-duplicates; with `clean`, it trains heads with the flagged labels removed or
changed, and writes `results/label_cleaning.csv` (two minutes); with `sheets PHOTOS
FOLDER`, it draws the photos of `results/label_reading.csv` for another reader. The
sheets must not be published.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

import utils
from scenes import calibration, evaluation, features, grid_search, heads
from studies import common

THRESHOLD = 0.95  # the cosine of near-duplicates
ROWS = {
    "random": "random test photos",
    "flagged": "photos with the most doubtful labels",
    "mistake": "errors shared by three fine-tuned models",
    "right": "photos that these three got right",
}


def count_annotations(readings: pd.DataFrame) -> pd.DataFrame:
    """
    Return how many photos were read as the suggestion, as their label, as another
    class, unclear.

    There is a row for each value of `chosen`. `label`, `suggested` (a class, or
    missing) and `reading` (a class, or 'unclear') are the other columns of `readings`.
    """
    read_as = pd.Series("other", index=readings.index)
    read_as[readings["reading"] == readings["suggested"]] = "suggestion"
    read_as[readings["reading"] == readings["label"]] = "label"
    read_as[readings["reading"] == "unclear"] = "unclear"
    names = ["suggestion", "label", "other", "unclear"]
    counts = pd.crosstab(readings["chosen"], read_as)
    return counts.reindex(columns=names, fill_value=0)


def near_duplicates(X: np.ndarray, digests: Sequence[str]) -> pd.DataFrame:
    """
    Return the pairs of photos with almost the same features but different pixels.

    `first` < `second` are the rows of a pair, and `cosine` is that of their features;
    the most similar pair comes first.
    """
    unit = normalize(X)
    digests = np.asarray(digests)
    tables = []
    for start in range(0, len(unit), 256):  # all cosines at once would take gigabytes
        cosines = unit[start : start + 256] @ unit[start:].T
        first, second = np.nonzero(np.triu(cosines >= THRESHOLD, 1))
        table = pd.DataFrame({"first": start + first, "second": start + second})
        table["cosine"] = cosines[first, second]
        tables.append(table)
    table = pd.concat(tables)
    is_different = digests[table["first"]] != digests[table["second"]]
    return table[is_different].sort_values(
        ["cosine", "first"], ascending=[False, True], ignore_index=True
    )


def pairs() -> None:
    """Print the near-duplicates among the bundled images."""
    images, X, _ = common.load_images()
    paths = images["path"].to_numpy()
    table = near_duplicates(X, images["digest"])
    for name in ("first", "second"):
        table[name] = paths[table[name]]
    print(table.to_string())


def clean() -> None:
    """
    Train on labels cleaned in several ways, and compare on the same validation images.
    """
    images, X, y = common.load_images()
    is_val = (images["split"] == "validation").to_numpy()
    is_train = (images["split"] == "train").to_numpy()
    X_val, y_val = X[is_val], y[is_val]
    X_train, y_train = X[is_train], y[is_train]
    suggested = suggest_labels(X_train, y_train, images["digest"][is_train])
    ways = ways_to_clean(y_train, suggested)
    rows = []
    for name, seed in itertools.product(ways, range(3)):
        kept, labels = ways[name]
        options = common.best_setting(seed)
        head = heads.train_head(X_train[kept], labels[kept], options)
        probabilities = head.predict(X_val, verbose=0)
        accuracy = np.mean(probabilities.argmax(axis=1) == y_val)
        of_label = probabilities[np.arange(len(y_val)), y_val]
        loss = -np.log(of_label).mean()
        rows.append([name, kept.sum(), seed, accuracy, loss])
    columns = ["labels", "photos", "seed", "val_accuracy", "val_loss"]
    common.write(pd.DataFrame(rows, columns=columns), "label_cleaning")


def suggest_labels(X: np.ndarray, y: np.ndarray, groups: Sequence) -> np.ndarray:
    """
    Return what `flag_labels` suggests, by heads that did not train on the photo.

    Parameters
    ----------
    X, y : ndarray, shapes (n, n_features) and (n,)
    groups : sequence of length n
        Photos of the same group never stand on both sides of a fold.
    """
    splits = grid_search.make_folds(y, groups, folds=5, seed=0)
    probabilities = common.predict_folds(X, y, splits, common.best_setting())
    return evaluation.flag_labels(probabilities, y)


def ways_to_clean(
    y: np.ndarray, suggested: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each way to clean labels, which photos stay, and all their labels."""
    is_flagged = suggested >= 0
    everything = np.ones(len(y), bool)
    others = everything.copy()
    rng = np.random.default_rng(0)
    others[rng.choice(len(y), is_flagged.sum(), replace=False)] = False
    return {
        "all photos": (everything, y),
        "flagged removed": (~is_flagged, y),
        "flagged changed": (everything, np.where(is_flagged, suggested, y)),
        "as many others removed": (others, y),
    }


def sheets(source: str, folder: str) -> None:
    """
    Draw the photos of the reading in a new folder, 16 a sheet, numbered and without
    labels.
    """
    Path(folder).mkdir(parents=True)
    paths = [Path(source, path) for path in common.read("label_reading")["path"]]
    for start in range(0, len(paths), 16):
        titles = range(start + 1, start + 17)
        figure = utils.show_images(paths[start : start + 16], titles, columns=4)
        figure.savefig(Path(folder, f"sheet_{start // 16 + 1:02}.png"))


# --- The numbers of the page ----------------------------------------------------------


def numbers() -> Iterator[str]:
    """Yield each row and phrase of the page that holds a number."""
    yield from numbers_of_readings()
    yield from numbers_of_errors()
    yield from numbers_of_cleaning()


def numbers_of_readings() -> Iterator[str]:
    """Yield those of the reader and of the flagged labels."""
    reading = common.read("label_reading")
    counts = count_annotations(pd.concat([reading, common.read("label_mistakes")]))
    for chosen, name in ROWS.items():
        row = counts.loc[chosen]
        yield common.row(name, row.sum(), *row)
    drawn = reading[reading["chosen"] == "random"]
    is_clear = drawn["reading"] != "unclear"
    agrees = drawn["reading"] == drawn["label"]
    of_clear = calibration.percent(agrees[is_clear])
    yield f"{of_clear} of the {is_clear.sum()} clear ones"
    unclear = (~is_clear).sum()
    yield (
        f"{calibration.percent(agrees)} if the {unclear} unclear ones count as "
        "disagreements"
    )
    by_model = drawn["path"].map(shipped_model_is_correct())
    of_clear = by_model[is_clear].mean()
    yield f"{of_clear:.1%} of the clear ones and {by_model.mean():.1%} of"
    others = drawn[is_clear & ~agrees]
    snowy = (others["label"] == "glacier") & (others["reading"] == "mountain")
    yield f"{snowy.sum()} of its {len(others)} disagreements"
    flagged = common.read("flagged_labels")
    n_images = len(utils.drop_leaks(features.load_bundled_features()[0]))
    both = flagged[["label", "suggested"]].isin(["glacier", "mountain"])
    n_both = both.all(axis=1).sum()
    yield f"{len(flagged)} of {n_images:,} labels, {n_both} of them"
    of_flagged = counts.loc["flagged"]
    yield f"{of_flagged['suggestion']} of the {of_flagged.sum()} most"


def shipped_model_is_correct() -> pd.Series:
    """Return whether the shipped model predicts the label, for each test path."""
    table = common.read("test_predictions").set_index(["path", "label"])
    predicted = table.select_dtypes("number").idxmax(axis=1).reset_index("label")
    return predicted[0] == predicted["label"]


def numbers_of_errors() -> Iterator[str]:
    """Yield those of the errors that three models share, and of the near-duplicates."""
    table = common.read("label_noise_predictions").set_index(["path", "label", "run"])
    guesses = table.select_dtypes("number").idxmax(axis=1)
    guesses = guesses.unstack().reset_index("label")
    correct = guesses[1] == guesses["label"]
    is_shared = ~correct & (guesses[[1, 2, 3]].nunique(axis=1) == 1)
    n_shared = is_shared.sum()
    yield f"{(~correct).sum()} errors on the {len(correct):,} test photos"
    not_shared = (~correct & ~is_shared).sum()
    yield f"{not_shared} of them are not shared by all three runs"
    read = pd.concat([common.read("label_reading"), common.read("label_mistakes")])
    read = read.drop_duplicates("path").set_index("path")
    read = read[read.index.isin(correct.index[is_shared])]
    as_label = (read["reading"] == read["label"]).sum()
    yield (
        f"Of the {n_shared} shared ones, {len(read)} were read, {as_label} as their "
        "label"
    )
    yield f"{n_shared - len(read)} were never read"
    won = not_shared + n_shared * as_label / len(read)
    yield f"would reach {(correct.sum() + won) / len(correct):.1%}"
    yield f"{calibration.percent(correct)} on all test photos"
    is_flagged = correct.index.isin(common.read("flagged_labels")["path"])
    without = calibration.percent(correct[~is_flagged])
    yield f"{without} without the {is_flagged.sum()} flagged ones"
    near = common.read("near_copies")
    yield f"{len(near)} pairs with a cosine of at least {THRESHOLD}"
    same = near["same_picture"].value_counts()
    yield (
        f"{same['yes']} as the same picture, {same['no']} as two, {same['unsure']} as "
        "either"
    )
    crossing = near.query("split_1 != split_2 and same_picture == 'yes'")
    yield f"{len(crossing)} of the former cross the split"
    is_copied = correct.index.isin([*crossing["path_1"], *crossing["path_2"]])
    without = calibration.percent(correct[~is_copied])
    yield f"{without} on the {(~is_copied).sum():,} test photos without such"
    by_model = shipped_model_is_correct()[correct.index]
    without = calibration.percent(by_model[~is_copied])
    on_all = calibration.percent(by_model)
    yield f"{without} for the shipped model, which has {on_all} on all"


def numbers_of_cleaning() -> Iterator[str]:
    """Yield those of the training on cleaned labels."""
    splits = common.read("flagged_labels")["split"].value_counts()
    yield f"{splits['validation']} of the {splits.sum()} flagged labels"
    table = common.read("label_cleaning")
    accuracy = table.pivot(index="seed", columns="labels", values="val_accuracy")
    gain = 100 * accuracy.sub(accuracy["all photos"], axis=0)
    for name in gain:
        mean, error = gain[name].mean(), gain[name].sem()
        yield common.row(
            name, f"{accuracy[name].mean():.2%}", f"{mean:+.2f}", f"{error:.2f}"
        )


if __name__ == "__main__":
    common.main(numbers, clean=clean, pairs=pairs, sheets=sheets)
