"""
A classification head (section 4): build, train.

Knows nothing of photos or files.
"""

import functools
import threading

import keras
import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

import scenes
from scenes import progress, settings, training

_one_training = threading.Lock()  # the kept graph trains one head at a time
STEPS_PER_EXECUTION = 64  # batches a call of the graph, since each is so small


def check_data(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """
    Return X as float32, y as int32, and the number of classes.

    Parameters
    ----------
    X : ndarray, shape (n, n_features)
    y : ndarray of int, shape (n,)
        The number of each image's class.

    Raises
    ------
    ValueError
        The shapes do not fit, X holds NaN or infinity, or y holds something else than
        each class from 0 to the highest.
    """
    X = np.asarray(X, "float32")
    y = np.asarray(y)
    if X.ndim != 2 or not len(X) or y.shape != X.shape[:1]:
        raise ValueError(
            f"X {X.shape} and y {y.shape} must be (n, n_features) and (n,)"
        )
    finite = np.isfinite(X).all(axis=1)
    if not finite.all():
        row = np.argmin(finite)
        raise ValueError(f"X holds NaN or infinity, first in row {row}")
    found = np.unique(y).tolist()
    low, high = found[0], found[-1]
    is_whole = y.dtype.kind in "iu"
    if not is_whole or low < 0:
        allowed = "whole numbers from 0, as label.cat.codes"
        raise ValueError(f"y holds {low!r} to {high!r}; it must hold {allowed}")
    n_classes = max(2, high + 1)
    missing = set(range(n_classes)).difference(found)
    if missing:
        what = f"y never holds class {min(missing)}"
        raise ValueError(f"{what}, which needs an image to train on")
    return X, y.astype("int32"), n_classes


def build_head(
    n_features: int, n_classes: int, *, dropout: float, weight_decay: float
) -> keras.Sequential:
    """
    Return a classification head: dropout, then a dense softmax layer with L2 penalty.

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
    penalty = keras.regularizers.L2(weight_decay)
    layers = [
        keras.Input((n_features,)),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(n_classes, activation="softmax", kernel_regularizer=penalty),
    ]
    return keras.Sequential(layers, name="head")


def train_head(
    X: np.ndarray, y: np.ndarray, options: settings.HeadOptions
) -> keras.Sequential:
    """
    Return a head trained with Adam: an ordinary Keras `fit`.

    Parameters
    ----------
    X : ndarray, shape (n, n_features)
    y : ndarray of int, shape (n,)
        The number of each image's class, `images["label"].cat.codes`; each class from 0
        to the highest has an image.
    options : HeadOptions
        The seed becomes the global seed of Keras. Class weights are those of
        scikit-learn, computed from y; they weight the cross-entropy.

    Returns
    -------
    keras.Sequential
        That of `build_head`, trained, for `predict`: it is not compiled.

    Notes
    -----
    Heads of the same size, learning rate, dropout and weight decay share one compiled
    graph, which is kept until a head of another kind is trained.
    """
    X, y, n_classes = check_data(X, y)
    weights = compute_sample_weight(options.class_weight, y)
    bar = progress.bar(options.epochs, "Training the head", "epoch")
    move = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
    with _one_training, scenes.float32(), training.SettingUp() as setting_up, bar:
        graph = _graph_of(
            X.shape[1],
            n_classes,
            options.learning_rate,
            options.dropout,
            options.weight_decay,
        )
        model, _ = graph.fit(
            options.seed,
            X,
            y,
            batch_size=options.batch_size,
            epochs=options.epochs,
            sample_weight=weights,
            callbacks=[setting_up, move],
            verbose=0,
        )
    return model.layers[0]


@functools.lru_cache(maxsize=1)
def _graph_of(n_features, n_classes, learning_rate, dropout, weight_decay):
    """Return the compiled graph of a kind of head; that of the last kind is kept."""

    def build(seed):
        keras.utils.set_random_seed(seed)
        head = build_head(
            n_features, n_classes, dropout=dropout, weight_decay=weight_decay
        )
        model = keras.Sequential([head])  # so that the head has no optimizer
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate),
            loss="sparse_categorical_crossentropy",
            steps_per_execution=STEPS_PER_EXECUTION,
            jit_compile=False,  # takes longer than it saves for so small a graph
        )
        return model

    return training.SharedGraph(build)
