"""Heads side by side train as each would alone, and a search loses and mixes up nothing."""

import multiprocessing
import os
import signal
import time
import zipfile
from itertools import product
from pathlib import Path

import joblib
import keras
import numpy as np
import pandas as pd
import pytest
import search
import tensorflow as tf
from hypothesis import assume, given
from hypothesis import strategies as st
from joblib.parallel import ThreadingBackend
from search import fake_training, make_photos, make_unequal
from sklearn.utils.class_weight import compute_class_weight

import scenes
import scenes.base_model
import scenes.features
import scenes.files
import scenes.grid_search
import scenes.heads
import scenes.photos
import scenes.side_by_side
import scenes.tasks
import utils

COLUMNS = [*scenes.HYPERPARAMETERS, "fold", "epoch", *scenes.METRICS]


@pytest.fixture(autouse=True)
def one_after_the_other():
    """Let the folds train in order, so that the tests can count them; threads have their own."""
    with joblib.parallel_config(n_jobs=1):
        yield


# --- Side by side ---------------------------------------------------------------------

GRID = {
    "learning_rates": [0.0005, 0.005],
    "dropouts": [0.0, 0.3, 0.5],
    "weight_decays": [1e-4, 1e-2],
}
EPOCHS = 4
BATCH = 64  # the 295 training photos below are four batches and a partial one of 39


def make_halves(n_classes=6, n=360, make=make_photos):
    """Return training and validation photos."""
    features, labels = make(n, n_classes=n_classes)
    train = round(0.82 * len(labels))
    return (features[:train], labels[:train]), (features[train:], labels[train:])


@pytest.fixture(scope="module")
def halves():
    return make_halves()


@pytest.fixture
def step_by_step():
    """
    Let TensorFlow run without compiling, which would take most of the time of a short training.

    (The tests of whole searches compile, as a notebook does.)
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def train_side_by_side(halves, grid, seed, n_classes=6, class_weight=None):
    features, labels = map(np.concatenate, zip(*halves, strict=True))
    rows = np.split(np.arange(len(labels)), [len(halves[0][1])])
    options = {"n_classes": n_classes, "epochs": EPOCHS, "batch_size": BATCH, "seed": seed}
    options["class_weight"] = class_weight
    return scenes.grid_search._fit(features, labels, *rows, grid=grid, **options)


@pytest.fixture(scope="module")
def side_by_side(halves):
    """Return the history of all heads of the grid."""
    return train_side_by_side(halves, GRID, 0)


def pick(history, grid, learning_rate, dropout, weight_decay):
    """Return one head's part of a history: a row for each epoch."""
    place = grid["learning_rates"].index(learning_rate) * len(grid["weight_decays"])
    head = grid["dropouts"].index(dropout), place + grid["weight_decays"].index(weight_decay)
    return pd.DataFrame({name: history[name][:, *head] for name in scenes.METRICS})


def train_alone(train, validation, setting, *, epochs, batch_size, seed, class_weight=None):
    """
    Train one head by a plain Keras `fit`, from the weights and with the masks of the search.

    The order of the photos needs nothing: `fit` takes it from the global seed.
    """
    learning_rate, dropout, weight_decay = setting
    keras.utils.set_random_seed(seed)
    n_classes = int(train[1].max()) + 1
    head = scenes.heads.build_head(
        scenes.base_model.N_FEATURES, n_classes, dropout=dropout, weight_decay=weight_decay
    )
    drop, dense = head.layers
    dense.kernel.assign(keras.initializers.GlorotUniform(seed)(dense.kernel.shape))
    if dropout:
        drop.seed_generator.state.assign([seed, 0])
    head.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
        steps_per_execution=8,
    )
    weights = compute_class_weight(class_weight, classes=np.arange(n_classes), y=train[1])
    history = head.fit(
        *train,
        class_weight=class_weight and dict(enumerate(weights)),
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(*validation, weights[validation[1]]),
        verbose=0,
    )
    return pd.DataFrame(history.history)[list(scenes.METRICS)]


def train_fold_alone(photos, setting, fold, *, folds, seed, groups=None, **options):
    """Train one head by a plain `fit` on the photos of a fold, and seeded as the search is."""
    features, labels = photos
    splits = scenes.grid_search.make_folds(labels, groups, folds=folds, seed=seed)
    train, validation = ((features[rows], labels[rows]) for rows in splits[fold - 1])
    seed = int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
    options = {"epochs": 2, "batch_size": 64, **options}
    return train_alone(train, validation, setting, **options, seed=seed)


def rows_of(results, setting, fold):
    """Return the figures of one head in the table of a search: a row for each epoch."""
    rows = results.set_index([*scenes.HYPERPARAMETERS, "fold"]).loc[(*setting, fold)]
    return rows[list(scenes.METRICS)]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("n_classes", "seed", "make", "class_weight"),
    [
        (6, 0, make_photos, None),
        (2, 2, make_photos, None),
        (37, 3, make_photos, None),
        (6, 4, make_unequal, "balanced"),
    ],
)
def test_a_head_trains_side_by_side_as_alone(step_by_step, n_classes, seed, make, class_weight):
    """
    With the same initial weights, batches and masks, all four figures of each epoch agree.

    To 1e-4; measured: 1e-6. Keras's own Dropout makes the masks of the head that is alone.
    """
    halves = make_halves(n_classes, make=make)
    options = {"seed": seed, "class_weight": class_weight}
    history = train_side_by_side(halves, GRID, n_classes=n_classes, **options)
    for setting in ((0.005, 0.0, 1e-2), (0.0005, 0.3, 1e-4), (0.005, 0.5, 1e-4)):
        alone = train_alone(*halves, setting, epochs=EPOCHS, batch_size=BATCH, **options)
        together = pick(history, GRID, *setting)
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4, err_msg=str(setting))


