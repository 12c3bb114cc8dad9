"""
Label noise: the numbers of `label_noise.md`, and how to repeat what they come from.

`python -m studies.label_noise` prints each number of the page. With `pairs`, it lists the
near-duplicates; with `clean`, it trains heads with the flagged labels removed, softened or
changed, and writes `results/label_cleaning.csv` (two minutes); with `sheets PHOTOS FOLDER`, it
draws the 400 photos of `results/label_reading.csv` in the order of the reading, with nothing but
numbers, for another reader. The sheets show the photos, so they must not be published.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from sklearn.preprocessing import normalize

import utils
from scenes import features, grid_search, heads, photos
from studies import common

GRID, SIZE = 4, 256  # a sheet holds GRID x GRID photos of SIZE pixels
THRESHOLD = 0.95  # the cosine of near-duplicates
ROWS = {
    "random": "random test photos",
    "suspect": "photos with the most doubtful labels",
    "mistake": "errors shared by three fine-tuned models",
    "right": "photos that these three got right",
}


def count_annotations(readings: pd.DataFrame) -> pd.DataFrame:
    """
    Return how many photos were read as the suggestion, as their label, as another class, unclear.

    There is a row for each value of `chosen`. `label`, `suggested` (a class, or missing) and
    `reading` (a class, or 'unclear') are the other columns of `readings`.
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

    `first` < `second` are the rows of a pair, and `cosine` is that of their features; the most
    similar pair comes first.
    """
    unit, digests, pairs = normalize(X), np.asarray(digests), []
    for start in range(0, len(unit), 256):  # all cosines at once would take gigabytes
        cosines = unit[start : start + 256] @ unit[start:].T
        first, second = np.nonzero(np.triu(cosines >= THRESHOLD, 1))
        pairs.append((start + first, start + second, cosines[first, second]))
    first, second, cosine = map(np.concatenate, zip(*pairs, strict=True))
    table = pd.DataFrame({"first": first, "second": second, "cosine": cosine})
    table = table[digests[first] != digests[second]]
    return table.sort_values(["cosine", "first"], ascending=[False, True], ignore_index=True)


def pairs() -> None:
    """Print the near-duplicates among the bundled images."""
    images, X, _ = common.load_images()
    table = near_duplicates(X, images["digest"])
    for side in ("first", "second"):
        table[side] = images["path"].to_numpy()[table[side]]
    print(table.to_string())


def clean() -> None:
    """Train on labels cleaned in several ways, and compare on the same validation images."""
    images, X, y = common.load_images()
    train, held_out = ((images["split"] == name).to_numpy() for name in ("train", "validation"))
    setting, classes = common.best_setting(), np.eye(y.max() + 1, dtype="float32")
    oof_probabilities = np.zeros((train.sum(), len(classes)), "float32")
    groups = images["digest"][train]
    for rest, fold in grid_search.make_folds(y[train], groups, folds=5, seed=0):
        head, _ = heads.train_head(X[train][rest], y[train][rest], **setting)
        oof_probabilities[fold] = head.predict(X[train][fold], verbose=0)
    suggested = utils.find_suspects(oof_probabilities, y[train])
    flagged, every, labels = suggested >= 0, np.ones(train.sum(), bool), classes[y[train]]
    changed = np.where(flagged[:, None], classes[suggested], labels)
    others = every.copy()
    others[np.random.default_rng(0).choice(len(every), flagged.sum(), replace=False)] = False
    ways = {
        "all photos": (every, labels),
        "flagged removed": (~flagged, labels),
        "flagged softened": (every, (labels + changed) / 2),
        "flagged changed": (every, changed),
        "as many others removed": (others, labels),
    }
    rows = []
    for name, (kept, targets) in ways.items():
        for seed in range(3):
            head = train_on_shares(X[train][kept], targets[kept], seed=seed, **setting)
            probabilities = head.predict(X[held_out], verbose=0)
            of_label = probabilities[np.arange(held_out.sum()), y[held_out]]
            accuracy = np.mean(probabilities.argmax(axis=1) == y[held_out])
            rows.append([name, kept.sum(), seed, accuracy, -np.log(of_label.clip(1e-7)).mean()])
    columns = ["labels", "photos", "seed", "val_accuracy", "val_loss"]
    common.write(pd.DataFrame(rows, columns=columns), "label_cleaning")


def train_on_shares(
    X: np.ndarray,
    shares: np.ndarray,
    *,
    seed: int,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    **penalty: float,
) -> keras.Model:
    """Return a head trained as `train_head` does, but on labels that are shares of classes."""
    keras.utils.set_random_seed(seed)
    head = heads.build_head(X.shape[1], shares.shape[1], **penalty)
    head.compile(
        keras.optimizers.Adam(learning_rate),
        loss="categorical_crossentropy",
        steps_per_execution=64,
        jit_compile=False,
    )
    head.fit(X, shares, batch_size=batch_size, epochs=epochs, verbose=0)
    return head


def sheets(source: str, folder: str) -> None:
    """Draw the photos of the reading on sheets in a new folder, numbered and without labels."""
    Path(folder).mkdir(parents=True)
    paths, font = common.read("label_reading")["path"], ImageFont.load_default(22)
    for start in range(0, len(paths), GRID**2):
        sheet = Image.new("RGB", (GRID * (SIZE + 6), GRID * (SIZE + 32)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, path in enumerate(paths[start : start + GRID**2]):
            left, top = (place % GRID) * (SIZE + 6), (place // GRID) * (SIZE + 32)
            photo = Image.fromarray(photos.read_photo(Path(source, path))).resize((SIZE, SIZE))
            sheet.paste(photo, (left, top + 28))
            draw.text((left + 4, top + 2), str(start + place + 1), fill="black", font=font)
        sheet.save(Path(folder, f"sheet_{start // GRID**2 + 1:02}.png"))


def numbers() -> list[str]:
    """Return each row and phrase of the page that holds a number."""
    return [*numbers_of_readings(), *numbers_of_errors(), *numbers_of_cleaning()]


def numbers_of_readings() -> list[str]:
    reading, flagged = common.read("label_reading"), common.read("label_suspects")
    counts = count_annotations(pd.concat([reading, common.read("label_mistakes")]))
    drawn = reading[reading["chosen"] == "random"]
    agrees, clear = drawn["reading"] == drawn["label"], drawn["reading"] != "unclear"
    n_images = len(utils.drop_leaks(features.load_bundled_features()[0]))
    pairs = flagged[["label", "suggested"]].isin(["glacier", "mountain"]).all(axis=1)
    return [
        *(common.row(ROWS[kind], n.sum(), *n) for kind, n in counts.loc[[*ROWS]].iterrows()),
        f"{common.share(agrees[clear])} of the {clear.sum()} clear ones",
        f"{common.share(agrees)} if the {(~clear).sum()} unclear ones count as disagreements",
        f"{len(flagged)} of {n_images:,} labels, {pairs.sum()} of them",
        f"{counts.loc['suspect', 'suggestion']} of the {counts.loc['suspect'].sum()} most",
    ]


def numbers_of_errors() -> list[str]:
    table = common.read("fine_tuning_predictions").set_index(["path", "label", "run"])
    guesses = table.select_dtypes("number").idxmax(axis=1).unstack().reset_index("label")
    correct = guesses[1] == guesses["label"]
    shared = ~correct & (guesses[[1, 2, 3]].nunique(axis=1) == 1)
    readings = common.read("label_mistakes").set_index("path")
    readings = readings[readings["suggested"] == guesses[1][shared].reindex(readings.index)]
    as_label = (readings["reading"] == readings["label"]).sum()
    not_shared = (~correct & ~shared).sum()
    won = not_shared + shared.sum() * as_label / len(readings)
    flagged = correct.index.isin(common.read("label_suspects")["path"])
    pairs = common.read("near_copies")
    crossing = pairs[(pairs["split_1"] != pairs["split_2"]) & (pairs["same_picture"] == "yes")]
    copied = correct.index.isin([*crossing["path_1"], *crossing["path_2"]])
    kinds = pairs["same_picture"].value_counts()
    return [
        f"{(~correct).sum()} errors on the {len(correct):,} test photos",
        f"{not_shared} of them are not shared by all three runs",
        f"Of the {shared.sum()} shared ones, {len(readings)} were read, {as_label} as their label",
        f"{shared.sum() - len(readings)} were never read",
        f"would reach {(correct.sum() + won) / len(correct):.1%}",
        f"{common.share(correct)} on all test photos",
        f"{common.share(correct[~flagged])} without the {flagged.sum()} flagged ones",
        f"{len(pairs)} pairs with a cosine of at least {THRESHOLD}",
        f"{kinds['yes']} as the same picture, {kinds['no']} as two, {kinds['unsure']} as either",
        f"{len(crossing)} of the former cross the split",
        f"{common.share(correct[~copied])} on the {(~copied).sum():,} test photos without such",
    ]


def numbers_of_cleaning() -> list[str]:
    table = common.read("label_cleaning")
    accuracy = table.pivot(index="seed", columns="labels", values="val_accuracy")
    gain = 100 * accuracy.sub(accuracy["all photos"], axis=0)
    return [
        common.row(
            name,
            f"{accuracy[name].mean():.2%}",
            f"{gain[name].mean():+.2f}",
            f"{gain[name].sem():.2f}",
        )
        for name in table["labels"].unique()
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        {"clean": clean, "pairs": pairs, "sheets": sheets}[sys.argv[1]](*sys.argv[2:])
    else:
        print(*numbers(), sep="\n")
