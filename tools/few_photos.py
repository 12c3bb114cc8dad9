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
    files,
    fine_tuning,
    folders,
    grid_search,
    heads,
    settings,
)

GRID = settings.GridOptions(
    learning_rates=[0.0005, 0.001, 0.005],
    dropouts=[0.1, 0.3, 0.5],
    weight_decays=[0.00001, 0.0001, 0.001, 0.01],
    epochs=25,
    folds=5,
)
RATES = [0.0001, 0.0003]


def read(folder: Path, thinned: int, seed: int) -> pd.DataFrame:
    """
    Return the table of a folder, split as in the notebook; of thinned ones every 5th
    test.
    """
    images = folders.list_images(folder)
    images = images[images["label"].notna()]
    digests, _ = dataset.digest_photos(images)
    images = utils.create_test(images.join(digests), seed=seed)
    images = utils.drop_leaks(images)
    if thinned > 1:
        parts = [(images["split"] == "test", 5), (images["split"] != "test", thinned)]
        images = pd.concat(
            [utils.shrink(images[rows], factor) for rows, factor in parts]
        )
    return utils.create_validation(images, seed=seed)


def measure(folder: Path, thinned: int, seed: int, cache: str) -> dict:
    """
    Return the test accuracies of head, fine-tuned models and the model that is saved.
    """
    images = read(folder, thinned, seed)
    base = base_model.build_base_model("imagenet")
    X = features.extract_features(images, base, cache=cache)
    y, split = images["label"].cat.codes.to_numpy(), images["split"].to_numpy(dtype=str)
    classes = list(images["label"].cat.categories)
    train, validation, test = (split == s for s in ("train", "validation", "test"))
    grid = dataclasses.replace(GRID, seed=seed)
    results = grid_search.grid_search(
        X[~test],
        y[~test],
        grid,
        groups=images["digest"][~test],
        cache=cache,
        csv=Path(cache, "grid_search.csv"),
    )
    best = evaluation.best_hyperparameters(results)
    options = settings.HeadOptions(
        learning_rate=best["learning_rate"],
        dropout=best["dropout"],
        weight_decay=best["weight_decay"],
        epochs=best["epoch"],
        seed=seed,
    )
    head, _ = heads.train_head(X[train], y[train], options)
    final, _ = heads.train_head(X[~test], y[~test], options)

    def predict(pair: tuple, rows: np.ndarray) -> np.ndarray:
        model = classifier.build_classifier(*pair, classes)
        return classifier.predict(model, list(images["file"][rows]))[classes]

    def tune(table: pd.DataFrame, start: object, rate: float) -> tuple:
        tuning = settings.FineTuningOptions(
            learning_rate=rate,
            first_layer="block_10_expand",
            label_smoothing=0.1,
            epochs=5,
            seed=seed,
        )
        return fine_tuning.fine_tune(table, base, start, tuning, cache=cache)[:2]

    def accuracy(pair: tuple) -> float:
        return (predict(pair, test).to_numpy().argmax(axis=1) == y[test]).mean()

    guesses, row = (
        {"head": head(X[validation]).numpy()},
        {"head": accuracy((base, final))},
    )
    for rate in RATES:
        pair = tune(images, head, rate)
        guesses[f"{rate:g}"] = predict(pair, validation).to_numpy()
        row[f"fine-tuned, {rate:g}"] = accuracy(pair)
    tables = [
        evaluation.predictions_table(images[validation], p, name)
        for name, p in guesses.items()
    ]
    chosen = evaluation.compare_models(pd.concat(tables)).index[0]
    row |= {"chosen": chosen, "saved": row["head"]}
    if chosen != "head":
        everything = images.assign(split=images["split"].replace("validation", "train"))
        row["saved"] = accuracy(tune(everything, final, float(chosen)))
    return {"training": int((~test).sum()), "test": test.sum()} | row


def summarize(table: pd.DataFrame) -> list[str]:
    """
    Return the rows of the table in BENCHMARK.md: mean test accuracies over the seeds,
    in %.
    """
    columns = [
        "head",
        *(name for name in table if name.startswith("fine-tuned")),
        "saved",
    ]
    lines = []
    for name, rows in table.groupby("data set", sort=False):
        means = (100 * rows[columns].mean()).map("{:.1f}".format)
        gap = 100 * (rows["saved"] - rows["head"])
        error = f" ± {gap.sem():.1f}" if len(rows) > 1 else ""
        sizes = [
            name,
            len(rows),
            f"{rows['training'].iloc[0]:,}",
            f"{rows['test'].iloc[0]:,}",
        ]
        cells = [*map(str, sizes), *means, f"{gap.mean():+.1f}{error}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Write the table, row by row."""
    intel = folders.find_photos(None)
    sets = [(Path(name), 1) for name in sys.argv[1:]]
    sets += [(intel, 20), (intel, 60)] if intel else []
    csv = ROOT / "results" / "few_photos.csv"
    rows = files.read_csv(csv).to_dict("records") if csv.exists() else []
    for seed, (folder, thinned) in itertools.product(range(3), sets):
        name = folder.name + (f", every {thinned}th" if thinned > 1 else "")
        case = {"data set": name, "seed": seed}
        if any(case.items() <= row.items() for row in rows):
            continue
        with tempfile.TemporaryDirectory() as cache:
            rows.append(case | measure(folder, thinned, seed, cache))
        print(rows[-1])
        files.write_csv(pd.DataFrame(rows).round(4), csv)


if __name__ == "__main__":
    main()
