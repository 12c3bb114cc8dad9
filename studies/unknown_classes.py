"""
Unknown classes: the numbers of `unknown_classes.md`, and how to repeat what they come
from.

`python -m studies.unknown_classes` prints each number of the page. With `held_out`, it
trains heads that never saw one of the classes, and writes
`results/none_of_the_classes.csv` (a minute). With `photos FOLDER...`, it shows the
photos of each folder to the shipped model, and writes `results/unknown_photos.csv`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from scenes import calibration, classifier, heads
from studies import common


def held_out() -> None:
    """
    Hold each class out in turn, and write what the heads answer on the test photos.
    """
    images, X, _ = common.load_images()
    rows = [without(name, images, X) for name in images["label"].cat.categories]
    common.write(pd.DataFrame(rows), "none_of_the_classes")


def without(name: str, images: pd.DataFrame, X: np.ndarray) -> dict:
    """
    Return what a head that never saw a class answers on the test photos, by class.
    """
    y = images["label"].cat.remove_categories(name).cat.codes.to_numpy()
    split = images["split"].to_numpy(dtype=str)
    train = (split == "train") & (y >= 0)
    validation = (split == "validation") & (y >= 0)
    head = heads.train_head(X[train], y[train], common.best_setting())
    held_out = head(X[validation]).numpy()
    temperature = calibration.fit_temperature(held_out, y[validation])
    held_out = calibration.apply_temperature(held_out, temperature)
    threshold = calibration.fit_threshold(held_out, y[validation])
    X_test, y_test = X[split == "test"], y[split == "test"]
    probabilities = calibration.apply_temperature(head(X_test).numpy(), temperature)
    answered = probabilities.max(axis=1) >= threshold
    correct = probabilities.argmax(axis=1) == y_test
    unknown = y_test < 0
    return {
        "left_out": name,
        "temperature": temperature,
        "threshold": threshold,
        "photos": (~unknown).sum(),
        "answered": (answered & ~unknown).sum(),
        "right": (answered & correct).sum(),
        "left_out_photos": unknown.sum(),
        "left_out_answered": (answered & unknown).sum(),
    }


def photos(*folders: str) -> None:
    """
    Show photos of other subjects to the shipped model, and write how many it answers.
    """
    model = classifier.load_classifier(common.ROOT / "classifier.keras")
    rows = []
    for folder in folders:
        table = classifier.predict(model, folder)
        answered = ~table["unsure"]
        counts = table["label"][answered].value_counts()
        row = {
            "set": Path(folder).name,
            "photos": len(table),
            "answered": answered.sum(),
            "share": answered.mean(),
            "label": counts.idxmax(),
            "times": counts.max(),
        }
        rows.append(row)
    common.write(pd.DataFrame(rows), "unknown_photos")


def numbers() -> Iterator[str]:
    """Yield each row and phrase of the page that holds a number."""
    table = common.read("none_of_the_classes")
    for row in table.itertuples():
        share = row.left_out_answered / row.left_out_photos
        yield common.row(row.left_out, row.left_out_photos, f"{share:.0%}")
    n, answered = table["left_out_photos"].sum(), table["left_out_answered"].sum()
    yield common.row("all", f"{n:,}", f"{answered / n:.0%}")
    for row in common.read("unknown_photos").itertuples():
        share = calibration.percent(np.arange(row.photos) < row.answered)
        yield common.row(
            row.photos, share, f"{row.label} ({row.times} of {row.answered})"
        )


if __name__ == "__main__":
    common.main(numbers, held_out=held_out, photos=photos)
