"""
A classification head (section 4): build, train.

Knows nothing of photos or files.
"""

import threading

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import scenes
from scenes import progress, settings

one_training = threading.Lock()  # Keras's global seed is shared by all threads


def check_data(
    X: np.ndarray, y: np.ndarray, n_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """
    Return X as float32, y as int32, and the number of classes.

    Without `n_classes`, y must hold each class from 0 to the highest.
    """
    X, y = np.asarray(X).astype("float32", copy=False), np.asarray(y)
    if X.ndim != 2 or not len(X) or y.shape != X.shape[:1]:
        raise ValueError(
            f"X {X.shape} and y {y.shape} must be (n, n_features) and (n,)"
        )
    if not np.isfinite(X).all():
        row = int(np.argmin(np.isfinite(X).all(axis=1)))
        raise ValueError(f"X holds NaN or infinity, first in row {row}")
    low, high = np.unique(y)[[0, -1]].tolist()
    if y.dtype.kind not in "iu" or low < 0 or high >= (n_classes or np.inf):
        allowed = f"whole numbers from 0{f' to {n_classes - 1}' if n_classes else ''}"
        raise ValueError(
            f"y holds {low!r} to {high!r}; it must hold {allowed}, as label.cat.codes"
        )
    if not n_classes and (missing := {*range(max(2, high + 1))} - {*y.tolist()}):
        raise ValueError(
            f"y never holds class {min(missing)}, which needs an image to train on"
        )
    return X, y.astype("int32"), n_classes or high + 1


def class_weights(
    y: np.ndarray, class_weight: str | None, n_classes: int
) -> np.ndarray:
    """
    Return the weight of each class, shape (n_classes,).

    Parameters
    ----------
    y : ndarray of int
        The class numbers of the training set.
    class_weight : None or 'balanced'
        None: 1 for each class. 'balanced': n / (n_classes * images of the class), as in
        scikit-learn, so that all classes have the same total weight; 0 for a class
        without images.
    n_classes : int
    """
    settings.check(class_weight=class_weight)
    if class_weight is None:
        return np.ones(n_classes, "float32")
    counts = np.bincount(y, minlength=n_classes)
    return (len(y) / (n_classes * np.maximum(counts, 1)) * (counts > 0)).astype(
        "float32"
    )


def build_head(
    n_features: int, n_classes: int, *, dropout: float, weight_decay: float
) -> keras.Sequential:
    """
    Return a classification head: dropout, then a dense softmax layer with an L2
    penalty.

    Parameters
    ----------
    n_features, n_classes : int
    dropout : float
        The share of the features that is set to 0 in training, from 0 to below 1.
    weight_decay : float
        The factor of the sum of squared weights in the loss.

    Returns
    -------
    keras.Sequential
        Maps features (n, n_features) to probabilities (n, n_classes), in the order of
        the categories of `images["label"]`.
    """
    settings.check(dropout=dropout, weight_decay=weight_decay)
    layers = [keras.Input((n_features,)), keras.layers.Dropout(dropout)]
    penalty = keras.regularizers.L2(weight_decay)
    layers += [
        keras.layers.Dense(n_classes, activation="softmax", kernel_regularizer=penalty)
    ]
    return keras.Sequential(layers, name="head")


def train_head(
    X: np.ndarray,
    y: np.ndarray,
    *,
    learning_rate: float,
    dropout: float,
    weight_decay: float,
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int,
    batch_size: int = 128,
    class_weight: str | None = None,
    seed: int = 0,
) -> tuple[keras.Sequential, pd.DataFrame]:
    """
    Return a head trained with Adam, and its history: an ordinary Keras `fit`.

    Parameters
    ----------
    X : ndarray, shape (n, n_features)
    y : ndarray of int, shape (n,)
        The number of each image's class, `images["label"].cat.codes`; each class from 0
        to the highest has an image.
    learning_rate, dropout, weight_decay : float
    validation_data : (X, y), optional
        Evaluated after each epoch.
    epochs, batch_size : int
    class_weight : None or 'balanced'
        See `class_weights`. The weights are computed from `y`; they weight the
        cross-entropy and the accuracy of the training and the validation data.
    seed : int
        Seeds the initial weights, the order of the images and the dropout masks; it
        becomes the global seed of Keras.

    Returns
    -------
    head : keras.Sequential
    history : DataFrame
        One row per epoch: `epoch` (from 1), `loss` (with the L2 penalty, averaged over
        the epoch's batches), `accuracy`, and with validation data `val_loss`,
        `val_accuracy`.
    """
    settings.check(
        learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, seed=seed
    )
    X, y, n_classes = check_data(X, y)
    weights = class_weights(y, class_weight, n_classes)
    if validation_data:
        X_val, y_val, _ = check_data(*validation_data, n_classes)
        validation_data = X_val, y_val, weights[y_val] if class_weight else None
    with one_training, progress.bar(epochs, "Training the head", "epoch") as bar:
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(int(seed))  # Keras refuses whole numbers of NumPy
        head = build_head(
            X.shape[1], n_classes, dropout=dropout, weight_decay=weight_decay
        )
        model = _compile(head, learning_rate, steps(len(X), batch_size))
        update = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: bar.update()
        )
        options = {
            "batch_size": batch_size,
            "epochs": epochs,
            "validation_data": validation_data,
        }
        options |= {"sample_weight": weights[y] if class_weight else None}
        history = model.fit(X, y, **options, callbacks=[update], verbose=0)
    metrics = {
        name: history.history[name]
        for name in scenes.METRICS
        if name in history.history
    }
    return head, pd.DataFrame({"epoch": range(1, epochs + 1), **metrics})


def _compile(head, learning_rate, steps):
    """
    Return a compiled model of the head, which itself is saved without an optimizer.
    """
    model = keras.Sequential([head])
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
        steps_per_execution=steps,
        jit_compile=False,  # compiling so small a graph takes longer than it saves
    )
    return model


def steps(n: int, batch_size: int) -> int:
    """
    Return the number of batches per call of the graph: many, since each is so small.
    """
    return min(64, -(-n // batch_size))
