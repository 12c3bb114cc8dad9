"""
Label noise: the numbers of `label_noise.md`, and how to repeat what they come from.

`python -m studies.label_noise` prints each number of the page. With `pairs`, it lists
the near-duplicates; with `clean`, it trains heads with the flagged labels removed or
changed, and writes `results/label_cleaning.csv` (two minutes); with `sheets PHOTOS
FOLDER`, it draws the photos of `results/label_reading.csv` for another reader. The
sheets must not be published.
"""

import itertools
from collections.abc import Sequence
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
    cases = {
        "unclear": readings["reading"] == "unclear",
        "label": readings["reading"] == readings["label"],
        "suggestion": readings["reading"] == readings["suggested"],
    }
    read_as = np.select([*cases.values()], [*cases], "other")
    names = ["suggestion", "label", "other", "unclear"]
    return pd.crosstab(readings["chosen"], read_as).reindex(columns=names, fill_value=0)


def near_duplicates(X: np.ndarray, digests: Sequence[str]) -> pd.DataFrame:
    """
    Return the pairs of photos with almost the same features but different pixels.

    `first` < `second` are the rows of a pair, and `cosine` is that of their features;
    the most similar pair comes first.
    """
    unit, digests, pairs = normalize(X), np.asarray(digests), []
    for start in range(0, len(unit), 256):  # all cosines at once would take gigabytes
        cosines = unit[start : start + 256] @ unit[start:].T
        first, second = np.nonzero(np.triu(cosines >= THRESHOLD, 1))
        pairs.append((start + first, start + second, cosines[first, second]))
    first, second, cosine = map(np.concatenate, zip(*pairs, strict=True))
    table = pd.DataFrame({"first": first, "second": second, "cosine": cosine})
    table = table[digests[first] != digests[second]]
    return table.sort_values(
        ["cosine", "first"], ascending=[False, True], ignore_index=True
    )


def pairs() -> None:
    """Print the near-duplicates among the bundled images."""
    images, X, _ = common.load_images()
    table, paths = near_duplicates(X, images["digest"]), images["path"].to_numpy()
    print(
        table.assign(
            first=paths[table["first"]], second=paths[table["second"]]
        ).to_string()
    )


def clean() -> None:
    """
    Train on labels cleaned in several ways, and compare on the same validation images.
    """
    images, X, y = common.load_images()
    val, train = (
        (images["split"] == name).to_numpy() for name in ("validation", "train")
    )
    X_val, y_val, X, y, groups = (
        X[val],
        y[val],
        X[train],
        y[train],
        images["digest"][train],
    )
    probabilities = np.zeros((len(y), y.max() + 1))
    for rest, fold in grid_search.make_folds(y, groups, folds=5, seed=0):
        head, _ = heads.train_head(X[rest], y[rest], common.best_setting())
        probabilities[fold] = head(X[fold])
    suggested = evaluation.flag_labels(probabilities, y)
    kept, others = suggested < 0, np.ones(len(y), bool)
    others[np.random.default_rng(0).choice(len(y), (~kept).sum(), replace=False)] = (
        False
    )
    ways = {
        "all photos": (slice(None), y),
        "flagged removed": (kept, y),
        "flagged changed": (slice(None), np.where(kept, y, suggested)),
        "as many others removed": (others, y),
    }
    rows = []
    for (name, (chosen, labels)), seed in itertools.product(ways.items(), range(3)):
        options = common.best_setting(seed)
        head, _ = heads.train_head(X[chosen], labels[chosen], options)
        probabilities = head.predict(X_val, verbose=0)
        of_label = probabilities[np.arange(len(y_val)), y_val]
        accuracy = np.mean(probabilities.argmax(axis=1) == y_val)
        rows.append([name, len(y[chosen]), seed, accuracy, -np.log(of_label).mean()])
    columns = ["labels", "photos", "seed", "val_accuracy", "val_loss"]
    common.write(pd.DataFrame(rows, columns=columns), "label_cleaning")


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


def numbers() -> list[str]:
    """Return each row and phrase of the page that holds a number."""
    return [*numbers_of_readings(), *numbers_of_errors(), *numbers_of_cleaning()]