@pytest.mark.slow
def test_with_other_masks_and_weights_a_head_alone_does_as_well(step_by_step):
    """
    The mean over five seeds of what a plain `train_head` reaches is that of side by side.

    To 0.02 in accuracy and 0.04 in loss; measured: 0.008 and 0.016, where the differences of
    single seeds spread by 0.018 and 0.047 (one standard deviation).
    """
    halves = make_halves(n=720)
    setting = 0.005, 0.5, 1e-2
    one = {f"{n}s": [value] for n, value in zip(scenes.HYPERPARAMETERS, setting, strict=True)}
    differences = []
    for seed in range(5):
        _, alone = scenes.heads.train_head(
            *halves[0],
            **dict(zip(scenes.HYPERPARAMETERS, setting, strict=True)),
            validation_data=halves[1],
            epochs=EPOCHS,
            batch_size=BATCH,
            seed=seed,
        )
        together = pick(train_side_by_side(halves, one, seed), one, *setting)
        differences.append((together - alone)[["val_accuracy", "val_loss"]].iloc[-1])
    accuracy, loss = np.mean(differences, axis=0)
    assert abs(accuracy) < 0.02
    assert abs(loss) < 0.04


@pytest.mark.quick
def test_equal_settings_give_equal_columns(step_by_step, halves):
    equal = {"learning_rates": [0.005] * 2, "dropouts": [0.3] * 2, "weight_decays": [1e-3] * 3}
    for name, metric in train_side_by_side(halves, equal, 0).items():
        first = np.broadcast_to(metric[:, :1, :1], metric.shape)
        np.testing.assert_allclose(metric, first, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.quick
@pytest.mark.parametrize(
    "grid",
    [
        {"learning_rates": [0.005], "dropouts": [0.5], "weight_decays": [1e-4]},
        {name: values[::-1] for name, values in GRID.items()},
        {"learning_rates": [1.0, 0.005], "dropouts": [0.5, 0.9], "weight_decays": [10, 0, 1e-4]},
    ],
    ids=["alone", "the lists reversed", "beside heads that fail"],
)
def test_a_head_does_not_depend_on_the_heads_beside_it(step_by_step, side_by_side, halves, grid):
    setting = 0.005, 0.5, 1e-4
    other = pick(train_side_by_side(halves, grid, 0), grid, *setting)
    np.testing.assert_allclose(other, pick(side_by_side, GRID, *setting), rtol=0, atol=1e-5)


@pytest.mark.quick
def test_training_figures_are_means_over_photos_and_validation_is_at_the_end(step_by_step, halves):
    """
    By NumPy: the loss of each head is its mean cross-entropy plus its own penalty.

    The weights hardly move at this learning rate, so that the mean over the batches of the
    epoch, the last of which is a small one, is the mean over all photos.
    """
    decays = [0.0, 0.01, 1.0]
    heads = scenes.side_by_side.SideBySideHeads(
        learning_rates=[1e-9],
        dropouts=[0.0],
        weight_decays=decays,
        n_features=scenes.base_model.N_FEATURES,
        n_classes=6,
    )
    history = heads.fit(
        *halves[0], batch_size=200, epochs=1, validation_data=halves[1], verbose=0
    ).history
    for place, decay in enumerate(decays):
        columns = slice(place * 6, place * 6 + 6)
        kernel = np.asarray(heads.kernel, "float64")[0, :, columns]
        for prefix, (features, labels) in zip(("", "val_"), halves, strict=True):
            scores = features @ kernel
            shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            entropy = -np.log(shares[np.arange(len(labels)), labels]).mean()
            loss = history[f"{prefix}head_loss"][0][0, place]
            accuracy = history[f"{prefix}head_accuracy"][0][0, place]
            assert loss == pytest.approx(entropy + decay * np.square(kernel).sum(), rel=1e-5)
            assert accuracy == pytest.approx(np.mean(scores.argmax(axis=1) == labels), abs=1e-6)


# --- Folds ----------------------------------------------------------------------------


@st.composite
def labels_and_groups(draw):
    """Return labels, and groups of which some hold several photos, also of two classes."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=6, max_size=6).filter(any))
    labels = np.repeat(np.arange(6), sizes)
    labels = labels[draw(st.permutations(range(len(labels))))]
    groups = np.arange(len(labels))
    rows = st.integers(0, len(labels) - 1)
    for row, copy in draw(st.lists(st.tuples(rows, rows), max_size=8)):
        groups[groups == groups[copy]] = groups[row]
    return labels, groups


@given(labels_and_groups(), st.integers(2, 6), st.integers(0, 99))
def test_each_photo_validates_once_and_groups_stay_together(data, folds, seed):
    labels, groups = data
    members = pd.DataFrame({"label": labels, "group": groups}).groupby("label")["group"].nunique()
    if folds > members.min():
        with pytest.raises(ValueError, match=f"folds is {folds}, but"):
            scenes.grid_search.make_folds(labels, groups, folds=folds, seed=seed)
        return
    splits = scenes.grid_search.make_folds(labels, groups, folds=folds, seed=seed)
    assert len(splits) == folds
    assert sorted(np.concatenate([val for _, val in splits])) == list(range(len(labels)))
    for train, val in splits:
        assert sorted([*train, *val]) == list(range(len(labels)))
        assert not set(groups[train]) & set(groups[val])
        assert len(val)
        assert set(labels[train]) == set(labels)


@pytest.mark.quick
@given(labels_and_groups(), st.integers(2, 6), st.integers(0, 99))
def test_each_class_is_spread_evenly_over_the_folds(data, folds, seed):
    labels, _ = data
    assume(folds <= np.unique(labels, return_counts=True)[1].min())
    splits = scenes.grid_search.make_folds(labels, None, folds=folds, seed=seed)
    counts = np.array([np.bincount(labels[val], minlength=6) for _, val in splits])
    assert np.ptp(counts, axis=0).max() <= 1


# --- Blocks and their tasks -----------------------------------------------------------


@pytest.fixture
def in_blocks(monkeypatch):
    """Let at most four settings train side by side: one dropout rate of `SMALL` at a time."""
    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", 4 * 6)


@pytest.mark.parametrize("columns", [4 * 6, 2 * 6], ids=["by dropout", "by learning rate, too"])
def test_settings_in_blocks_train_as_all_at_once(
    searched, photos, tmp_path, trainings, monkeypatch, columns, step_by_step
):
    """To 1e-5, though those are not compiled."""
    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", columns)
    trainings.real = True
    results = scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "grid_search.csv")
    assert len(trainings.seeds) == SMALL["folds"] * 8 * 6 // columns
    assert len(set(trainings.seeds)) == SMALL["folds"], "blocks of a fold share its draws"
    np.testing.assert_allclose(results, searched[1], rtol=0, atol=1e-5)


def sizes(n_classes, learning_rates, dropouts, weight_decays):
    """Return how many (learning rates, dropouts, weight decays) each block holds."""
    lists = {"learning_rates": learning_rates, "dropouts": dropouts, "weight_decays": weight_decays}
    lists = {name: list(np.linspace(0, 0.5, n)) for name, n in lists.items()}
    return [tuple(map(len, b.values())) for b in scenes.grid_search._divide(n_classes, **lists)]


def test_blocks_of_six_classes_hold_up_to_128_settings_of_whole_dropout_rates():
    assert scenes.grid_search.BLOCK_COLUMNS == 6 * 128
    assert sizes(6, 3, 3, 4) == [(3, 3, 4)], "the grid of the notebook: one block"
    assert sizes(6, 8, 8, 8) == [(8, 2, 8)] * 4, "its large search"
    assert sizes(6, 5, 5, 8) == [(5, 3, 8), (5, 2, 8)]


@given(st.integers(2, 200), st.tuples(*[st.integers(1, 9)] * 3))
def test_the_more_classes_the_smaller_the_blocks(n_classes, counts):
    """A block has at most 768 columns, so that its memory stays, or one rate of each kind."""
    lists = dict(zip(GRID, (list(np.linspace(0, 0.5, n)) for n in counts), strict=True))
    blocks = scenes.grid_search._divide(n_classes, **lists)
    for block in blocks:
        heads = [len(values) for values in block.values()]
        assert np.prod(heads) * n_classes <= 768 or heads[:2] == [1, 1]
    found = [setting for block in blocks for setting in product(*block.values())]
    assert sorted(found) == sorted(product(*lists.values()))


def test_a_search_in_blocks_has_each_setting_once(photos, tmp_path, trainings):
    lists = {
        "learning_rates": np.geomspace(1e-5, 1e-2, 8),
        "dropouts": np.linspace(0.7, 0, 8),
        "weight_decays": np.linspace(0, 1e-2, 8),
    }
    csv = tmp_path / "grid_search.csv"
    results = scenes.grid_search.grid_search(*photos, **lists, epochs=1, folds=2, csv=csv)
    assert len(trainings.seeds) == 2 * 4
    settings = results.drop_duplicates([*scenes.HYPERPARAMETERS, "fold"])
    assert len(results) == 2 * 512 == len(settings)
    assert results[list(scenes.METRICS)].notna().all(axis=None)


def test_finished_blocks_are_kept(photos, in_blocks, tmp_path, trainings):
    scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "uninterrupted.csv")
    total = len(trainings.seeds)
    csv = tmp_path / "grid_search.csv"
    trainings.interrupt(3, *photos, **SMALL, csv=csv)
    scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(trainings.seeds) == 2 * total
    assert csv.read_bytes() == (tmp_path / "uninterrupted.csv").read_bytes()


def test_folds_outlive_a_table_that_cannot_be_written(photos, tmp_path, trainings, monkeypatch):
    csv = tmp_path / "grid_search.csv"

    def fail(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(scenes.files, "write_csv", fail)
        with pytest.raises(OSError, match="the disk is full"):
            scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(trainings.seeds) == SMALL["folds"]


def test_blocks_of_another_size_are_not_taken(photos, tmp_path, trainings, monkeypatch):
    csv = tmp_path / "grid_search.csv"
    trainings.interrupt(2, *photos, **SMALL, csv=csv)
    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", 4 * 6)
    scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(trainings.seeds) == 2 + 2 * SMALL["folds"]


class AllAtTheEnd(ThreadingBackend):
    """A joblib backend that gives no result before all tasks are done, as Ray's does."""

    supports_return_generator = False


joblib.register_parallel_backend("all at the end", AllAtTheEnd)


@pytest.mark.parametrize(
    "backend", ["threading", "all at the end", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_threads_and_processes_give_the_same_bytes(
    photos, searched, tmp_path, monkeypatch, backend
):
    """Though seeds belong to the whole process: one training waits for the other."""
    at_work, most, fit = [], [], scenes.grid_search._fit

    def count(*arguments, **options):
        at_work.append(options["seed"])
        most.append(len(at_work))
        history = fit(*arguments, **options)
        at_work.remove(options["seed"])
        return history

    monkeypatch.setattr(scenes.grid_search, "_fit", count)
    csv = tmp_path / "grid_search.csv"
    with joblib.parallel_config(backend, n_jobs=2):
        scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert csv.read_bytes() == searched[0].read_bytes()
    assert set(most) <= {1}


def test_a_backend_that_forks_is_refused(photos, tmp_path, trainings):
    """After a training in this process, it would hang."""
    refused = pytest.raises(ValueError, match=r"is 'multiprocessing', in which .* choose 'loky'")
    with joblib.parallel_config("multiprocessing", n_jobs=2), refused:
        scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "grid_search.csv")
    assert trainings.seeds == []


class Failing:
    """Takes the place of `joblib.Parallel`: does some tasks, and then its machine fails."""

    def __init__(self, *done):
        self.done = list(done)

    def __call__(self, **options):
        return self.run

    def run(self, calls):
        for function, arguments, options in calls[: self.done.pop(0)]:
            yield function(*arguments, **options)
        raise ConnectionError("the machine is gone")


def test_what_a_failing_machine_had_is_run_again_while_anything_gets_done(
    photos, tmp_path, trainings, monkeypatch, capsys
):
    scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "alone.csv")
    csv = tmp_path / "grid_search.csv"
    with monkeypatch.context() as patch:
        patch.setattr(joblib, "Parallel", Failing(1, 0))
        with pytest.raises(RuntimeError, match=r"the workers are lost \(the machine is gone\)"):
            scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
        assert len(trainings.seeds) == 3 + 1
        assert capsys.readouterr().out.count("run again: the machine is gone") == 1
        patch.setattr(joblib, "Parallel", Failing(1, 1))
        scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(trainings.seeds) == 3 + 3
    assert csv.read_bytes() == (tmp_path / "alone.csv").read_bytes()


def test_an_error_in_a_task_is_raised_and_not_tried_again(photos, tmp_path, monkeypatch):
    calls = []

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise ZeroDivisionError("an error of ours")
        return fake_training(*arguments, **options)

    monkeypatch.setattr(scenes.grid_search, "_fit", fail)
    with pytest.raises(ZeroDivisionError, match="an error of ours"):
        scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "grid_search.csv")
    assert len(calls) == 2


