"""Heads side by side train as each would alone."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from search import fit_alone, make_photos, make_unequal

import scenes
import scenes.grid_search
import scenes.side_by_side

pytestmark = pytest.mark.quick

GRID = {
    "learning_rates": [0.0005, 0.005],
    "dropouts": [0.0, 0.3, 0.5],
    "weight_decays": [1e-4, 1e-2],
}
EPOCHS = {
    "epochs": 2,
    "batch_size": 64,
}  # 295 training photos: four batches and one of 39


@pytest.fixture(autouse=True, scope="module")
def step_by_step():
    """Let TensorFlow run without compiling, which would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def make_halves(n_classes=6, make=make_photos):
    """Return training and validation photos."""
    features, labels = make(360, n_classes=n_classes)
    train = round(0.82 * len(labels))
    return (features[:train], labels[:train]), (features[train:], labels[train:])


def train(halves, grid, *, n_classes=6, seed=0, class_weight=None):
    """Return the history of all heads: arrays of (epochs, dropouts, other settings)."""
    features, labels = map(np.concatenate, zip(*halves, strict=True))
    rows = np.split(np.arange(len(labels)), [len(halves[0][1])])
    options = {"n_classes": n_classes, "seed": seed, "class_weight": class_weight}
    return scenes.grid_search._fit(
        features, labels, *rows, grid=grid, **options, **EPOCHS
    )


def pick(history, grid, setting):
    """Return one head's part of a history: a row for each epoch."""
    rate, drop, decay = (
        grid[name].index(value) for name, value in zip(grid, setting, strict=True)
    )
    column = rate * len(grid["weight_decays"]) + decay
    return pd.DataFrame(
        {name: history[name][:, drop, column] for name in scenes.METRICS}
    )


@pytest.mark.parametrize(
    ("n_classes", "seed", "make", "class_weight"),
    [
        (6, 0, make_photos, None),
        (2, 2, make_photos, None),
        (37, 3, make_photos, None),
        (6, 4, make_unequal, "balanced"),
    ],
)
def test_a_head_trains_side_by_side_as_alone(n_classes, seed, make, class_weight):
    """
    With the same initial weights, batches and masks, all four figures of each epoch
    agree.

    To 1e-4; measured: 1e-6. Keras's own Dropout makes the masks of the head that is
    alone.
    """
    halves = make_halves(n_classes, make)
    options = {"seed": seed, "class_weight": class_weight}
    history = train(halves, GRID, n_classes=n_classes, **options)
    for setting in ((0.005, 0.0, 1e-2), (0.0005, 0.5, 1e-4)):
        alone = fit_alone(*halves, setting, **options, **EPOCHS)
        together = pick(history, GRID, setting)
        np.testing.assert_allclose(
            together, alone, rtol=0, atol=1e-4, err_msg=str(setting)
        )


def test_equal_settings_give_equal_columns():
    equal = {
        "learning_rates": [0.005] * 2,
        "dropouts": [0.3] * 2,
        "weight_decays": [1e-3] * 3,
    }
    for name, metric in train(make_halves(), equal).items():
        first = np.broadcast_to(metric[:, :1, :1], metric.shape)
        np.testing.assert_allclose(metric, first, rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def history():
    """Return the history of the grid."""
    return train(make_halves(), GRID)


@pytest.mark.parametrize(
    "grid",
    [
        {"learning_rates": [0.005], "dropouts": [0.5], "weight_decays": [1e-4]},
        {name: values[::-1] for name, values in GRID.items()},
        {
            "learning_rates": [1.0, 0.005],
            "dropouts": [0.5, 0.9],
            "weight_decays": [10, 0, 1e-4],
        },
    ],
    ids=["alone", "the lists reversed", "beside heads that fail"],
)
def test_a_head_does_not_depend_on_the_heads_beside_it(history, grid):
    setting = 0.005, 0.5, 1e-4
    other = pick(train(make_halves(), grid), grid, setting)
    np.testing.assert_allclose(other, pick(history, GRID, setting), rtol=0, atol=1e-5)


def test_a_copy_of_side_by_side_runs_its_example_alone(tmp_path):
    """The example of its docstring, in a folder that holds nothing but the file."""
    shutil.copy(scenes.side_by_side.__file__, tmp_path)
    example = textwrap.dedent(scenes.side_by_side.__doc__.split(":\n\n")[1])
    example += "\nassert history['val_head_accuracy'][-1].shape == (2, 4)"
    example += "\nassert history['val_head_accuracy'][-1].max() > 0.8"
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", example], **options)
    assert done.returncode == 0, done.stderr
    assert "[[0." in done.stdout
