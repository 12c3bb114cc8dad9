"""
Unknown classes: the numbers of `unknown_classes.md`, and how to repeat what they come
from.

`python -m studies.unknown_classes` prints each number of the page. With `held_out`, it
trains heads that never saw one of the classes, and writes
`results/none_of_the_classes.csv` (a minute). With `photos FOLDER...`, it shows the
photos of each folder to the shipped model, and writes `results/unknown_photos.csv`.
"""

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
    train, val, test = (
        (images["split"] == s).to_numpy() for s in ("train", "validation", "test")
    )
    train, val, unknown = train & (y >= 0), val & (y >= 0), y[test] < 0
    head, _ = heads.train_head(X[train], y[train], common.best_setting())
    probabilities = head(X[val]).numpy()
    temperature = calibration.fit_temperature(probabilities, y[val])
    probabilities = calibration.apply_temperature(probabilities, temperature)
    threshold = calibration.fit_threshold(probabilities, y[val])
    probabilities = calibration.apply_temperature(head(X[test]).numpy(), temperature)
    answered = probabilities.max(axis=1) >= threshold
    return {
        "left_out": name,
        "temperature": temperature,
        "threshold": threshold,
        "photos": (~unknown).sum(),
        "answered": (answered & ~unknown).sum(),
        "right": (answered & (probabilities.argmax(axis=1) == y[test])).sum(),
        "left_out_photos": unknown.sum(),
        "left_out_answered": (answered & unknown).sum(),
    }


def photos(*folders: str) -> None:
    """
    Show photos of other subjects to the shipped model, and write how many it answers.
    """
    model, rows = classifier.load_classifier(common.ROOT / "classifier.keras"), []
    for folder in folders:
        table = classifier.predict(model, folder)
        counts = table["label"][~table["unsure"]].value_counts()
        row = {"set": Path(folder).name, "photos": len(table), "answered": counts.sum()}
        row |= {
            "share": (~table["unsure"]).mean(),
            "label": counts.idxmax(),
            "times": counts.max(),
        }
        rows.append(row)
    common.write(pd.DataFrame(rows), "unknown_photos")


def numbers() -> list[str]:
    """Return each row and phrase of the page that holds a number."""
    held, other = common.read("none_of_the_classes"), common.read("unknown_photos")
    n, answered = held["left_out_photos"], held["left_out_answered"]
    return [
        *map(common.row, held["left_out"], n, (answered / n).map("{:.0%}".format)),
        common.row("all", f"{n.sum():,}", f"{answered.sum() / n.sum():.0%}"),
        *(
            f"| {row.photos} | "
            f"{calibration.percent(np.arange(row.photos) < row.answered)} "
            f"| {row.label} ({row.times} of {row.answered}) |"
            for row in other.itertuples()
        ),
    ]


if __name__ == "__main__":
    common.main(numbers, held_out=held_out, photos=photos)
