"""
The grid search (section 6): a grid of settings, cross-validated.

The same settings and data give the same bytes, interrupted or not, here or on a
cluster. Knows nothing of photos and fine-tuning.
"""

import gc
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.model_selection import StratifiedGroupKFold

import scenes
from scenes import files, heads, progress, settings, side_by_side

BLOCK_COLUMNS = (
    768  # train side by side, heads x classes: more at once take no less time each
)


def grid_search(
    X: np.ndarray,
    y: np.ndarray,
    *,
    learning_rates: Sequence[float],
    dropouts: Sequence[float],
    weight_decays: Sequence[float],
    epochs: int,
    folds: int,
    groups: Sequence | None = None,
    batch_size: int = 128,
    class_weight: str | None = None,
    seed: int = 0,
    csv: str | Path,
) -> pd.DataFrame:
    """
    Return the histories of a head for each combination of the settings,
    cross-validated.

    All heads of a fold train side by side, as `side_by_side.SideBySideHeads`.

    Parameters
    ----------
    X : ndarray, shape (n, n_features)
    y : ndarray of int, shape (n,)
        The number of each photo's class, `images["label"].cat.codes`; each class from 0
        to the highest has a photo.
    learning_rates, dropouts, weight_decays : sequences of float
        The grid is their product.
    epochs, folds, batch_size : int
    groups : sequence of length n, optional
        Photos of the same group never stand on both sides of a fold.
    class_weight : None or 'balanced'
        See `heads.class_weights`. The weights are computed from the training part of
        each fold; they weight the cross-entropy and the accuracy of its training and
        validation photos. The folds are stratified: with 'balanced', accuracies are
        balanced accuracies.
    seed : int
        Fold k is seeded from (seed, k), so that it does not matter when it runs.
    csv : path
        The results. The file is replaced as a whole at the end; until then each
        finished fold of a block lies in a hidden folder beside it, and an interrupted
        search goes on from there when it is started again.

    Returns
    -------
    DataFrame
        One row for each setting, fold and epoch (both from 1): `learning_rate`,
        `dropout`, `weight_decay`, `fold`, `epoch`, `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, with 7 digits. They mean what Keras's history means: training
        figures are averaged over the epoch's batches, validation is at its end, losses
        hold the L2 penalty.

    Notes
    -----
    The same machine, versions and seed give the same bytes, in any process, interrupted
    or not. (TensorFlow's op determinism is turned on for that, and stays on.) A GPU,
    another processor or another number of threads may add up in another order: the last
    digits then differ, and an accuracy by a photo that stands between two classes.

    A task is one fold of some dropout rates, with all learning rates and weight decays:
    of one rate, or of as many as make at most 128 settings of six classes (fewer of
    more classes). joblib runs them one after the other, or spreads them over what
    `joblib.parallel_config` names.

    Memory grows by at most three copies of X, by about 0.4 MB per setting of each block
    that trains, and, while the table is made, by some 250 bytes for each of its rows.
    """
    grid = {
        "learning_rates": learning_rates,
        "dropouts": dropouts,
        "weight_decays": weight_decays,
    }
    options = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    options["class_weight"] = class_weight
    settings.check(**grid, **options, folds=folds)
    X, y, n_classes = heads.check_data(X, y)
    splits = make_folds(y, groups, folds=folds, seed=seed)
    blocks = _divide(
        n_classes, {name: sorted(map(float, v)) for name, v in grid.items()}
    )
    name = files.fingerprint(scenes.VERSIONS, blocks, options, X, y, splits)
    csv = Path(csv)
    parts = csv.with_name(f".{csv.stem}-{name}")
    with files.locked(csv):
        histories = _train(
            parts, blocks, splits, X, y, options | {"n_classes": n_classes}
        )
        tables = [
            _fold_table(history, block, fold) for history, block, fold in histories
        ]
        order = [*scenes.HYPERPARAMETERS, "fold", "epoch"]
        files.write_csv(pd.concat(tables).sort_values(order), csv)
        shutil.rmtree(parts)
    return pd.read_csv(csv)