# --- Too few photos -------------------------------------------------------------------


def test_a_class_with_one_photo_is_named_without_settings_that_fit():
    images = pd.DataFrame(
        {"label": ["rose"] + ["tulip"] * 9, "split": "train", "digest": range(10)}
    )
    ratios = {"TEST_RATIO": 0.2, "VALIDATION_RATIO": 0.2, "FOLDS": 5}
    with pytest.raises(ValueError, match=r"^rose has 1 photos; .* a class needs 7: add photos$"):
        scenes.grid_search.check_sizes(images, **ratios)


# --- The table and its file -----------------------------------------------------------

N = 96
SMALL = {
    "learning_rates": [0.001, 0.005],
    "dropouts": [0.0, 0.3],
    "weight_decays": [1e-4, 1e-2],
    "epochs": 2,
    "folds": 3,
    "batch_size": 24,
    "seed": 7,
}


@pytest.fixture(scope="module")
def photos():
    return make_photos(N)


@pytest.fixture(scope="module")
def searched(photos, tmp_path_factory):
    """Return the CSV and the table of a small search that trained."""
    csv = tmp_path_factory.mktemp("searched") / "new" / "grid_search.csv"
    return csv, scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)


class Trainings:
    """Takes the place of the training: counts the tasks, and can be interrupted."""

    def __init__(self):
        self.seeds = []
        self.last = None
        self.real = False
        self.train = scenes.grid_search._fit

    def __call__(self, *arguments, **options):
        if len(self.seeds) == self.last:
            raise KeyboardInterrupt
        self.seeds.append(options["seed"])
        return (self.train if self.real else fake_training)(*arguments, **options)

    def interrupt(self, after, *arguments, **options):
        """Begin a search and interrupt it after some folds."""
        self.last = len(self.seeds) + after
        with pytest.raises(KeyboardInterrupt):
            scenes.grid_search.grid_search(*arguments, **options)
        self.last = None


