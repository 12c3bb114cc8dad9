"""
Features like those of photos, heads trained alone, and searches that tests start and
kill.
"""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import joblib
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.random import default_rng
from sklearn.utils.class_weight import compute_class_weight

import scenes
from scenes import base_model, grid_search, heads
from scenes.settings import GridOptions


def make_photos(
    n: int, *, n_classes: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return features from 0 to 6, most of them small, of classes that overlap; labels.
    """
    centres = default_rng(1).gamma(0.5, 0.2, (n_classes, base_model.N_FEATURES))
    rng = default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    features = centres[labels] + rng.gamma(0.5, 1.0, (n, base_model.N_FEATURES))
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
    Return the history of an ordinary `fit` of a head; validation has class weights of
    its own.
    """
    weights = compute_class_weight(
        class_weight, classes=np.unique(train[1]), y=train[1]
    )
    y_val = validation[1]
    balanced = len(y_val) / len(weights) / np.bincount(y_val)[y_val]
    val_weights = balanced if class_weight else np.ones(len(y_val))
    head.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    history = head.fit(
        *train,
        class_weight=class_weight and dict(enumerate(weights)),
        validation_data=(*validation, val_weights),
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
    shape = base_model.N_FEATURES, len(np.unique(train[1]))
    head = heads.build_head(*shape, dropout=dropout, weight_decay=weight_decay)
    drop, dense = head.layers
    dense.kernel.assign(keras.initializers.GlorotUniform(seed)(shape))
    if dropout:
        drop.seed_generator.state.assign([seed, 0])
    return fit_plainly(head, train, validation, learning_rate=learning_rate, **options)


def fake_training(X, y, rows, options, fold, part=""):
    """
    Stand in for `train_fold`: at once, random numbers that depend on the seed alone.
    """
    axes = {
        "learning_rate": options.learning_rates,
        "dropout": options.dropouts,
        "weight_decay": options.weight_decays,
        "fold": [fold],
        "epoch": range(1, options.epochs + 1),
    }
    table = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    rng = default_rng([options.seed, fold])
    for name in scenes.METRICS:
        table[name] = rng.random(len(table), dtype="float32")
    return table, part


def run_example(room: ModuleType, folder: Path, *checks: str) -> str:
    """
    Return what the example in a room's docstring prints beside a copy of the room
    alone.
    """
    shutil.copy(room.__file__, folder)
    example = textwrap.dedent(room.__doc__.partition(":\n\n")[2])
    code = "\n".join([example, *checks])
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", code], **options, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- Searches -------------------------------------------------------------------------

N = 96
X, Y = make_photos(N)
SMALL = GridOptions(
    learning_rates=[0.001, 0.005],
    dropouts=[0.0, 0.3],
    weight_decays=[1e-4, 1e-2],
    epochs=2,
    batch_size=24,
    seed=7,
)
FOLDS = 3


def search_in(
    folder: Path,
    options: GridOptions = SMALL,
    *,
    X: np.ndarray = X,
    y: np.ndarray = Y,
    groups: Sequence | None = None,
    folds: int = FOLDS,
) -> pd.DataFrame:
    """Search with the cache and the CSV in one folder."""
    splits = grid_search.make_folds(y, groups, folds=folds, seed=options.seed)
    files = {"cache": folder / "cache", "csv": folder / "grid_search.csv"}
    return grid_search.grid_search(X, y, options, splits, **files)


# In a process of its own, each tells its words to the tests.


def run(
    word: Connection,
    *,
    folder: Path,
    threads: int = 0,
    copies: int = 1,
    folds: int = FOLDS,
    options,
) -> None:
    """
    Run a search as the notebook does; 0 threads are as many as TensorFlow likes.
    """
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    X, y = make_photos(N * copies)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        search_in(folder, options, X=X, y=y, folds=folds)


def run_step_by_step(
    word: Connection, *, folder: Path, folds: int, options: GridOptions
) -> None:
    """
    Run a grid search without compiling it, which would take most of its time; tell
    steps.
    """
    # each fold looks for garbage, which takes long among all objects of TensorFlow
    gc.freeze()
    tf.config.run_functions_eagerly(True)
    one_word = threading.Lock()

    def tell(callback, batch, logs=None):
        with one_word:
            word.send("a step is done")

    grid_search._StopIfAsked.on_train_batch_end = tell
    run(word, folder=folder, folds=folds, options=options)


def run_and_die(
    word: Connection, *, operation: int, folder: Path, options: GridOptions
) -> None:
    """Search without training, and die of `kill -9` just before a file operation."""
    gc.freeze()
    joblib.cpu_count = lambda: 1
    grid_search.train_fold = fake_training
    told = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
    operations = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal operations
        inside = event in told and str(folder) in str(arguments[0])
        operations += inside
        if inside and operations > operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    search_in(folder, options, folds=2)


def hold(word: Connection, *, folder: Path, options: GridOptions) -> None:
    """Begin a search, send a word, and train for ever."""

    def train(*arguments):
        word.send("the training has begun")
        time.sleep(3600)

    joblib.cpu_count = lambda: 1
    grid_search.train_fold = train
    search_in(folder, options)


def measure_memory(word: Connection, *, folder: Path, options: GridOptions) -> None:
    """
    Send by how many bytes a search on 12,000 photos raises the memory, and their size.
    """

    def memory(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(
            int(line.split()[1]) for line in lines if line.startswith(key)
        )

    X, y = make_photos(600)
    search_in(folder, options, X=X, y=y, folds=2)  # loads what any search needs
    X, y = np.tile(X, (20, 1)), np.tile(y, 20)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    search_in(folder, options, X=X, y=y, folds=2)
    word.send((memory("VmHWM") - before, X.nbytes))
