"""
Measure side by side, in one run, what the README says of speed, and print a Markdown table.

Run it by hand on an idle machine: `python tests/benchmark.py`. It takes some minutes. The
search runs on the bundled features; with photos (see `utils.find_photos`) the pipeline of
`extract_features` is measured too. Every figure is the best of several rounds that take
turns, so that a busy moment of the machine does not fall on one side alone.
"""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

import utils

ROUNDS = 3
EPOCHS = 25
GRID = {
    "learning_rates": utils.SETTINGS["LEARNING_RATES"],
    "dropouts": utils.SETTINGS["DROPOUTS"],
    "weight_decays": utils.SETTINGS["WEIGHT_DECAYS"],
}


def quarter() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (features, labels) of training and validation: every 4th photo, one split."""
    images, features = utils.load_bundled_features()
    images = utils.create_validation(utils.shrink(utils.drop_leaks(images), 4))
    labels = images["label"].cat.codes
    return tuple(
        (features[images.index[images["split"] == split]], labels[images["split"] == split])
        for split in ("train", "validation")
    )


def plain_fit(train: tuple, validation: tuple, steps: int) -> float:
    """Train one setting as any Keras user would, and return its validation accuracy."""
    head = utils.build_head(dropout=0.3, weight_decay=1e-4)
    head.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
    history = head.fit(
        *train, batch_size=64, epochs=EPOCHS, validation_data=validation, verbose=0
    ).history
    return max(history["val_accuracy"])


def whole_grid(train: tuple, validation: tuple) -> float:
    """Train all 36 settings side by side, and return the best validation accuracy."""
    with tqdm(disable=True) as bar:
        history = utils._train_fold(train, validation, GRID, EPOCHS, 64, 0, bar)
    return history["val_accuracy"].max()


def bare_trunk(trunk: keras.Model, photos: int) -> None:
    """Send random arrays through the trunk: the ceiling of the extraction."""
    batch = tf.random.uniform((32, utils.IMAGE_SIZE, utils.IMAGE_SIZE, 3), -1, 1)
    run = tf.function(trunk)
    for _ in range(photos // 32):
        run(batch, training=False).numpy()


def fine_tuning(trunk: keras.Model, photos: int) -> dict[str, Callable[[], None]]:
    """Return an epoch of fine-tuning from activations, and one through the whole network."""
    entrance = trunk.get_layer(utils.SETTINGS["FIRST_LAYER"]).input
    lower, upper = keras.Model(trunk.input, entrance), keras.Model(entrance, trunk.output)
    trunk.trainable = True
    for layer in (*lower.layers, *trunk.layers):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer in upper.layers and not norm
    pixels = np.random.default_rng(0).uniform(-1, 1, (photos, *trunk.input_shape[1:]))
    labels = np.arange(photos) % len(utils.CLASSES)
    epochs = {}
    for name, (below, inputs) in {
        "fine-tuning from activations": (upper, lower.predict(pixels, verbose=0)),
        "the same through the whole network": (trunk, pixels),
    }.items():
        model = keras.Sequential([below, utils.build_head(0.3, 1e-3)])
        model.compile("adamw", "sparse_categorical_crossentropy", jit_compile=False)
        epochs[name] = functools.partial(model.fit, inputs, labels, batch_size=32, verbose=0)
        epochs[name](epochs=1)  # the first is slower, since it builds the graph
    return {name: lambda fit=fit: fit().history.clear() for name, fit in epochs.items()}


def best_times(tasks: dict[str, Callable[[], float | None]]) -> pd.DataFrame:
    """Return each task's best time of `ROUNDS` and what it returned last."""
    rows = {name: {"seconds": np.inf} for name in tasks}
    with tqdm(total=ROUNDS * len(tasks), desc="Measuring", leave=False) as bar:
        for _ in range(ROUNDS):
            for name, task in tasks.items():
                start = time.perf_counter()
                rows[name]["accuracy"] = task()
                seconds = time.perf_counter() - start
                rows[name]["seconds"] = min(rows[name]["seconds"], seconds)
                bar.update()
    return pd.DataFrame(rows).T


def markdown(table: pd.DataFrame) -> str:
    """Return a Markdown table, the index as its first column."""
    rows = [["", *table.columns], ["---"] * (1 + len(table.columns)), *table.reset_index().values]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    """Print the tables."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    train, validation = quarter()
    tasks = {"36 settings, side by side": lambda: whole_grid(train, validation)}
    for steps in (1, 8, 36):
        name = f"one setting, plain fit, steps_per_execution={steps}"
        tasks[name] = lambda steps=steps: plain_fit(train, validation, steps)
    table = best_times(tasks)
    grid, *fits = table["seconds"]
    print(f"\n{os.cpu_count()} cores, {len(train[0]):,} photos, {EPOCHS} epochs\n")
    print(markdown(table.round(3)))
    print(f"\n36 settings cost {grid / min(fits):.2f} x one plain fit.")

    photos = utils.find_photos()
    if photos:
        images = utils.list_images(photos)
        images = images[images["split"] == "test"].iloc[::5]
        images = images.join(utils.digest_photos(images, photos))
        images = images.drop_duplicates("digest").iloc[: len(images) // 32 * 32 - 32]
        trunk = utils.build_trunk()

        def extract() -> None:
            with tempfile.TemporaryDirectory() as folder:
                utils.extract_features(images, photos, trunk, cache=Path(folder, "features.npz"))

        speed = len(images) / best_times(
            {"extract_features": extract, "bare trunk": lambda: bare_trunk(trunk, len(images))}
        )[["seconds"]].rename(columns={"seconds": "photos per second"})
        print("\n" + markdown(speed.round(1)))
        ratio = speed.loc["extract_features"] / speed.loc["bare trunk"]
        print(f"\nThe extraction runs at {ratio.item():.2f} x the bare trunk.")

    speed = 256 / best_times(fine_tuning(utils.build_trunk(), 256))[["seconds"]]
    speed = speed.rename(columns={"seconds": "photos per second"})
    print("\n" + markdown(speed.round(1)))
    print(f"\nActivations make it {speed.iloc[0].item() / speed.iloc[1].item():.2f} x as fast.")


if __name__ == "__main__":
    main()
