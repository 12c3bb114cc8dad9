"""
Heads (sections 4 and 5): one head alone, and many side by side.

Side by side, each trains as it would alone. Knows nothing of photos or files.
"""

import functools
import threading
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops

import scenes
from scenes import settings, tasks

one_training = threading.Lock()  # the seeds are the process's, which may have other threads


def check_data(
    features: np.ndarray, labels: np.ndarray, n_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """
    Return the features, the labels as int32, and the number of classes.

    Features of uint8 are rounded ones and stay so; others become float32. Without
    `n_classes`, the classes are those that the labels count: from 0, none left out.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.dtype != "uint8":
        features = features.astype("float32", copy=False)
    if features.ndim != 2 or features.shape[1] != scenes.N_FEATURES or not len(features):
        raise ValueError(
            f"features have the shape {features.shape}; it must be (n, {scenes.N_FEATURES}), "
            "n from 1"
        )
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"features hold NaN or infinity, first in row {row}")
    if labels.shape != (len(features),):
        raise ValueError(
            f"labels have the shape {labels.shape}; it must be ({len(features)},), one a photo"
        )
    n_classes = _count_classes(np.unique(labels), n_classes)
    return features, labels.astype("int32"), n_classes


def _check_validation(
    features: np.ndarray, labels: np.ndarray, kind: np.dtype, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and labels for validation, of the kind of those for training."""
    features, labels, _ = check_data(features, labels, n_classes)
    if features.dtype != kind:  # Keras would cast them without a word
        raise ValueError(
            f"features for training are {kind}, those for validation {features.dtype}: "
            "restore the rounded ones with restore_features"
        )
    return features, labels


def _count_classes(found: np.ndarray, n_classes: int | None) -> int:
    """Return the number of classes; `found` are the different labels in order."""
    allowed = f"0 to {n_classes - 1}" if n_classes else "whole numbers from 0, one for each class"
    most = n_classes or np.inf
    numbers = found.dtype.kind in "iuf"
    wrong = (
        found[~((found >= 0) & (found < most) & (found == np.floor(found)))] if numbers else found
    )
    if len(wrong):
        raise ValueError(f"labels hold {wrong[0].item()!r}; they must be {allowed}")
    if n_classes:
        return n_classes
    left_out = np.flatnonzero(found != np.arange(len(found)))
    if len(left_out):
        raise ValueError(
            f"labels go up to {int(found[-1])} but never hold {left_out[0]}; give each class a "
            "photo, or leave it out with images['label'].cat.remove_unused_categories()"
        )
    if len(found) < 2:
        raise ValueError("labels hold one class only; there must be two or more to tell apart")
    return len(found)


def build_head(n_classes: int, *, dropout: float, weight_decay: float) -> keras.Sequential:
    """
    Return the new last layer: dropout, then a dense softmax with an L2 penalty.

    Parameters
    ----------
    n_classes : int
    dropout : float
        The share of the features that is set to 0 in training, from 0 to below 1.
    weight_decay : float
        The factor of the sum of squared weights in the loss.

    Returns
    -------
    keras.Sequential
        Maps features (n, 1280) to probabilities (n, n_classes), in the order of the
        categories of `images["label"]`.
    """
    settings.check(dropout=dropout, weight_decay=weight_decay)
    head = keras.Sequential(
        [
            keras.Input((scenes.N_FEATURES,)),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(
                n_classes,
                activation="softmax",
                kernel_regularizer=keras.regularizers.L2(weight_decay),
            ),
        ],
        name="head",
    )
    head.jit_compile = False  # compiling so small a graph would take longer than it saves
    return head


def train_head(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    learning_rate: float,
    dropout: float,
    weight_decay: float,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
) -> tuple[keras.Sequential, pd.DataFrame]:
    """
    Return one head that Adam has trained, and its history: an ordinary Keras `fit`.

    Parameters
    ----------
    features : ndarray, shape (n, 1280)
        Of uint8, they are rounded ones, which are restored batch by batch.
    labels : ndarray of int, shape (n,)
        The number of each photo's class, `images["label"].cat.codes`; each class from 0 to
        the highest has a photo.
    learning_rate, dropout, weight_decay : float
    validation : (features, labels), optional
        Evaluated after each epoch.
    epochs, batch_size : int
    seed : int
        Of the initial weights, the order of the photos and the dropout masks; it becomes
        the global seed of Keras.

    Returns
    -------
    head : keras.Sequential
    history : DataFrame
        One row for each epoch: `epoch` (from 1), `loss` (with the L2 penalty, averaged over
        the epoch's batches), `accuracy`, and with validation `val_loss`, `val_accuracy`.
    """
    settings.check(learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, seed=seed)
    features, labels, n_classes = check_data(features, labels)
    validation = validation and _check_validation(*validation, features.dtype, n_classes)
    setting = {"dropout": dropout, "weight_decay": weight_decay}
    per_call = steps(len(features), batch_size)
    with one_training, tasks.progress(epochs, "Training the head", "epoch") as bar:
        model, start = _compiled(features.dtype.name, n_classes, learning_rate, per_call, **setting)
        keras.utils.set_random_seed(int(seed))  # Keras refuses whole numbers of NumPy
        head = build_head(n_classes, **setting)
        assign(model.layers[-1].variables, head.variables)
        assign(model.optimizer.variables, start)
        moving = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
        history = model.fit(
            features,
            labels,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=validation,
            verbose=0,
            callbacks=[moving],
        )
        assign(head.variables, model.layers[-1].variables)
    metrics = {name: history.history[name] for name in scenes.METRICS if name in history.history}
    return head, pd.DataFrame({"epoch": range(1, epochs + 1), **metrics})


@functools.lru_cache(maxsize=8)
def _compiled(
    kind: str, n_classes: int, learning_rate: float, per_call: int, **setting: float
) -> tuple[keras.Sequential, list[np.ndarray]]:
    """
    Return a model that trains heads of one setting, and what its optimizer starts from.

    It is kept for the next training of the same setting: TensorFlow needs as long to trace its
    graph as for several epochs, and never forgets a graph anyway.
    """
    entrance = keras.Input((scenes.N_FEATURES,), dtype=kind)
    head = build_head(n_classes, **setting)
    model = keras.Sequential([entrance, keras.layers.Lambda(restored), head])
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=per_call,
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    return model, [variable.numpy() for variable in model.optimizer.variables]


def assign(variables: Sequence[keras.Variable], values: Sequence) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def restored(features: tf.Tensor) -> tf.Tensor:
    """Return a batch of features, of which uint8 are rounded ones, as float32."""
    if features.dtype != "uint8":
        return features
    # As scenes.STEPS, for which a gather takes three times as long.
    squares = ops.square(ops.cast(features, "float64"))
    return ops.cast(squares * (6 / 255**2), "float32")


def steps(n: int, batch_size: int) -> int:
    """Return the batches to run per call of the graph: many, since each is so small."""
    return min(64, -(-n // batch_size))
