"""
The grid search (section 6): a grid of settings, cross-validated.

The same settings and data give the same bytes, interrupted or not, here or on a
cluster. Knows nothing of photos and fine-tuning.
"""

import contextlib
import dataclasses
import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils.class_weight import compute_sample_weight

import scenes
from scenes import files, heads, progress, settings, side_by_side, store, training

# Columns trained side by side, heads x classes: more at once take no less time each.
BLOCK_COLUMNS = 768
KIND = "grid-search"  # of the entries of the store
_ORDER = [*scenes.HYPERPARAMETERS, "fold", "epoch"]  # of the rows
COLUMNS = [*_ORDER, *scenes.METRICS]
Fold = tuple[np.ndarray, np.ndarray]  # its training rows, its validation rows
_stopped = threading.Event()  # what trains in a thread looks at it after each call


@scenes.float32()
def grid_search(
    X: np.ndarray,
    y: np.ndarray,
    options: settings.GridOptions,
    splits: Sequence[Fold],
    *,
    cache: str | Path,
    csv: str | Path,
) -> pd.DataFrame:
    """
    Return the history of a head for each setting of a grid, cross-validated.

    All heads of a fold train side by side, as `side_by_side.SideBySideHeads`.

    Parameters
    ----------
    X : ndarray, shape (n, n_features)
    y : ndarray of int, shape (n,)
        The number of each photo's class, `images["label"].cat.codes`; each class from 0
        to the highest has a photo.
    options : GridOptions
        The class weights are computed from each part of each fold; they weight its
        cross-entropy and accuracy: with 'balanced', accuracies are balanced accuracies,
        even where groups divide the classes unequally.
    splits : sequence of (training rows, validation rows)
        The folds, as `utils.draw_folds` or scikit-learn draw them: numbers of rows of X
        and y. Each fold trains on all classes; rows in none are not used.
    cache : path
        The folder for finished folds, until all are finished: an interrupted search
        goes on from there when it is started again.
    csv : path
        The results. The file is replaced as a whole at the end.

    Returns
    -------
    DataFrame
        One row for each setting, fold and epoch (both from 1): `learning_rate`,
        `dropout`, `weight_decay`, `fold`, `epoch`, `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, with 7 digits. They mean what Keras's history means: training
        figures are averaged over the epoch's batches, validation is at its end, losses
        hold the L2 penalty. `attrs` says whether folds of an interrupted search were
        there already (`resumed`), and how many `seconds` the search took.

    Notes
    -----
    The same machine, versions, folds and seed give the same bytes, in any process,
    interrupted or not. A GPU, another processor or another number of threads may add up
    in another order: the last digits then differ, and an accuracy by a photo that
    stands between two classes.

    A task is one fold of some dropout rates, with all learning rates and weight decays:
    of one rate, or of as many as make at most 128 settings of six classes (fewer of
    more classes). Two tasks train at once on a CPU of two cores or more, since one
    leaves half of them idle; on a GPU one does, and elsewhere those that
    `joblib.parallel_config` names.

    Memory grows by at most two and a half copies of X for each task at once, by about
    0.4 MB per setting of each block that trains, and, while the table is made, by some
    250 bytes for each of its rows.
    """
    start = time.perf_counter()
    X, y, n_classes = heads.check_data(X, y)
    splits = list(splits)
    _check_folds(splits, y, n_classes)
    blocks = divide(options, n_classes)
    made_of = [scenes.VERSIONS, dataclasses.asdict(options), len(blocks)]
    fingerprint = files.fingerprint(made_of, X, y, splits)
    entry = store.Entry(cache, KIND, fingerprint)
    csv = Path(csv)
    with files.locked(csv):
        is_resumed = bool(entry.parts())
        tables = list(_train_all(X, y, splits, blocks, entry))
        files.write_csv(pd.concat(tables).sort_values(_ORDER), csv)
        entry.drop()
    results = pd.read_csv(csv)
    results.attrs = {"resumed": is_resumed, "seconds": time.perf_counter() - start}
    return results


def _check_folds(splits, y, n_classes):
    """Raise an error if there is no fold, or one that trains without a class."""
    if not splits:
        raise ValueError("splits holds no fold")
    for fold, (training_rows, _) in enumerate(splits, 1):
        missing = set(range(n_classes)).difference(y[training_rows])
        if missing:
            raise ValueError(f"fold {fold} has no class {min(missing)} to train on")


def make_folds(
    labels: np.ndarray, groups: Sequence | None, *, folds: int, seed: int
) -> list[Fold]:
    """
    Return the (training rows, validation rows) of each fold; groups stay together.

    A class with `folds` groups or more has some in each fold.

    Parameters
    ----------
    labels : ndarray or Series of categories, shape (n,)
        Names or numbers of classes; the error for a class that is too small calls it as
        they do. Names in the order of the numbers give the same folds.
    groups : sequence of length n, or None
    folds, seed : int
    """
    if groups is None:
        groups = np.arange(len(labels))
    groups = np.asarray(groups)
    different = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    sizes = different["label"].value_counts()
    if folds > sizes.min():
        raise ValueError(
            f"{sizes.idxmin()} has {sizes.min()} different photo(s), a group counted "
            f"once, too few for {folds} folds; add photos (or shrink less), or take "
            f"fewer folds (a share, as VALIDATION_RATIO, is 1 / folds)"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, groups))
    shares = sizes / folds
    limits = np.maximum(1, shares / 100)
    for _, rows in splits:
        in_fold = different["group"].isin(groups[rows])
        found = different["label"][in_fold].value_counts()
        found = found.reindex(sizes.index, fill_value=0)
        gaps = (found - shares).abs()
        if (gaps >= limits).any():
            return _folds_of_groups(splitter, different, groups)
    return splits