@pytest.fixture
def trainings(monkeypatch):
    """Return the stand-in for the training, which counts."""
    stand_in = Trainings()
    monkeypatch.setattr(scenes.grid_search, "_fit", stand_in)
    return stand_in


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_table_has_a_row_for_each_setting_fold_and_epoch_in_order(searched):
    _, results = searched
    rows = product(*(SMALL[f"{name}s"] for name in scenes.HYPERPARAMETERS), (1, 2, 3), (1, 2))
    assert list(results.columns) == COLUMNS
    assert list(results[COLUMNS[:5]].itertuples(index=False, name=None)) == list(rows)
    assert results[list(scenes.METRICS)].notna().all(axis=None)


def test_the_table_is_what_the_file_holds_with_7_digits(searched):
    csv, results = searched
    pd.testing.assert_frame_equal(results, pd.read_csv(csv), check_exact=True)
    text = csv.read_bytes().decode("ascii")
    assert "\r" not in text
    numbers = [n for line in text.splitlines()[1:] for n in line.split(",")]
    assert all(n == f"{float(n):.7g}" for n in numbers)
    assert max(len(n.lstrip("0.").replace(".", "")) for n in numbers) == 7


def test_a_search_leaves_nothing_but_the_table_and_its_lock(searched):
    csv, _ = searched
    assert names_in(csv.parent) <= {csv.name, f".{csv.name}.lock"}


