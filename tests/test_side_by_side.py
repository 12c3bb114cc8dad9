"""Heads side by side train as each would alone."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose
from search import fit_alone, make_photos, make_unequal, run_example
from sklearn.utils.class_weight import compute_sample_weight

import scenes
from scenes import side_by_side

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
    """Return a table of all heads: a row for each head and epoch, and its setting."""
    (X, y), (X_val, y_val) = halves
    model = side_by_side.SideBySideHeads(
        **grid, n_features=X.shape[1], n_classes=n_classes, seed=seed
    )
    weights = compute_sample_weight(class_weight, y).astype("float32")
    val_weights = compute_sample_weight(class_weight, y_val).astype("float32")
    keras.utils.set_random_seed(seed)  # of the order of the photos
    history = model.fit(
        X,
        y,
        sample_weight=weights,
        validation_data=(X_val, y_val, val_weights),
        verbose=0,
        **EPOCHS,
    ).history
    tables = []
    for epoch in range(EPOCHS["epochs"]):
        table = pd.DataFrame(model.settings)
        for name in scenes.METRICS:
            key = name.replace("loss", "head_loss").replace("accuracy", "head_accuracy")
            table[name] = np.ravel(history[key][epoch])
        tables.append(table)
    return pd.concat(tables)


def pick(table, setting):
    """Return the four figures of the heads with a setting: a row for each epoch."""
    rows = table.set_index(scenes.HYPERPARAMETERS).sort_index().loc[[setting]]
    return rows[list(scenes.METRICS)].to_numpy()


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
    table = train(halves, GRID, n_classes=n_classes, **options)
    for setting in ((0.005, 0.0, 1e-4), (0.0005, 0.5, 1e-2)):
        alone = fit_alone(*halves, setting, **options, **EPOCHS)
        together = pick(table, setting)
        assert_allclose(together, alone, rtol=0, atol=1e-4, err_msg=str(setting))


def test_equal_settings_give_equal_columns():
    equal = {
        "learning_rates": [0.005] * 2,
        "dropouts": [0.3] * 2,
        "weight_decays": [1e-3] * 3,
    }
    figures = pick(train(make_halves(), equal), (0.005, 0.3, 1e-3))
    for epoch in figures.reshape(2, 12, 4):
        assert_allclose(epoch, epoch[:1].repeat(12, 0), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def table():
    """Return the table of the grid."""
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
def test_a_head_does_not_depend_on_the_heads_beside_it(table, grid):
    setting = 0.005, 0.5, 1e-4
    other = pick(train(make_halves(), grid), setting)
    assert_allclose(other, pick(table, setting), rtol=0, atol=1e-5)


def test_a_copy_of_side_by_side_runs_its_example_alone(tmp_path):
    """The example of its docstring, in a folder that holds nothing but the file."""
    printed = run_example(
        side_by_side,
        tmp_path,
        "assert history['val_head_accuracy'][-1].shape == (2, 4)",
        "assert history['val_head_accuracy'][-1].max() > 0.8",
        "assert heads.settings[4]['dropout'] == 0.5",
    )
    assert "[[0." in printed
