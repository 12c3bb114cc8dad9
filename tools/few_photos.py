"""
Measure the recipe on small data sets: is the saved model as good as the better of two,
and does it know when it errs?

    python tools/few_photos.py FOLDER [FOLDER ...]

trains heads and fine-tuned models on each folder of images and on every 20th and 60th
training photo of the Intel data set, with three seeds, as the notebook does, and writes
test accuracies, calibration and abstention to `results/few_photos.csv`, for the first
seed with `CROSS_FIT`, too. It takes some five minutes for a data set and seed, and more
for a cross-fit; those that the file holds are not measured again: delete it to begin
anew.
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
    calibration,
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
)
FOLDS = 5
TUNING = settings.FineTuningOptions(
    learning_rate=0.0001, first_layer="block_10_expand", label_smoothing=0.1, epochs=5
)
RATES = [0.0001, 0.0003]
JUDGED = ["errors", "ECE before", "ECE", "coverage", "selective accuracy"]
JUDGED += ["ci_low", "ci_high"]


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
    Return the test accuracies of head, fine-tuned models and the model that is saved,
    and what `judge` returns for the latter, for the first seed with CROSS_FIT, too.
    """
    images = read(folder, thinned, seed)
    base = base_model.build_base_model("imagenet")
    X = features.extract_features(images, base, cache=cache)
    y = images["label"].cat.codes.to_numpy()
    train, validation, test = (
        (images["split"] == name).to_numpy() for name in ("train", "validation", "test")
    )
    X_train_val, y_train_val = X[~test], y[~test]
    train_val_images = images[~test]
    splits = utils.draw_folds(train_val_images, FOLDS, seed=seed)
    results = grid_search.grid_search(
        X_train_val,
        y_train_val,
        dataclasses.replace(GRID, seed=seed),
        splits,
        cache=cache,
        csv=Path(cache, "grid_search.csv"),
    )
    options = common.best_setting(seed, results)
    head = heads.train_head(X[train], y[train], options)
    final = heads.train_head(X_train_val, y_train_val, options)
    tunings = {
        f"{rate:g}": dataclasses.replace(TUNING, learning_rate=rate, seed=seed)
        for rate in RATES
    }

    def tune(table, start, rate):
        pair = fine_tuning.fine_tune(table, base, start, tunings[rate], cache=cache)
        return pair[:2]

    def accuracy(probabilities, rows=test):
        return np.mean(probabilities.argmax(axis=1) == y[rows])

    row = {"training": int((~test).sum()), "test": test.sum()}
    saved = predict((base, final), images[test])
    row["head"] = accuracy(saved)
    guesses = {"head": head(X[validation]).numpy()}
    for rate in tunings:
        pair = tune(images, head, rate)
        guesses[rate] = predict(pair, images[validation])
        row[f"validation, {rate}"] = accuracy(guesses[rate], validation)
        row[f"fine-tuned, {rate}"] = accuracy(predict(pair, images[test]))
    tables = [
        evaluation.predictions_table(images[validation], probabilities, name)
        for name, probabilities in guesses.items()
    ]
    row["chosen"] = chosen = evaluation.compare_models(pd.concat(tables)).index[0]
    y_held_out = y[validation]
    if chosen == "head":
        y_held_out = y_train_val
        held_out = common.predict_folds(X_train_val, y_train_val, splits, options)
        is_given = ~train_val_images["in_folds"].to_numpy()
        if is_given.any():
            held_out[is_given] = guesses["head"]
        guesses["head"] = held_out
    else:
        everything = images.assign(split=images["split"].replace("validation", "train"))
        saved = predict(tune(everything, final, chosen), images[test])
    row["saved"] = accuracy(saved)
    row |= judge(guesses[chosen], y_held_out, saved, y[test])
    if seed == 0 and chosen != "head":
        guesses[chosen] = utils.cross_fit(
            train_val_images,
            X_train_val,
            splits,
            base,
            options,
            tunings[chosen],
            cache=cache,
        )
    if seed == 0:
        found = judge(guesses[chosen], y_train_val, saved, y[test])
        row |= {f"cross-fit {name}": value for name, value in found.items()}
    return row


def judge(
    held_out: np.ndarray, y: np.ndarray, probabilities: np.ndarray, y_test: np.ndarray
) -> dict:
    """
    Return how calibrated a model is on test photos, and how well it abstains.

    Temperature and threshold are fitted on the probabilities of held-out photos, among
    which are so many `errors`. `ECE before` is that without a temperature.
    """
    fitted = calibration.fit(held_out, y)
    scaled = calibration.apply_temperature(probabilities, fitted["temperature"])
    before, after = (
        calibration.expected_calibration_error(calibration.reliability(p, y_test))
        for p in (probabilities, scaled)
    )
    covered = scaled.max(axis=1) >= fitted["threshold"]
    correct = scaled.argmax(axis=1) == y_test
    errors = np.count_nonzero(held_out.argmax(axis=1) != y)
    selective = calibration.accuracy(correct[covered])[:3]
    values = errors, before, after, covered.mean(), *selective
    return dict(zip(JUDGED, values, strict=True))


def predict(pair: tuple, images: pd.DataFrame) -> np.ndarray:
    """Return the probabilities (n, classes) of a base model and its head."""
    classes = list(images["label"].cat.categories)
    model = classifier.build_classifier(*pair, classes)
    return classifier.predict(model, list(images["file"]))[classes].to_numpy()


def summarize(table: pd.DataFrame) -> list[str]:
    """
    Return the rows of the first table in BENCHMARK.md: mean test accuracies over the
    seeds, in %.
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


def summarize_calibration(table: pd.DataFrame) -> list[str]:
    """
    Return the rows of the second table in BENCHMARK.md: means of `judge` over the
    seeds, without CROSS_FIT and with it.

    Data set, CROSS_FIT, seeds, held-out errors, ECE before and after, the change,
    coverage and selective accuracy in %, and of how many seeds the interval of the
    latter holds the target.
    """
    lines = []
    groups = table.groupby("data set", sort=False)
    for (name, rows), prefix in itertools.product(groups, ["", "cross-fit "]):
        found = rows[[f"{prefix}{column}" for column in JUDGED]].dropna(how="all")
        if found.empty:  # measured before this was judged
            continue
        found.columns = JUDGED
        means = found.mean()
        change = found["ECE"] - found["ECE before"]
        error = f" ± {change.sem():.3f}" if len(found) > 1 else ""
        is_held = (found["ci_low"] <= calibration.TARGET) & (
            found["ci_high"] >= calibration.TARGET
        )
        cells = [name, bool(prefix), len(found), f"{means['errors']:.0f}"]
        cells += [f"{means[column]:.3f}" for column in ("ECE before", "ECE")]
        cells.append(f"{change.mean():+.3f}{error}")
        cells += [f"{100 * means[column]:.1f}" for column in JUDGED[3:5]]
        cells.append(f"{is_held.sum()} of {len(found)}")
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