def _folds_of_groups(splitter, different, groups):
    """
    Return folds that are stratified by group, not by photo.

    Where a few photos have many copies, folds of as many photos would hold hardly any
    different ones of a class, or none.
    """
    labels = different["label"].to_numpy()
    names = different["group"].to_numpy()
    splits = []
    for _, rows in splitter.split(labels, labels, names):
        in_fold = np.isin(groups, names[rows])
        training_rows = np.flatnonzero(~in_fold)
        validation_rows = np.flatnonzero(in_fold)
        splits.append((training_rows, validation_rows))
    return splits


def divide(options: settings.GridOptions, n_classes: int) -> list[settings.GridOptions]:
    """
    Return the grids of the blocks, each of whole dropout rates.

    They depend on the settings and classes alone, so that the results do not depend on
    the number of workers.
    """
    rates = options.dropouts
    columns_a_rate = n_classes * _heads_a_rate(options)
    size = max(1, BLOCK_COLUMNS // columns_a_rate)
    blocks = []
    for start in range(0, len(rates), size):
        part = rates[start : start + size]
        blocks.append(dataclasses.replace(options, dropouts=part))
    return blocks


def _heads_a_rate(options):
    return len(options.learning_rates) * len(options.weight_decays)


def _train_all(X, y, splits, blocks, entry):
    """Yield the table of each block and fold: what an interrupted search left first."""
    calls = []
    n_tasks = len(splits) * len(blocks)
    with progress.bar(n_tasks, "Grid search", "fold") as bar:
        for number, block in enumerate(blocks, 1):
            n_heads = len(block.dropouts) * _heads_a_rate(block)
            shape = n_heads * block.epochs, len(COLUMNS)
            schema = {"table": (np.float64, shape)}
            for fold, rows in enumerate(splits, 1):
                part = f"fold-{fold}-block-{number}"
                arrays = entry.get(schema, part)
                if arrays is None:
                    calls.append((X, y, rows, block, fold, part))
                else:
                    bar.update()
                    yield pd.DataFrame(arrays["table"], columns=COLUMNS)
        threads = 1 if scenes.has_gpu() else min(2, joblib.cpu_count())
        trained = progress.run(train_fold, calls, threads=threads, stop=_stopped)
        with contextlib.closing(trained):  # nothing trains on after an interrupt
            for table, part in trained:
                arrays = {"table": table.to_numpy("float64")}
                entry.put(arrays, part)
                bar.update()
                yield table


class _StoppedError(Exception):
    """Ends the training of a thread."""


class _StopIfAsked(keras.callbacks.Callback):
    """Ends a training after an interrupt, which only the main thread sees."""

    def on_train_batch_end(self, batch, logs=None):
        if _stopped.is_set():
            raise _StoppedError


def train_fold(
    X: np.ndarray,
    y: np.ndarray,
    rows: Fold,
    options: settings.GridOptions,
    fold: int,
    part: str = "",
) -> tuple[pd.DataFrame, str]:
    """
    Return the results of all heads of a block on one fold, and the name given to them.

    It is a task that any process can do.

    Parameters
    ----------
    X, y : ndarray, shapes (n, n_features) and (n,)
        As `heads.check_data` returns them; y holds each class.
    rows : (training rows, validation rows)
    options : GridOptions
        The grid of the block.
    fold : int
        Its number, from 1.
    part : str
        Returned as it is.

    Returns
    -------
    DataFrame
        The columns of `grid_search`; a row for each epoch and head.
    part : str
    """
    training_rows, validation_rows = rows
    n_classes = int(y.max()) + 1
    # Tensors, since Keras would copy arrays once more.
    X_train = tf.convert_to_tensor(X[training_rows])
    X_val = tf.convert_to_tensor(X[validation_rows])
    y_train = y[training_rows]
    y_val = y[validation_rows]
    weights = compute_sample_weight(options.class_weight, y_train)
    val_weights = compute_sample_weight(options.class_weight, y_val)
    sequence = np.random.SeedSequence([options.seed, fold])
    (state,) = sequence.generate_state(1)
    seed = int(state)
    model = side_by_side.SideBySideHeads(
        learning_rates=options.learning_rates,
        dropouts=options.dropouts,
        weight_decays=options.weight_decays,
        n_features=X.shape[1],
        n_classes=n_classes,
        seed=seed,
    )
    model.steps_per_execution = heads.STEPS_PER_EXECUTION
    with training.SettingUp() as setting_up:
        keras.utils.set_random_seed(seed)  # of the order of the examples
        history = model.fit(
            X_train,
            y_train,
            batch_size=options.batch_size,
            epochs=options.epochs,
            sample_weight=weights,
            validation_data=(X_val, y_val, val_weights),
            validation_batch_size=256,
            callbacks=[setting_up, _StopIfAsked()],
            verbose=0,
        ).history
    table = _fold_table(model.settings, history, options.epochs, fold)
    del model, history, setting_up
    gc.collect()  # a Keras model refers to itself, and would stay
    return table, part


def _fold_table(settings_of_heads, history, epochs, fold):
    """Return a row for each epoch and head, in the order of the heads' axes."""
    table = pd.DataFrame(settings_of_heads * epochs)
    numbers = range(1, epochs + 1)
    table["fold"] = fold
    table["epoch"] = np.repeat(numbers, len(settings_of_heads))
    for name in scenes.METRICS:
        key = f"head_{name}".replace("head_val", "val_head")
        values = np.ravel(history[key])
        table[name] = values.astype("float32")
    return table