def test_the_table_holds_what_plain_fits_give(searched, photos):
    """So that no figure stands in another setting's row, nor in another fold's or epoch's."""
    _, results = searched
    folds = {name: SMALL[name] for name in ("epochs", "folds", "batch_size", "seed")}
    for fold, setting in ((1, (0.001, 0.0, 1e-2)), (3, (0.005, 0.3, 1e-4))):
        alone = train_fold_alone(photos, setting, fold, **folds)
        np.testing.assert_allclose(rows_of(results, setting, fold), alone, rtol=0, atol=1e-4)


def test_the_table_of_unequal_classes_holds_what_weighted_plain_fits_give(tmp_path):
    """The weights are those of the training part of each fold."""
    photos = make_unequal(130)
    options = {"class_weight": "balanced", "epochs": 2, "folds": 3, "batch_size": 24, "seed": 7}
    lists = {name: values[:1] for name, values in GRID.items()}
    csv = tmp_path / "grid_search.csv"
    results = scenes.grid_search.grid_search(*photos, **lists, **options, csv=csv)
    setting = tuple(values[0] for values in lists.values())
    for fold in (1, 2):
        alone = train_fold_alone(photos, setting, fold, **options)
        np.testing.assert_allclose(rows_of(results, setting, fold), alone, rtol=0, atol=1e-4)


def test_neither_the_order_of_the_lists_nor_their_type_matters(searched, photos, tmp_path):
    csv = tmp_path / "grid_search.csv"
    lists = {name: np.array(SMALL[name][::-1]) for name in GRID}
    numbers = {name: np.int64(SMALL[name]) for name in ("epochs", "folds", "batch_size", "seed")}
    features, labels = photos
    scenes.grid_search.grid_search(
        np.asfortranarray(features, "float64"),
        labels.astype("uint8"),
        **{**lists, **numbers},
        csv=str(csv),
    )
    assert csv.read_bytes() == searched[0].read_bytes()