def numbers_of_readings() -> list[str]:
    reading, flagged = common.read("label_reading"), common.read("flagged_labels")
    counts = count_annotations(pd.concat([reading, common.read("label_mistakes")]))
    drawn = reading[reading["chosen"] == "random"]
    agrees, clear = drawn["reading"] == drawn["label"], drawn["reading"] != "unclear"
    others = drawn[clear & ~agrees]
    snowy = (others["label"] == "glacier") & (others["reading"] == "mountain")
    by_model = drawn["path"].map(shipped_model_is_correct())
    n_images = len(utils.drop_leaks(features.load_bundled_features()[0]))
    pairs = flagged[["label", "suggested"]].isin(["glacier", "mountain"]).all(axis=1)
    return [
        *(
            common.row(ROWS[kind], n.sum(), *n)
            for kind, n in counts.loc[[*ROWS]].iterrows()
        ),
        f"{calibration.percent(agrees[clear])} of the {clear.sum()} clear ones",
        f"{calibration.percent(agrees)} if the {(~clear).sum()} unclear ones count as "
        "disagreements",
        f"{by_model[clear].mean():.1%} of the clear ones and {by_model.mean():.1%} of",
        f"{snowy.sum()} of its {len(others)} disagreements",
        f"{len(flagged)} of {n_images:,} labels, {pairs.sum()} of them",
        f"{counts.loc['flagged', 'suggestion']} of the "
        f"{counts.loc['flagged'].sum()} most",
    ]


def shipped_model_is_correct() -> pd.Series:
    """Return whether the shipped model predicts the label, for each test path."""
    table = common.read("test_predictions").set_index(["path", "label"])
    predicted = table.select_dtypes("number").idxmax(axis=1).reset_index("label")
    return predicted[0] == predicted["label"]


def numbers_of_errors() -> list[str]:
    table = common.read("label_noise_predictions").set_index(["path", "label", "run"])
    guesses = (
        table.select_dtypes("number").idxmax(axis=1).unstack().reset_index("label")
    )
    correct = guesses[1] == guesses["label"]
    shared = ~correct & (guesses[[1, 2, 3]].nunique(axis=1) == 1)
    read = pd.concat([common.read("label_reading"), common.read("label_mistakes")])
    read = read.drop_duplicates("path")[["path", "label", "reading"]].set_index("path")
    read = read[read.index.isin(correct.index[shared])]
    as_label, not_shared = (
        (read["reading"] == read["label"]).sum(),
        (~correct & ~shared).sum(),
    )
    won = not_shared + shared.sum() * as_label / len(read)
    flagged = correct.index.isin(common.read("flagged_labels")["path"])
    pairs = common.read("near_copies")
    crossing = pairs[
        (pairs["split_1"] != pairs["split_2"]) & (pairs["same_picture"] == "yes")
    ]
    copied = correct.index.isin([*crossing["path_1"], *crossing["path_2"]])
    by_model = shipped_model_is_correct()[correct.index]
    kinds = pairs["same_picture"].value_counts()
    return [
        f"{(~correct).sum()} errors on the {len(correct):,} test photos",
        f"{not_shared} of them are not shared by all three runs",
        f"Of the {shared.sum()} shared ones, {len(read)} were "
        f"read, {as_label} as their label",
        f"{shared.sum() - len(read)} were never read",
        f"would reach {(correct.sum() + won) / len(correct):.1%}",
        f"{calibration.percent(correct)} on all test photos",
        f"{calibration.percent(correct[~flagged])} without "
        f"the {flagged.sum()} flagged ones",
        f"{len(pairs)} pairs with a cosine of at least {THRESHOLD}",
        f"{kinds['yes']} as the same picture, {kinds['no']} as "
        f"two, {kinds['unsure']} as either",
        f"{len(crossing)} of the former cross the split",
        f"{calibration.percent(correct[~copied])} on the "
        f"{(~copied).sum():,} test photos without "
        "such",
        f"{calibration.percent(by_model[~copied])} for the shipped model, which has "
        f"{calibration.percent(by_model)} on all",
    ]


def numbers_of_cleaning() -> list[str]:
    accuracy = common.read("label_cleaning").pivot(index="seed", columns="labels")[
        "val_accuracy"
    ]
    gain = 100 * accuracy.sub(accuracy["all photos"], axis=0)
    gains = gain.mean().map("{:+.2f}".format), gain.sem().map("{:.2f}".format)
    splits = common.read("flagged_labels")["split"].value_counts()
    return [
        f"{splits['validation']} of the {splits.sum()} flagged labels",
        *map(common.row, gain, accuracy.mean().map("{:.2%}".format), *gains),
    ]


if __name__ == "__main__":
    common.main(numbers, clean=clean, pairs=pairs, sheets=sheets)