def make_folds(
    labels: np.ndarray, groups: Sequence | None, *, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Return the (training rows, validation rows) of each fold; groups stay together.

    `labels` are names or numbers of classes, and the error for a class that is too
    small calls it as they do. Names in the order of the numbers give the same folds. A
    class with `folds` groups or more has some in each fold.
    """
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(
            f"groups have the shape {groups.shape}, and labels {labels.shape}"
        )
    different = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    sizes = different["label"].value_counts()
    if folds > sizes.min():
        what = (
            f"folds is {folds}, but a class has only {sizes.min()} different photo(s)"
        )
        advice = "add photos of it, or take fewer folds (a ratio is 1 / folds)"
        raise ValueError(f"{what}: {sizes.idxmin()}; {advice}")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, groups))
    shares = sizes / folds
    for _, rows in splits:
        of_fold = different[different["group"].isin(groups[rows])]
        found = of_fold["label"].value_counts().reindex(sizes.index, fill_value=0)
        if ((found - shares).abs() >= np.maximum(1, shares / 100)).any():
            return _folds_of_groups(splitter, different, groups)
    return splits


def _folds_of_groups(splitter, different, groups):
    """
    Return folds that are stratified by group, not by photo.

    Where a few photos have many copies, folds of as many photos would hold hardly any
    different ones of a class, or none.
    """
    labels, names = (different[name].to_numpy() for name in ("label", "group"))
    splits = []
    for _, rows in splitter.split(labels, labels, names):
        in_fold = np.isin(groups, names[rows])
        splits.append((np.flatnonzero(~in_fold), np.flatnonzero(in_fold)))
    return splits


def _divide(n_classes, grid):
    """
    Return the grids of the blocks, each of whole dropout rates.

    They depend on the settings and classes alone, not on who trains them, so that the
    numbers do not either.
    """
    rates, columns = grid["dropouts"], n_classes
    columns *= len(grid["learning_rates"]) * len(grid["weight_decays"])
    size = max(1, BLOCK_COLUMNS // columns)
    return [
        grid | {"dropouts": rates[i : i + size]} for i in range(0, len(rates), size)
    ]


def _train(parts, blocks, splits, X, y, options):
    """
    Yield (history, grid, fold) of each block and fold, as they are read or trained.
    """
    left, calls, epochs = [], [], options["epochs"]
    with progress.bar(
        len(splits) * len(blocks) * epochs, "Grid search", "epoch"
    ) as bar:
        numbered = (enumerate(parts_of, start=1) for parts_of in (blocks, splits))
        for (number, block), (fold, rows) in itertools.product(*numbered):
            part = parts / f"fold-{fold}-block-{number}.npz"
            history = _read_fold(part, block, epochs)
            if history is not None:
                bar.update(epochs)
                yield history, block, fold
                continue
            seed = int(
                np.random.SeedSequence([options["seed"], fold]).generate_state(1)[0]
            )
            calls.append((*rows, options | {"grid": block, "seed": seed}))
            left.append((part, block, fold))
        shared, amounts = (X, y), [epochs] * len(calls)
        for number, history in progress.run_tasks(
            _train_fold, shared, calls, bar, amounts
        ):
            part, block, fold = left[number]
            parts.mkdir(exist_ok=True)
            files.write_arrays(part, history)
            yield history, block, fold


def _train_fold(data, training, validation, options):
    """Train the heads of one block on one fold: a task that any process can do."""
    with heads.one_training:
        tf.config.experimental.enable_op_determinism()
        history = _fit(*data, training, validation, **options)
    # a Keras model refers to itself, and would stay when its block is done
    gc.collect()
    return history


def _fit(X, y, training, validation, *, grid, n_classes, class_weight, seed, **options):
    """Return each metric's history, shape (epochs, D, H), for all heads of one fold."""
    sizes = {"n_features": X.shape[1], "n_classes": n_classes}
    model = side_by_side.SideBySideHeads(**grid, **sizes, seed=seed)
    model.steps_per_execution = heads.steps(len(training), options["batch_size"])
    weights = heads.class_weights(y[training], class_weight, n_classes)
    (X_train, y_train, train_weights), validation_data = (
        (X[rows], y[rows], weights[y[rows]] if class_weight else None)
        for rows in (training, validation)
    )
    keras.utils.set_random_seed(seed)
    options |= {"sample_weight": train_weights, "validation_data": validation_data}
    history = model.fit(
        X_train, y_train, **options, validation_batch_size=256, verbose=0
    ).history
    keys = ("head_loss", "head_accuracy", "val_head_loss", "val_head_accuracy")
    return {
        name: np.reshape(history[key], (-1, *model.heads))
        for name, key in zip(scenes.METRICS, keys, strict=True)
    }


def _read_fold(part, grid, epochs):
    """Return a fold that an interrupted search has finished, or None."""
    if not part.exists():
        return None
    columns = len(grid["learning_rates"]) * len(grid["weight_decays"])
    shape = (epochs, len(grid["dropouts"]), columns)
    try:
        return files.read_arrays(
            part, dict.fromkeys(scenes.METRICS, ("float32", shape))
        )
    except ValueError as error:
        print(f"A fold is trained again: {error}")
        return None


def _fold_table(history, grid, fold):
    """Return the long form of a fold's history."""
    epochs = len(history["loss"])
    index = pd.MultiIndex.from_product(
        [
            range(1, epochs + 1),
            grid["dropouts"],
            grid["learning_rates"],
            grid["weight_decays"],
        ],
        names=["epoch", "dropout", "learning_rate", "weight_decay"],
    )
    table = pd.DataFrame(
        {name: history[name].ravel() for name in scenes.METRICS}, index=index
    )
    table = table.reset_index().assign(fold=fold)
    return table[[*scenes.HYPERPARAMETERS, "fold", "epoch", *scenes.METRICS]]
