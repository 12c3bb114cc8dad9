"""Features like those of photos, and grid searches in processes that tests start and kill."""

import contextlib
import functools
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import scenes
import scenes.base_model
import scenes.grid_search
import scenes.side_by_side


def make_photos(n: int, *, n_classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features from 0 to 6, most of them small, of classes that overlap; labels."""
    centres = np.random.default_rng(1).gamma(0.5, 0.2, (n_classes, scenes.base_model.N_FEATURES))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    features = centres[labels] + rng.gamma(0.5, 1.0, (n, scenes.base_model.N_FEATURES))
    return np.clip(features, 0, 6).astype("float32"), labels


def make_unequal(n: int, *, n_classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return some of `make_photos(n)`: of the classes all, half, a third, all, half, ..."""
    features, labels = make_photos(n, n_classes=n_classes)
    kept = np.arange(n) % (1 + labels % 3) == 0
    return features[kept], labels[kept]


def fake_training(features, labels, training, validation, *, grid, epochs, seed, **options):
    """Stand in for `_fit`: at once, random numbers that depend on the seed alone."""
    heads = len(grid["learning_rates"]) * len(grid["weight_decays"])
    rng = np.random.default_rng(seed)
    return {
        name: rng.random((epochs, len(grid["dropouts"]), heads), dtype="float32")
        for name in scenes.METRICS
    }


def run(n: int, word: Connection, *, threads: int = 0, **settings) -> None:
    """Run a grid search as the notebook does; 0 threads are as many as TensorFlow likes."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        scenes.grid_search.grid_search(*make_photos(n), **settings)


def run_step_by_step(n: int, word: Connection, **settings) -> None:
    """Run a grid search without compiling it, which would take most of its time; tell steps."""
    tf.config.run_functions_eagerly(True)
    tell = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: word.send("a step is done")
    )
    heads = scenes.side_by_side.SideBySideHeads
    heads.fit = functools.partialmethod(heads.fit, callbacks=[tell])
    run(n, word, **settings)


def run_and_die(n: int, word: Connection, *, operation: int, csv: Path, **settings) -> None:
    """Search without training, and die of `kill -9` just before a file operation."""
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

    photos = make_photos(n)
    sys.addaudithook(count)
    scenes.grid_search.grid_search(*photos, **settings, csv=csv)


def hold(n: int, word: Connection, **settings) -> None:
    """Begin a search, send a word, and train for ever."""

    def train(*arguments, **options):
        word.send("the training has begun")
        time.sleep(3600)

    scenes.grid_search._fit = train
    scenes.grid_search.grid_search(*make_photos(n), **settings)


def measure_memory(n: int, word: Connection, **settings) -> None:
    """Send by how many bytes a search on n photos raises the memory of the process."""

    def memory(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

    features, labels = make_photos(600)
    scenes.grid_search.grid_search(features, labels, **settings)  # loads what any search needs
    features = np.tile(features, (n // 600, 1))
    labels = np.tile(labels, n // 600)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    scenes.grid_search.grid_search(features, labels, **settings)
    word.send(memory("VmHWM") - before)