def test_a_batch_larger_than_the_data_is_one_batch_of_all(photos, tmp_path):
    one = {"learning_rates": [0.005], "dropouts": [0.3], "weight_decays": [1e-4]}
    options = {**one, "epochs": 2, "folds": 2, "seed": 0, "csv": tmp_path / "grid_search.csv"}
    results = scenes.grid_search.grid_search(*photos, **options, batch_size=10**6)
    alone = train_fold_alone(photos, (0.005, 0.3, 1e-4), 1, folds=2, batch_size=N // 2, seed=0)
    np.testing.assert_allclose(results[list(scenes.METRICS)].head(2), alone, rtol=0, atol=1e-4)


def test_an_old_table_stays_whole_until_the_new_one_takes_its_place(
    photos, tmp_path, trainings, monkeypatch
):
    csv = tmp_path / "grid_search.csv"
    csv.write_text("the old table")
    seen = []

    def replace(source, target):
        if target == csv:
            seen.append((csv.read_text(), len(pd.read_csv(source))))
        os_replace(source, target)

    os_replace = os.replace
    monkeypatch.setattr(os, "replace", replace)
    trainings.interrupt(2, *photos, **SMALL, csv=csv)
    assert csv.read_text() == "the old table"
    results = scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert seen == [("the old table", len(results))]


def test_copies_of_a_photo_never_stand_on_both_sides_of_a_fold(tmp_path, monkeypatch):
    features, labels = make_photos(60)
    features, labels = np.concatenate([features] * 2), np.concatenate([labels] * 2)
    groups = [f"photo {row % 60}" for row in range(120)]

    def look(features, labels, training, validation, **options):
        both = {features[row].tobytes() for row in training}
        assert not both & {features[row].tobytes() for row in validation}
        return fake_training(features, labels, training, validation, **options)

    monkeypatch.setattr(scenes.grid_search, "_fit", look)
    csv = tmp_path / "grid_search.csv"
    scenes.grid_search.grid_search(features, labels, **SMALL, groups=groups, csv=csv)
    with pytest.raises(AssertionError):
        scenes.grid_search.grid_search(features, labels, **SMALL, csv=csv)


@pytest.mark.parametrize("groups", [[1, 2], np.zeros((N, 1))], ids=["too few", "a column"])
def test_groups_of_the_wrong_shape_are_refused(photos, groups, tmp_path):
    with pytest.raises(ValueError, match=r"groups have the shape .*; it must be \(96,\)"):
        scenes.grid_search.grid_search(
            *photos, **SMALL, groups=groups, csv=tmp_path / "grid_search.csv"
        )
    assert not any(tmp_path.iterdir())


def test_numbers_that_the_file_could_not_tell_apart_are_refused(photos, tmp_path):
    rates = [0.001, 0.00100000001]
    with pytest.raises(ValueError, match=r"learning_rates is \[0.001, 0.00100000001\]; it must"):
        scenes.grid_search.grid_search(
            *photos, **SMALL | {"learning_rates": rates}, csv=tmp_path / "grid_search.csv"
        )


# --- The same numbers again -----------------------------------------------------------


@pytest.fixture(scope="module")
def start():
    """
    Return a function that starts a function of `search` in a process of its own.

    Importing TensorFlow takes seconds, so one process imports it and is then forked.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["search"])
    here = Path(__file__).parent

    def start(function, n, **options):
        receiver, sender = context.Pipe(duplex=False)
        # A daemon dies with the tests, also when one fails before it has killed it.
        process = context.Process(target=function, args=(n, sender), kwargs=options, daemon=True)
        process.start()
        sender.close()
        return process, receiver

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{here.parent}{os.pathsep}{here}")
        yield start


def wait(process, seconds: float = 300) -> int:
    process.join(seconds)
    assert process.exitcode is not None
    return process.exitcode


REPEATED = {**SMALL, "folds": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def repeated(start, tmp_path_factory):
    """Return the CSVs of the same search in fresh processes, two alike and one of one thread."""
    folder = tmp_path_factory.mktemp("repeated")
    processes = {}
    for name, threads in {"first": 0, "second": 0, "one thread": 1}.items():
        options = {**REPEATED, "threads": threads, "csv": folder / f"{name}.csv"}
        processes[name], _ = start(search.run, 600, **options)
    assert [wait(process) for process in processes.values()] == [0, 0, 0]
    return {name: folder / f"{name}.csv" for name in processes}


def test_a_fresh_process_gives_the_same_bytes(repeated):
    assert repeated["second"].read_bytes() == repeated["first"].read_bytes()


def test_another_number_of_threads_changes_the_last_digits_at_most(repeated):
    """
    Losses to 1e-3 and accuracies to two of a fold's 300 photos; measured: 1e-6 and none.

    (With 36 settings on 1,200 photos of random numbers: 6e-4 and one photo.)
    """
    first, other = (pd.read_csv(repeated[name])[COLUMNS] for name in ("first", "one thread"))
    assert first[COLUMNS[:5]].equals(other[COLUMNS[:5]])
    difference = (first - other).abs().max()
    assert difference[["loss", "val_loss"]].max() < 1e-3
    assert difference[["accuracy", "val_accuracy"]].max() < 2.5 / 300


def test_the_best_setting_is_a_setting_that_train_head_takes(searched, photos):
    best = utils.best_hyperparameters(searched[1])
    setting = {name: best[name] for name in scenes.HYPERPARAMETERS}
    assert setting in [
        dict(zip(scenes.HYPERPARAMETERS, values, strict=True))
        for values in product(*(SMALL[f"{name}s"] for name in scenes.HYPERPARAMETERS))
    ]
    scenes.heads.build_head(
        scenes.base_model.N_FEATURES, 6, dropout=best["dropout"], weight_decay=best["weight_decay"]
    )


# --- Interrupted ----------------------------------------------------------------------

MANY_FOLDS = {
    "learning_rates": [0.001],
    "dropouts": [0.3],
    "weight_decays": [1e-4, 1e-2],
    "epochs": 1,
    "folds": 8,
    "batch_size": 50,
}


def check_files(csv: Path, tables: tuple[bytes, ...]) -> None:
    """Assert that each file that has its final name is whole."""
    assert csv.read_bytes() in tables
    for part in csv.parent.glob(f".{csv.stem}-*/fold-*.npz"):
        with zipfile.ZipFile(part) as archive:
            assert archive.testzip() is None


def test_a_search_killed_at_random_points_ends_with_the_same_bytes(start, tmp_path):
    """
    10 times `kill -9`, each up to two folds' time after the first training step.

    A search that ends before it is killed was one of several: the next one begins anew.
    """
    uninterrupted = tmp_path / "uninterrupted.csv"
    process, word = start(search.run_step_by_step, N, **MANY_FOLDS, csv=uninterrupted)
    word.recv()
    began = time.perf_counter()
    assert wait(process) == 0
    fold = (time.perf_counter() - began) / MANY_FOLDS["folds"]
    expected = uninterrupted.read_bytes()

    csv = tmp_path / "grid_search.csv"
    csv.write_bytes(b"the old table")
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 10 or csv.read_bytes() != expected:
        process, word = start(search.run_step_by_step, N, **MANY_FOLDS, csv=csv)
        if kills < 10:
            word.poll(300)
            process.join(rng.uniform(0, 2 * fold))
            process.kill()
        killed = wait(process) == -signal.SIGKILL
        kills += killed
        check_files(csv, (b"the old table", expected))
        if not killed:
            assert process.exitcode == 0
            assert csv.read_bytes() == expected
            assert names_in(tmp_path) <= {
                *(uninterrupted.name, csv.name),
                *(f".{uninterrupted.name}.lock", f".{csv.name}.lock"),
            }
            if kills < 10:
                csv.write_bytes(b"the old table")


def test_a_search_killed_before_any_file_operation_ends_with_the_same_bytes(
    start, photos, trainings, tmp_path
):
    scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "uninterrupted.csv")
    expected = (tmp_path / "uninterrupted.csv").read_bytes()
    folds_trained = set()
    for operation in range(1000):
        csv = tmp_path / f"{operation}" / "grid_search.csv"
        csv.parent.mkdir()
        csv.write_bytes(b"the old table")
        process, _ = start(search.run_and_die, N, **SMALL, operation=operation, csv=csv)
        exitcode = wait(process)
        check_files(csv, (b"the old table", expected))
        if exitcode == 0:
            break
        assert exitcode == -signal.SIGKILL
        before = len(trainings.seeds)
        scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
        folds_trained.add(len(trainings.seeds) - before)
        assert csv.read_bytes() == expected
        assert names_in(csv.parent) <= {csv.name, f".{csv.name}.lock"}
    assert folds_trained == {0, 1, 2, 3}


def test_the_interrupt_button_keeps_the_finished_folds(searched, photos, tmp_path, monkeypatch):
    csv = tmp_path / "grid_search.csv"
    fit, began = scenes.grid_search._fit, []

    def count(*arguments, **options):
        began.append(options["seed"])
        if len(began) == 3:
            signal.raise_signal(signal.SIGINT)
        return fit(*arguments, **options)

    monkeypatch.setattr(scenes.grid_search, "_fit", count)
    with pytest.raises(KeyboardInterrupt):
        scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert not csv.exists()
    assert len(list(tmp_path.glob(".grid_search-*/fold-*.npz"))) == 2
    scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(began) == 3 + 1
    assert csv.read_bytes() == searched[0].read_bytes()


def test_a_finished_search_is_run_again(photos, tmp_path, trainings):
    for runs in (1, 2):
        scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "grid_search.csv")
        assert len(trainings.seeds) == runs * SMALL["folds"]
    assert len(set(trainings.seeds)) == SMALL["folds"]


def swap(labels):
    return np.concatenate([labels[1::-1], labels[2:]])


OTHER_SEARCHES = {
    "learning rates": lambda x, y: (x, y, {"learning_rates": [0.001, 0.002]}),
    "dropouts": lambda x, y: (x, y, {"dropouts": [0.0, 0.4]}),
    "weight decays": lambda x, y: (x, y, {"weight_decays": [1e-4, 1e-3]}),
    "epochs": lambda x, y: (x, y, {"epochs": 3}),
    "folds": lambda x, y: (x, y, {"folds": 4}),
    "batch size": lambda x, y: (x, y, {"batch_size": 25}),
    "class weight": lambda x, y: (x, y, {"class_weight": "balanced"}),
    "seed": lambda x, y: (x, y, {"seed": 8}),
    "groups": lambda x, y: (x, y, {"groups": np.arange(N) // 2}),
    "one feature": lambda x, y: (np.where(x == x[5, 5], x + 1e-6, x), y, {}),
    "two labels": lambda x, y: (x, swap(y), {}),
    "fewer photos": lambda x, y: (x[1:], y[1:], {}),
}


@pytest.mark.parametrize("other", OTHER_SEARCHES)
def test_another_search_does_not_take_the_folds_of_this_one(photos, tmp_path, trainings, other):
    csv = tmp_path / "grid_search.csv"
    trainings.interrupt(2, *photos, **SMALL, csv=csv)
    features, labels, changed = OTHER_SEARCHES[other](*photos)
    options = {**SMALL, **changed}
    scenes.grid_search.grid_search(features, labels, **options, csv=csv)
    assert len(trainings.seeds) == 2 + options["folds"]
    scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(trainings.seeds) == 2 + options["folds"] + 1  # its own are still there


@pytest.mark.parametrize("part", ["scenes.FORMAT", "tensorflow.__version__", "keras.__version__"])
def test_another_version_does_not_take_the_folds(photos, tmp_path, trainings, part, monkeypatch):
    csv = tmp_path / "grid_search.csv"
    trainings.interrupt(2, *photos, **SMALL, csv=csv)
    monkeypatch.setattr(part, 0)
    scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert len(trainings.seeds) == 2 + SMALL["folds"]


# --- Two runs at once -----------------------------------------------------------------


def test_a_second_run_stops_with_a_word_while_the_first_lives(start, photos, tmp_path, trainings):
    csv = tmp_path / "grid_search.csv"
    csv.write_text("the old table")
    process, word = start(search.hold, N, **SMALL, csv=csv)
    assert word.recv() == "the training has begun"
    with pytest.raises(RuntimeError, match=r"another run is writing .*grid_search\.csv; wait"):
        scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert not trainings.seeds
    assert csv.read_text() == "the old table"
    other = scenes.grid_search.grid_search(*photos, **SMALL, csv=tmp_path / "other.csv")
    process.kill()
    assert wait(process) == -signal.SIGKILL
    assert scenes.grid_search.grid_search(*photos, **SMALL, csv=csv).equals(other)


# --- Disks ----------------------------------------------------------------------------


def test_a_full_disk_keeps_the_old_table_and_the_folds(photos, small_disk, tmp_path, trainings):
    folder, _ = small_disk
    csv = folder / "grid_search.csv"
    csv.write_text("the old table")
    large = {**SMALL, "epochs": 200}  # 24 KB a fold, of 96 KB: the third finds no room
    (folder / "ballast").write_bytes(bytes(32_768))
    with pytest.raises(
        OSError, match=r"cannot write .*fold-3-block-1\.npz \(No space left on device\)"
    ):
        scenes.grid_search.grid_search(*photos, **large, csv=csv)
    assert csv.read_text() == "the old table"
    (folder / "ballast").unlink()
    with pytest.raises(
        OSError, match=r"cannot write .*grid_search\.csv \(No space left on device\)"
    ):
        scenes.grid_search.grid_search(*photos, **large, csv=csv)
    assert csv.read_text() == "the old table"
    assert len(trainings.seeds) == 4  # the third fold twice
    assert not list(folder.rglob("*unfinished*"))


def test_a_folder_that_cannot_be_written_is_named_before_any_work(photos, small_disk, trainings):
    folder, make_read_only = small_disk
    csv = folder / "grid_search.csv"
    csv.write_text("the old table")
    make_read_only()
    with pytest.raises(OSError, match=r"grid_search\.csv \(Read-only file system\)"):
        scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert not trainings.seeds
    assert csv.read_text() == "the old table"


# --- The files of finished folds ------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut off", "of another shape", "NaN"])
def test_a_damaged_fold_is_trained_again_with_a_word(photos, tmp_path, trainings, fault, capsys):
    csv = tmp_path / "grid_search.csv"
    expected = scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    trainings.interrupt(2, *photos, **SMALL, csv=csv)
    part = next(tmp_path.glob(".grid_search-*")) / "fold-1-block-1.npz"
    with np.load(part) as archive:
        arrays = dict(archive)
    if fault == "cut off":
        part.write_bytes(part.read_bytes()[:-30])
    elif fault == "of another shape":
        scenes.files.write_arrays(part, {name: metric[:-1] for name, metric in arrays.items()})
    else:
        arrays["val_loss"][1, 0, 2] = np.nan
        scenes.files.write_arrays(part, arrays)
    capsys.readouterr()
    results = scenes.grid_search.grid_search(*photos, **SMALL, csv=csv)
    assert "A fold is trained again: " in capsys.readouterr().out
    assert len(trainings.seeds) == 3 + 2 + 2
    assert results.equals(expected)


# --- Memory ---------------------------------------------------------------------------


def test_memory_grows_by_at_most_three_copies_of_the_features(start, tmp_path):
    """On 12,000 photos after 600; 40 MB are left for what TensorFlow keeps in store."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell the peak of the memory")
    options = {**SMALL, "epochs": 1, "folds": 2, "csv": tmp_path / "grid_search.csv"}
    process, word = start(search.measure_memory, 12_000, **options)
    grown = word.recv()
    assert wait(process) == 0
    assert grown < 3 * 12_000 * scenes.base_model.N_FEATURES * 4 + 40 * 2**20


# --- The real features ----------------------------------------------------------------


def test_a_search_on_real_photos_learns_and_is_what_plain_fits_give(bundled, tmp_path):
    """On every 4th training photo; with the same weights, batches and masks, to 1e-4."""
    images, features = bundled
    images = utils.shrink(utils.drop_leaks(images), 4)
    images = images[images["split"] == "train"]
    photos = features[images.index], images["label"].cat.codes.to_numpy()
    groups = images["digest"]
    lists = {
        "learning_rates": [0.001, 0.005],
        "dropouts": [0.1, 0.5],
        "weight_decays": [1e-4, 1e-2],
    }
    options = {"epochs": 6, "folds": 2, "seed": 1, "batch_size": 128, "groups": groups}
    results = scenes.grid_search.grid_search(
        *photos, **lists, **options, csv=tmp_path / "grid_search.csv"
    )
    assert utils.best_hyperparameters(results)["val_accuracy"] > 0.88
    for fold, setting in ((1, (0.001, 0.1, 1e-4)), (2, (0.005, 0.5, 1e-2))):
        alone = train_fold_alone(photos, setting, fold, **options)
        np.testing.assert_allclose(rows_of(results, setting, fold), alone, rtol=0, atol=1e-4)
