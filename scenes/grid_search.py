"""
The grid search (section 6): a grid of settings, cross-validated.

The same settings and data give the same bytes, interrupted or not, here or on a cluster.
Knows nothing of photos and fine-tuning.
"""

import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import scenes
from scenes import files, heads, photos, settings, tasks

BLOCK_SETTINGS = 128  # train side by side: more at once take no less time each


def grid_search(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    learning_rates: Sequence[float] = (0.0005, 0.001, 0.005),
    dropouts: Sequence[float] = (0.1, 0.3, 0.5),
    weight_decays: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2),
    epochs: int = 25,
    folds: int = 5,
    groups: Sequence | None = None,
    batch_size: int = 64,
    seed: int = 0,
    csv: str | Path,
) -> pd.DataFrame:
    """
    Cross-validate a head for each combination of the settings, all of a fold side by side.

    Parameters
    ----------
    features : ndarray, shape (n, 1280)
    labels : ndarray of int, shape (n,)
        The number of each photo's class in `CLASSES`.
    learning_rates, dropouts, weight_decays : sequences of float
        The grid is their product.
    epochs, folds, batch_size : int
    groups : sequence of length n, optional
        Photos of the same group never stand on both sides of a fold.
    seed : int
        Fold k is seeded from (seed, k), so that it does not matter when it runs.
    csv : path
        The results. The file is replaced as a whole at the end; until then each finished
        fold of a block lies in a hidden folder beside it, and an interrupted search goes
        on from there when it is started again.

    Returns
    -------
    DataFrame
        One row for each setting, fold and epoch (both from 1): `learning_rate`, `dropout`,
        `weight_decay`, `fold`, `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`, with
        7 digits. They mean what Keras's history means: training figures are averaged over
        the epoch's batches, validation is at its end, losses hold the L2 penalty.

    Notes
    -----
    The same machine, versions and seed give the same bytes, in any process, interrupted or
    not. (TensorFlow's op determinism is turned on for that, and stays on.) Another processor
    or number of threads adds up in another order: the last digits differ, and an accuracy by
    a photo that stands between two classes.

    A task is one fold, of at most 128 settings where the dropout rates can be divided so.
    joblib runs them one after the other, or spreads them over what
    `joblib.parallel_config` names.

    Memory grows by at most three copies of the features (15 KB a photo), about 0.4 MB a
    setting of a block, and, while the table is made, some 250 bytes for each of its rows.
    """
    settings.check(
        learning_rates=learning_rates,
        dropouts=dropouts,
        weight_decays=weight_decays,
        epochs=epochs,
        folds=folds,
        batch_size=batch_size,
        seed=seed,
    )
    features, labels = heads.check_data(features, labels)
    grid = {
        "learning_rates": sorted(map(float, learning_rates)),
        "dropouts": sorted(map(float, dropouts)),
        "weight_decays": sorted(map(float, weight_decays)),
    }
    # Blocks of whole dropout rates, which share their draws. They depend on the settings
    # alone, and not on who trains them, so that the numbers do not either.
    columns = len(learning_rates) * len(weight_decays)
    size = max(1, BLOCK_SETTINGS // columns)
    blocks = [
        grid | {"dropouts": grid["dropouts"][i : i + size]} for i in range(0, len(dropouts), size)
    ]
    splits = photos.make_folds(labels, groups, folds=folds, seed=seed)
    told = {
        **grid,
        "block": size,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "format": scenes.FORMAT,
    }
    told |= {"tensorflow": tf.__version__, "keras": keras.__version__}
    rows = [row.tobytes() for split in splits for row in split]
    told = json.dumps(told, default=int).encode()  # whole numbers of NumPy as Python's
    name = files.digest(told, features.ravel(), labels.tobytes(), *rows, size=8)
    csv = Path(csv)
    parts = csv.with_name(f".{csv.stem}-{name}")
    with (
        files.locked(csv),
        tasks.progress(folds * len(blocks) * epochs, "Grid search", "epoch") as bar,
    ):
        tables, calls, left = [], [], []
        for fold, rows in enumerate(splits, start=1):
            fold_seed = int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
            for number, block in enumerate(blocks, start=1):
                part = parts / f"fold-{fold}-block-{number}.npz"
                history = _read_fold(part, block, epochs)
                if history is None:
                    left.append((part, block, fold))
                    # Of large objects, Dask keeps one copy on each machine that has used it.
                    calls.append((features, (labels, *rows), block, epochs, batch_size, fold_seed))
                else:
                    bar.update(epochs)
                    tables.append(_fold_table(history, block, fold))
        for number, history in tasks.run_tasks(_train_block, calls, bar, [epochs] * len(calls)):
            part, block, fold = left[number]
            parts.mkdir(exist_ok=True)
            files.write_arrays(part, history)
            tables.append(_fold_table(history, block, fold))
        results = pd.concat(tables).sort_values(
            [*scenes.HYPERPARAMETERS, "fold", "epoch"], ignore_index=True
        )
        files.write_csv(results, csv)
        shutil.rmtree(parts)
    return pd.read_csv(csv)


_one_training = threading.Lock()


def _train_block(
    features: np.ndarray,
    labels_and_rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    block: dict[str, list[float]],
    epochs: int,
    batch_size: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Train the heads of one block on one fold: a task that any process can do."""
    labels, *rows = labels_and_rows
    # The seeds are the process's, which may have other threads.
    with _one_training:
        train, validation = ((features[part], labels[part]) for part in rows)
        tf.config.experimental.enable_op_determinism()
        return _train_fold(train, validation, block, epochs, batch_size, seed)


def _train_fold(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    grid: dict[str, list[float]],
    epochs: int,
    batch_size: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return each metric's history, shape (epochs, D, H), for all heads of one fold."""
    keras.utils.set_random_seed(seed)
    model = heads.SideBySideHeads(**grid, seed=seed)
    model.steps_per_execution = heads.steps(len(train[0]), batch_size)
    history = model.fit(
        *train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation,
        validation_batch_size=256,
        verbose=0,
    ).history
    keys = ("head_loss", "head_accuracy", "val_head_loss", "val_head_accuracy")
    return {
        name: np.reshape(history[key], (epochs, *model.heads))
        for name, key in zip(scenes.METRICS, keys, strict=True)
    }


def _read_fold(
    part: Path, grid: dict[str, list[float]], epochs: int
) -> dict[str, np.ndarray] | None:
    """Return a fold that an interrupted search has finished, or None."""
    if not part.exists():
        return None
    shape = (
        epochs,
        len(grid["dropouts"]),
        len(grid["learning_rates"]) * len(grid["weight_decays"]),
    )
    try:
        history = files.read_arrays(part, dict.fromkeys(scenes.METRICS, (np.float32, shape)))
        if not all(np.isfinite(h).all() for h in history.values()):
            raise ValueError(f"{part} does not hold a fold of this search")
    except ValueError as error:
        print(f"A fold is trained again: {error}")
        return None
    return history


def _fold_table(
    history: dict[str, np.ndarray], grid: dict[str, list[float]], fold: int
) -> pd.DataFrame:
    """Return the long form of a fold's history."""
    epochs = len(history["loss"])
    index = pd.MultiIndex.from_product(
        [range(1, epochs + 1), grid["dropouts"], grid["learning_rates"], grid["weight_decays"]],
        names=["epoch", "dropout", "learning_rate", "weight_decay"],
    )
    table = pd.DataFrame({name: history[name].ravel() for name in scenes.METRICS}, index=index)
    table = table.reset_index().assign(fold=fold)
    return table[[*scenes.HYPERPARAMETERS, "fold", "epoch", *scenes.METRICS]]
