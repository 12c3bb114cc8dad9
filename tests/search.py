"""
Features like those of photos, heads trained alone, and searches that tests start and
kill.
"""

import contextlib
import functools
import gc
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

import scenes
import scenes.base_model
import scenes.grid_search
import scenes.heads
import scenes.side_by_side


def make_photos(
    n: int, *, n_classes: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return features from 0 to 6, most of them small, of classes that overlap; labels.
    """
    centres = np.random.default_rng(1).gamma(
        0.5, 0.2, (n_classes, scenes.base_model.N_FEATURES)
    )
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    features = centres[labels] + rng.gamma(0.5, 1.0, (n, scenes.base_model.N_FEATURES))
    return np.clip(features, 0, 6).astype("float32"), labels


def make_unequal(n: int, *, n_classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """
    Return some of `make_photos(n)`: of the classes all, half, a third, all, half, ...
    """
    features, labels = make_photos(n, n_classes=n_classes)
    kept = np.arange(n) % (1 + labels % 3) == 0
    return features[kept], labels[kept]


# --- Training -------------------------------------------------------------------------


def fit_plainly(
    head, train, validation, *, learning_rate, class_weight=None, **options
):
    """
    Return the history of an ordinary `fit` of a head; validation has the class weights,
    too.
    """
    weights = compute_class_weight(
        class_weight, classes=np.unique(train[1]), y=train[1]
    )
    head.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    history = head.fit(
        *train,
        class_weight=class_weight and dict(enumerate(weights)),
        validation_data=(*validation, weights[validation[1]]),
        verbose=0,
        **options,
    ).history
    return pd.DataFrame(history)[list(scenes.METRICS)]


def fit_alone(train, validation, setting, *, seed, **options):
    """
    Return the history of a plain fit from the weights and with the masks of a search.
    """
    learning_rate, dropout, weight_decay = setting
    keras.utils.set_random_seed(seed)  # it decides the order of the photos
    shape = scenes.base_model.N_FEATURES, len(np.unique(train[1]))
    head = scenes.heads.build_head(*shape, dropout=dropout, weight_decay=weight_decay)
    drop, dense = head.layers
    dense.kernel.assign(keras.initializers.GlorotUniform(seed)(shape))
    if dropout:
        drop.seed_generator.state.assign([seed, 0])
    return fit_plainly(head, train, validation, learning_rate=learning_rate, **options)


def fake_training(
    features, labels, training, validation, *, grid, epochs, seed, **options
):
    """Stand in for `_fit`: at once, random numbers that depend on the seed alone."""
    heads = len(grid["learning_rates"]) * len(grid["weight_decays"])
    rng = np.random.default_rng(seed)
    return {
        name: rng.random((epochs, len(grid["dropouts"]), heads), dtype="float32")
        for name in scenes.METRICS
    }


# --- Searches in a process of their own -----------------------------------------------


def run(word: Connection, *, threads: int = 0, **search) -> None:
    """
    Run a grid search as the notebook does; 0 threads are as many as TensorFlow likes.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        scenes.grid_search.grid_search(**search)


def run_step_by_step(word: Connection, **search) -> None:
    """
    Run a grid search without compiling it, which would take most of its time; tell
    steps.
    """
    # each fold looks for garbage, which takes long among all objects of TensorFlow
    gc.freeze()
    tf.config.run_functions_eagerly(True)
    tell = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: word.send("a step is done")
    )
    heads = scenes.side_by_side.SideBySideHeads
    heads.fit = functools.partialmethod(heads.fit, callbacks=[tell])
    run(word, **search)


def run_and_die(word: Connection, *, operation: int, csv: Path, **search) -> None:
    """Search without training, and die of `kill -9` just before a file operation."""
    gc.freeze()
    scenes.grid_search._fit = fake_training
    told = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
    operations = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal operations
        # A folder is emptied by names relative to it.
        inside = event in told and (
            str(csv.parent) in str(arguments[0]) or not os.path.isabs(str(arguments[0]))
        )
        operations += inside
        if inside and operations > operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    scenes.grid_search.grid_search(**search, csv=csv)


def hold(word: Connection, **search) -> None:
    """Begin a search, send a word, and train for ever."""

    def train(*arguments, **options):
        word.send("the training has begun")
        time.sleep(3600)

    scenes.grid_search._fit = train
    scenes.grid_search.grid_search(**search)


def measure_memory(word: Connection, *, copies: int, **search) -> None:
    """
    Send by how many bytes a search on so many copies of 600 photos raises the memory.
    """

    def memory(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(
            int(line.split()[1]) for line in lines if line.startswith(key)
        )

    X, y = make_photos(600)
    scenes.grid_search.grid_search(X, y, **search)  # loads what any search needs
    X, y = np.tile(X, (copies, 1)), np.tile(y, copies)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    scenes.grid_search.grid_search(X, y, **search)
    word.send(memory("VmHWM") - before)
