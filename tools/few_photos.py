"""
Measure the recipe on small data sets: is the saved model as good as the better of two?

    python tools/few_photos.py FOLDER [FOLDER ...]

trains heads and fine-tuned models on each folder of images and on every 20th and 60th
training photo of the Intel data set, with three seeds, as the notebook does, and writes
test accuracies to `results/few_photos.csv`. It takes some five minutes for a data set
and seed; those that the file holds are not measured again: delete it to begin anew.
"""

import dataclasses
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import utils
from scenes import (
    base_model,
    classifier,
    dataset,
    evaluation,
    features,
    fine_tuning,
    folders,
    grid_search,
    heads,
    settings,
)
from studies import common

GRID = settings.GridOptions(
    learning_rates=[0.0005, 0.001, 0.005],
    dropouts=[0.1, 0.3, 0.5],
    weight_decays=[0.00001, 0.0001, 0.001, 0.01],
    epochs=25,
    folds=5,
)
TUNING = settings.FineTuningOptions(
    learning_rate=0.0001, first_layer="block_10_expand", label_smoothing=0.1, epochs=5
)
RATES = [0.0001, 0.0003]


def read(folder: Path, thinned: int, seed: int) -> pd.DataFrame:
    """
    Return the table of a folder, split as in the notebook; of thinned ones every 5th
    test.
    """
    images = folders.list_images(folder)
    images = images[images["label"].notna()]
    digests, thumbnails = dataset.digest_photos(images)
    images = images.join(digests)
    images["group"] = dataset.group_images(images, thumbnails)
    images = utils.create_test(images, seed=seed)
    images = utils.drop_leaks(images)
    if thinned > 1:
        is_test = images["split"] == "test"
        test = utils.shrink(images[is_test], 5)
        others = utils.shrink(images[~is_test], thinned)
        images = pd.concat([test, others])
    return utils.create_validation(images, seed=seed)


def measure(folder: Path, thinned: int, seed: int, cache: str) -> dict:
    """
    Return the test accuracies of head, fine-tuned models and the model that is saved.
    """
    images = read(folder, thinned, seed)
    base = base_model.build_base_model("imagenet")
    X = features.extract_features(images, base, cache=cache)
    y = images["label"].cat.codes.to_numpy()
    train, validation, test = (
        (images["split"] == name).to_numpy() for name in ("train", "validation", "test")
    )
    results = grid_search.grid_search(
        X[~test],
        y[~test],
        dataclasses.replace(GRID, seed=seed),
        groups=images["group"][~test],
        cache=cache,
        csv=Path(cache, "grid_search.csv"),
    )
    options = common.best_setting(seed, results)
    head, _ = heads.train_head(X[train], y[train], options)
    final, _ = heads.train_head(X[~test], y[~test], options)

    def tune(table, start, rate):
        tuning = dataclasses.replace(TUNING, learning_rate=rate, seed=seed)
        base_and_head = fine_tuning.fine_tune(table, base, start, tuning, cache=cache)
        return base_and_head[:2]

    def accuracy(pair):
        return np.mean(predict(pair, images[test]).argmax(axis=1) == y[test])

    row = {"training": int((~test).sum()), "test": test.sum()}
    row["head"] = accuracy((base, final))
    guesses = {"head": head(X[validation]).numpy()}
    for rate in RATES:
        pair = tune(images, head, rate)
        guesses[f"{rate:g}"] = predict(pair, images[validation])
        row[f"fine-tuned, {rate:g}"] = accuracy(pair)
    tables = [
        evaluation.predictions_table(images[validation], probabilities, name)
        for name, probabilities in guesses.items()
    ]
    row["chosen"] = evaluation.compare_models(pd.concat(tables)).index[0]
    row["saved"] = row["head"]
    if row["chosen"] != "head":
        everything = images.assign(split=images["split"].replace("validation", "train"))
        row["saved"] = accuracy(tune(everything, final, float(row["chosen"])))
    return row


def predict(pair: tuple, images: pd.DataFrame) -> np.ndarray:
    """Return the probabilities (n, classes) of a base model and its head."""
    classes = list(images["label"].cat.categories)
    model = classifier.build_classifier(*pair, classes)
    return classifier.predict(model, list(images["file"]))[classes].to_numpy()


def summarize(table: pd.DataFrame) -> list[str]:
    """
    Return the rows of the table in BENCHMARK.md: mean test accuracies over the seeds,
    in %.
    """
    tuned = [name for name in table if name.startswith("fine-tuned")]
    lines = []
    for name, rows in table.groupby("data set", sort=False):
        training, test = rows[["training", "test"]].iloc[0]
        means = 100 * rows[["head", *tuned, "saved"]].mean()
        gain = 100 * (rows["saved"] - rows["head"])
        error = f" ± {gain.sem():.1f}" if len(rows) > 1 else ""
        cells = [name, len(rows), f"{training:,}", f"{test:,}"]
        cells += [f"{mean:.1f}" for mean in means]
        cells.append(f"{gain.mean():+.1f}{error}")
        lines.append(common.row(*cells))
    return lines


def main() -> None:
    """Write the table, row by row."""
    intel = folders.find_photos(None)
    sets = [(Path(name), 1) for name in sys.argv[1:]]
    if intel:
        sets += [(intel, 20), (intel, 60)]
    is_begun = (ROOT / "results" / "few_photos.csv").exists()
    rows = common.read("few_photos").to_dict("records") if is_begun else []
    measured = {(row["data set"], row["seed"]) for row in rows}
    for seed, (folder, thinned) in itertools.product(range(3), sets):
        name = folder.name + (f", every {thinned}th" if thinned > 1 else "")
        if (name, seed) in measured:
            continue
        with tempfile.TemporaryDirectory() as cache:
            row = measure(folder, thinned, seed, cache)
        rows.append({"data set": name, "seed": seed} | row)
        print(rows[-1])
        common.write(pd.DataFrame(rows).round(4), "few_photos")


if __name__ == "__main__":
    main()
