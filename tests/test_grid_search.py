"""A search loses and mixes up nothing, and its table holds what plain fits give."""

import functools
import gc
import multiprocessing
import os
import signal
import threading
import time
import weakref
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import joblib
import keras
import numpy as np
import pandas as pd
import pytest
import search
import tensorflow as tf
from conftest import cell_sets
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from search import (
    FOLDS,
    SMALL,
    X,
    Y,
    fake_training,
    fit_alone,
    make_unequal,
    search_in,
)

import scenes
import utils
from scenes import evaluation, files, grid_search, progress
from scenes.grid_search import make_folds
from scenes.settings import GridOptions
from scenes.side_by_side import SideBySideHeads
from scenes.store import Entry

COLUMNS = [*scenes.HYPERPARAMETERS, "fold", "epoch", *scenes.METRICS]
LISTS = ("learning_rates", "dropouts", "weight_decays")


@pytest.fixture(autouse=True)
def one_after_the_other(monkeypatch):
    """
    Let the folds train in order, so that the tests can count them; threads have their
    own.
    """
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)


@pytest.fixture
def step_by_step():
    """
    Let TensorFlow run without compiling, which would take most of the time of a
    training.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return the CSV and the table of a small search that trained."""
    folder = tmp_path_factory.mktemp("searched") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joblib, "cpu_count", lambda: 1)
        return folder / "grid_search.csv", search_in(folder)


def assert_same_table(folder, searched):
    """Assert that a search has written the bytes of the small one."""
    table = (folder / "grid_search.csv").read_bytes()
    assert table == searched[0].read_bytes()


class Trainings:
    """
    Takes the place of `train_fold`: counts the tasks, trains if `real`, and can be
    interrupted.
    """

    def __init__(self):
        self.parts = []
        self.last = None
        self.real = False
        self.train_fold = grid_search.train_fold

    def __call__(self, *arguments):
        if len(self.parts) == self.last:
            signal.raise_signal(signal.SIGINT)
        self.parts.append(arguments[-1])
        return (self.train_fold if self.real else fake_training)(*arguments)

    def interrupt(self, folder, after=2):
        """Begin a search and press the interrupt button after some tasks."""
        self.last = len(self.parts) + after
        with pytest.raises(KeyboardInterrupt):
            search_in(folder)
        self.last = None


@pytest.fixture
def trainings(monkeypatch):
    stand_in = Trainings()
    monkeypatch.setattr(grid_search, "train_fold", stand_in)
    return stand_in


# --- Folds ----------------------------------------------------------------------------


@st.composite
def labels_and_groups(draw):
    """
    Return labels, and groups of which some hold several photos, also of two classes.
    """
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
    members = pd.Series(groups).groupby(labels).nunique()
    if folds > members.min():
        with pytest.raises(
            ValueError, match=f"has {members.min()} .* for {folds} folds"
        ):
            make_folds(labels, groups, folds=folds, seed=seed)
        return
    splits = make_folds(labels, groups, folds=folds, seed=seed)
    assert len(splits) == folds
    rows = list(range(len(labels)))
    assert sorted(np.concatenate([val for _, val in splits])) == rows
    for train, val in splits:
        assert sorted([*train, *val]) == rows
        assert not set(groups[train]) & set(groups[val])
        assert len(val)
        assert set(labels[train]) == set(labels)


@given(labels_and_groups(), st.integers(2, 6), st.integers(0, 99))
def test_each_class_is_spread_evenly_over_the_folds(data, folds, seed):
    labels, _ = data
    assume(folds <= np.unique(labels, return_counts=True)[1].min())
    splits = make_folds(labels, None, folds=folds, seed=seed)
    counts = np.array([np.bincount(labels[val], minlength=6) for _, val in splits])
    assert np.ptp(counts, axis=0).max() <= 1


# --- Blocks and their tasks -----------------------------------------------------------


def test_settings_in_blocks_train_as_all_at_once(
    searched, tmp_path, trainings, monkeypatch, step_by_step
):
    """To 1e-5, though those are not compiled."""
    monkeypatch.setattr(grid_search, "BLOCK_COLUMNS", 4 * 6)
    trainings.real = True
    results = search_in(tmp_path)
    assert len(set(trainings.parts)) == FOLDS * 2
    assert_allclose(results, searched[1], rtol=0, atol=1e-5)


def divide(n_classes, counts):
    """Return a grid of as many values of each kind, and the lists of its blocks."""
    lists = [np.linspace(0.001, 0.5, n) for n in counts]
    grid = GridOptions(**dict(zip(LISTS, lists, strict=True)), epochs=1)
    blocks = grid_search.divide(grid, n_classes)
    return lists, [[getattr(block, name) for name in LISTS] for block in blocks]


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ((3, 3, 4), [(3, 3, 4)]),
        ((8, 8, 8), [(8, 2, 8)] * 4),
        ((5, 5, 8), [(5, 3, 8), (5, 2, 8)]),
    ],
)
def test_blocks_of_six_classes_hold_up_to_128_settings_of_whole_dropout_rates(
    counts, sizes
):
    _, blocks = divide(6, counts)
    assert [tuple(map(len, block)) for block in blocks] == sizes


@given(st.integers(2, 200), st.tuples(*[st.integers(1, 9)] * 3))
def test_the_more_classes_the_smaller_the_blocks(n_classes, counts):
    """
    A block has at most 768 columns, so that its memory stays, or one dropout rate.
    """
    lists, blocks = divide(n_classes, counts)
    for block in blocks:
        n_heads = np.prod([len(values) for values in block])
        assert n_heads * n_classes <= 768 or len(block[1]) == 1
    found = [setting for block in blocks for setting in product(*block)]
    assert sorted(found) == sorted(product(*lists))


def test_finished_blocks_are_kept(tmp_path, trainings, monkeypatch):
    monkeypatch.setattr(grid_search, "BLOCK_COLUMNS", 4 * 6)
    uninterrupted = search_in(tmp_path / "uninterrupted")
    trainings.interrupt(tmp_path, after=3)
    assert search_in(tmp_path).equals(uninterrupted)
    assert len(trainings.parts) == 2 * FOLDS * 2


# --- Several at once ------------------------------------------------------------------


def set_threads(monkeypatch, number):
    """Let a search train so many folds at once."""
    run = progress.run
    at_once = lambda *given, threads, stop: run(*given, threads=number, stop=stop)  # noqa: E731
    monkeypatch.setattr(progress, "run", at_once)


@pytest.mark.parametrize("number", [2, 3])
def test_the_number_of_folds_at_once_changes_no_byte(
    searched, tmp_path, monkeypatch, number
):
    """They train at the same time, in an order that nobody knows."""
    at_work, most, train_fold = [], [], grid_search.train_fold

    def count(*arguments):
        at_work.append(arguments[-1])
        most.append(len(at_work))
        try:
            return train_fold(*arguments)
        finally:
            at_work.remove(arguments[-1])

    set_threads(monkeypatch, number)
    monkeypatch.setattr(grid_search, "train_fold", count)
    search_in(tmp_path)
    assert_same_table(tmp_path, searched)
    assert max(most) == number


@pytest.mark.parametrize(
    ("cores", "gpu", "config", "at_once"),
    [
        (1, False, {}, 1),
        (2, False, {}, 2),
        (16, False, {}, 2),
        (16, True, {}, 1),
        (16, False, {"n_jobs": 1}, 1),
        (16, False, {"backend": "sequential"}, 1),
    ],
)
def test_two_folds_train_at_once_on_a_cpu_of_two_cores_or_more(
    tmp_path, monkeypatch, cores, gpu, config, at_once
):
    """Unless `parallel_config` says where they train."""
    names = set()

    def train(*arguments):
        names.add(threading.current_thread().name)
        time.sleep(0.05)
        return fake_training(*arguments)

    monkeypatch.setattr(grid_search, "train_fold", train)
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(scenes, "has_gpu", lambda: gpu)
    with joblib.parallel_config(**config):
        search_in(tmp_path)
    assert len(names) == at_once
    assert ("MainThread" in names) == (at_once == 1)


@pytest.mark.parametrize(
    "backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_threads_and_processes_give_the_same_bytes(searched, tmp_path, backend):
    with joblib.parallel_config(backend, n_jobs=2):
        search_in(tmp_path)
    assert_same_table(tmp_path, searched)


def test_no_model_outlives_its_fold(tmp_path, monkeypatch, step_by_step):
    alive, counts, build = weakref.WeakSet(), [], SideBySideHeads.__init__

    def count(self, **options):
        counts.append(len(alive))
        alive.add(self)
        build(self, **options)

    monkeypatch.setattr(SideBySideHeads, "__init__", count)
    gc.disable()
    try:
        search_in(tmp_path)
    finally:
        gc.enable()
    assert counts == [0] * FOLDS
    assert not alive


# --- The table and its file -----------------------------------------------------------


def test_the_table_has_a_row_for_each_setting_fold_and_epoch_in_order(searched):
    _, results = searched
    lists = [getattr(SMALL, f"{name}s") for name in scenes.HYPERPARAMETERS]
    assert list(results.columns) == COLUMNS
    found = results[COLUMNS[:5]].itertuples(index=False, name=None)
    assert list(found) == list(product(*lists, (1, 2, 3), (1, 2)))
    assert results[list(scenes.METRICS)].notna().all(axis=None)


def test_the_table_is_what_the_file_holds_with_7_digits(searched):
    csv, results = searched
    pd.testing.assert_frame_equal(results, pd.read_csv(csv), check_exact=True)
    numbers = [n for line in csv.read_text().splitlines()[1:] for n in line.split(",")]
    assert all(n == f"{float(n):.7g}" for n in numbers)
    assert max(len(n.lstrip("0.").replace(".", "")) for n in numbers) == 7


def assert_plain_fits_agree(results, X, y, options, groups=None):
    """
    Let no figure of a search stand in another setting's row, nor in another fold's.
    """
    splits = make_folds(y, groups, folds=FOLDS, seed=options.seed)
    names = ("epochs", "batch_size", "class_weight")
    training = {name: getattr(options, name) for name in names}
    for fold, setting in ((1, (0.001, 0.0, 1e-2)), (2, (0.005, 0.3, 1e-4))):
        halves = [(X[rows], y[rows]) for rows in splits[fold - 1]]
        seeds = np.random.SeedSequence([options.seed, fold])
        alone = fit_alone(
            *halves, setting, seed=int(seeds.generate_state(1)[0]), **training
        )
        rows = results.set_index([*scenes.HYPERPARAMETERS, "fold"]).loc[
            (*setting, fold)
        ]
        assert_allclose(rows[list(scenes.METRICS)], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "photos"),
    [
        ({}, (X, Y)),
        ({"batch_size": 10**6}, (X, Y)),
        ({"class_weight": "balanced"}, make_unequal(130)),
    ],
    ids=["as it is", "in one batch", "of unequal classes"],
)
def test_the_table_holds_what_plain_fits_give(tmp_path, changed, photos, step_by_step):
    """The class weights are those of each part of a fold."""
    options = replace(SMALL, **changed)
    results = search_in(tmp_path, options, X=photos[0], y=photos[1])
    assert_plain_fits_agree(results, *photos, options)


def test_a_search_on_real_photos_learns_and_is_what_plain_fits_give(bundled, tmp_path):
    """On every 8th training photo; groups stay together."""
    images = utils.shrink(utils.drop_leaks(bundled[0]), 8).query("split == 'train'")
    photos = bundled[1][images.index], images["label"].cat.codes.to_numpy()
    options = replace(SMALL, epochs=6, batch_size=128)
    groups = images["digest"].to_numpy().copy()
    groups[1::2] = groups[: len(groups) // 2 * 2 : 2]
    results = search_in(tmp_path, options, X=photos[0], y=photos[1], groups=groups)
    assert evaluation.summarize(results)["val_accuracy"].max() > 0.88
    assert_plain_fits_agree(results, *photos, options, groups)


def test_neither_the_order_of_the_lists_nor_the_type_of_numbers_matters(
    searched, tmp_path
):
    changed = {name: np.array(getattr(SMALL, name)[::-1]) for name in LISTS}
    for name in ("epochs", "batch_size", "seed"):
        changed[name] = np.int64(getattr(SMALL, name))
    photos = {"X": np.asfortranarray(X, "float64"), "y": Y.astype("uint8")}
    search_in(tmp_path, GridOptions(**changed), **photos)
    assert_same_table(tmp_path, searched)


def test_it_computes_in_float32_whatever_a_cell_has_set(tmp_path, step_by_step):
    """In the thread of the cell and in those of the folds."""
    options = replace(SMALL, epochs=1)
    expected = search_in(tmp_path / "expected", options, folds=2)
    with cell_sets("mixed_float16"):
        keras.config.set_floatx("float64")
        with joblib.parallel_config("threading", n_jobs=2):
            assert search_in(tmp_path / "threads", options, folds=2).equals(expected)
        assert search_in(tmp_path / "here", options, folds=2).equals(expected)
        assert keras.config.floatx() == "float64"


def test_a_fold_that_trains_without_a_class_is_refused(tmp_path):
    splits = [(np.flatnonzero(Y != 2), np.flatnonzero(Y == 2))]
    places = {"cache": tmp_path / "cache", "csv": tmp_path / "grid_search.csv"}
    with pytest.raises(ValueError, match="fold 1 has no class 2 to train on"):
        grid_search.grid_search(X, Y, SMALL, splits, **places)
    with pytest.raises(ValueError, match="splits holds no fold"):
        grid_search.grid_search(X, Y, SMALL, iter([]), **places)
    assert not any(tmp_path.iterdir())


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

    def start(function, **options):
        receiver, sender = context.Pipe(duplex=False)
        # A daemon dies with the tests, also when one fails before it has killed it.
        process = context.Process(
            target=function, args=(sender,), kwargs=options, daemon=True
        )
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


@pytest.fixture(scope="module")
def repeated(start, tmp_path_factory):
    """
    Return the CSVs of the same search here, in a fresh process, and there in one
    thread.
    """
    root = tmp_path_factory.mktemp("repeated")
    folders = [root / name for name in ("here", "fresh", "one thread")]
    options = {"options": replace(SMALL, batch_size=64), "folds": 2, "copies": 6}
    fresh, _ = start(search.run, **options, folder=folders[1])
    one, _ = start(search.run, **options, folder=folders[2], threads=1)
    search.run(None, **options, folder=folders[0])
    assert (wait(fresh), wait(one)) == (0, 0)
    return [folder / "grid_search.csv" for folder in folders]


def test_a_fresh_process_gives_the_same_bytes(repeated):
    here, fresh, _ = repeated
    assert fresh.read_bytes() == here.read_bytes()


def test_another_number_of_threads_changes_the_last_digits_at_most(repeated):
    """
    Losses to 1e-3 and accuracies to two of a fold's 288 photos; measured: 1e-6 and
    none.

    (With 36 settings on 1,200 photos of random numbers: 6e-4 and one photo.)
    """
    first, _, other = (pd.read_csv(csv) for csv in repeated)
    assert first[COLUMNS[:5]].equals(other[COLUMNS[:5]])
    difference = (first - other).abs().max()
    assert difference[["loss", "val_loss"]].max() < 1e-3
    assert difference[["accuracy", "val_accuracy"]].max() < 2.5 / 288


# --- Interrupted ----------------------------------------------------------------------


def check_files(folder: Path, tables: tuple[bytes, ...]) -> None:
    """Assert that each file that has its final name is whole."""
    assert (folder / "grid_search.csv").read_bytes() in tables
    for part in parts_in(folder):
        with zipfile.ZipFile(part) as archive:
            assert archive.testzip() is None


def parts_in(folder: Path) -> list[Path]:
    """Return the files of finished folds in the cache of a folder."""
    return sorted(folder.glob("cache/grid-search-*-fold-*-block-*.npz"))


def assert_clean(folder: Path) -> None:
    """Assert that a finished search has left its table alone."""
    left = {path.name for path in folder.rglob("*")}
    assert left <= {"cache", "grid_search.csv", ".grid_search.csv.lock"}


def test_a_search_killed_at_random_points_ends_with_the_same_bytes(start, tmp_path):
    """
    5 times `kill -9`, each up to two folds' time after the first training step.

    Two folds train at once. A search that ends before it is killed was one of several:
    the next one begins anew.
    """
    options = replace(SMALL, dropouts=[0.3], epochs=1, batch_size=36)
    there = {"options": options, "folds": 4, "folder": tmp_path / "uninterrupted"}
    process, word = start(search.run_step_by_step, **there)
    word.recv()
    began = time.perf_counter()
    assert wait(process) == 0
    fold = (time.perf_counter() - began) / there["folds"]
    expected = (there["folder"] / "grid_search.csv").read_bytes()

    folder = tmp_path / "new"
    folder.mkdir()
    csv = folder / "grid_search.csv"
    csv.write_bytes(b"the old table")
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 5 or csv.read_bytes() != expected:
        process, word = start(search.run_step_by_step, **there | {"folder": folder})
        if kills < 5:
            word.poll(300)
            process.join(rng.uniform(0, 2 * fold))
            process.kill()
        killed = wait(process) == -signal.SIGKILL
        kills += killed
        check_files(folder, (b"the old table", expected))
        if not killed:
            assert process.exitcode == 0
            assert csv.read_bytes() == expected
            assert_clean(folder)
            if kills < 5:
                csv.write_bytes(b"the old table")


def test_a_search_killed_before_any_file_operation_ends_with_the_same_bytes(
    start, trainings, tmp_path
):
    search_in(tmp_path / "uninterrupted", folds=2)
    expected = (tmp_path / "uninterrupted" / "grid_search.csv").read_bytes()
    folds_trained = set()
    for operation in range(1000):
        folder = tmp_path / f"{operation}"
        folder.mkdir()
        (folder / "grid_search.csv").write_bytes(b"the old table")
        given = {"operation": operation, "folder": folder, "options": SMALL}
        process, _ = start(search.run_and_die, **given)
        exitcode = wait(process)
        check_files(folder, (b"the old table", expected))
        if exitcode == 0:
            break
        assert exitcode == -signal.SIGKILL
        before = len(trainings.parts)
        search_in(folder, folds=2)
        folds_trained.add(len(trainings.parts) - before)
        assert (folder / "grid_search.csv").read_bytes() == expected
        assert_clean(folder)
    assert folds_trained == {0, 1, 2}


def test_the_interrupt_button_keeps_the_finished_folds(searched, tmp_path, trainings):
    trainings.real = True
    trainings.interrupt(tmp_path, after=2)
    assert not (tmp_path / "grid_search.csv").exists()
    assert len(parts_in(tmp_path)) == 2
    resumed, seconds = search_in(tmp_path).attrs.values()
    assert resumed
    assert seconds > 0
    assert len(trainings.parts) == 2 + 1
    assert_same_table(tmp_path, searched)


@pytest.mark.parametrize("where", ["training", "writing"])
def test_an_interrupt_ends_the_trainings_of_all_threads_before_the_call_returns(
    where, tmp_path, monkeypatch, step_by_step
):
    """
    One fold is finished, and two train; the button sends SIGINT to the main thread.

    Though the traceback, which Jupyter keeps, keeps all that the frames hold.
    """
    put, train_fold = Entry.put, grid_search.train_fold
    press = functools.partial(os.kill, os.getpid(), signal.SIGINT)
    together = {"training": (2, press), "writing": (3, None)}[where]
    both = threading.Barrier(*together, timeout=60)
    stored = threading.Event()
    ended = []

    def train(X, y, rows, options, fold, part):
        if fold == 1:
            return fake_training(X, y, rows, options, fold, part)
        stored.wait(60)
        both.wait()
        try:
            longer = replace(options, epochs=60)
            return train_fold(X, y, rows, longer, fold, part)
        except grid_search._StoppedError:
            ended.append(fold)
            raise

    def put_and_wait(*arguments):
        put(*arguments)
        stored.set()
        if where == "writing":
            both.wait()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grid_search, "train_fold", train)
        patch.setattr(Entry, "put", put_and_wait)
        set_threads(patch, 2)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            search_in(tmp_path)
    assert interrupt.traceback
    assert sorted(ended) == [2, 3]
    assert len(parts_in(tmp_path)) == 1
    [rows, *_] = make_folds(Y, None, folds=FOLDS, seed=SMALL.seed)
    train_fold(X, Y, rows, SMALL, fold=1)  # nothing stops what trains afterwards
    search_in(tmp_path)


def test_an_error_in_a_thread_ends_the_others_and_is_raised(
    tmp_path, monkeypatch, step_by_step
):
    train_fold = grid_search.train_fold

    def train(X, y, rows, options, fold, part):
        if fold == 1:
            raise ZeroDivisionError("an error of ours")
        return train_fold(X, y, rows, replace(options, epochs=60), fold, part)

    monkeypatch.setattr(grid_search, "train_fold", train)
    set_threads(monkeypatch, 2)
    with pytest.raises(ZeroDivisionError, match="an error of ours"):
        search_in(tmp_path)
    assert not parts_in(tmp_path)


def test_folds_outlive_a_table_that_cannot_be_written(tmp_path, trainings, monkeypatch):
    full = Mock(side_effect=OSError("the disk is full"))
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_csv", full)
        with pytest.raises(OSError, match="the disk is full"):
            search_in(tmp_path)
    search_in(tmp_path)
    assert len(trainings.parts) == FOLDS


def test_a_finished_search_is_run_again(tmp_path, trainings):
    for runs in (1, 2):
        search_in(tmp_path)
        assert len(trainings.parts) == runs * FOLDS
        assert_clean(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_decays": [1e-4, 1e-3]},
        {"epochs": 3},
        {"batch_size": 25},
        {"class_weight": "balanced"},
        {"seed": 8},
        {"groups": np.arange(search.N) // 2},
        {"X": np.where(X[5, 5] == X, X + 1e-6, X)},
        {"y": np.concatenate([Y[1::-1], Y[2:]])},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_search_does_not_take_the_folds_of_this_one(
    tmp_path, trainings, changed
):
    trainings.interrupt(tmp_path, after=2)
    [name] = changed
    if hasattr(SMALL, name):
        search_in(tmp_path, replace(SMALL, **changed))
    else:
        search_in(tmp_path, **changed)
    assert len(trainings.parts) == 2 + 3
    search_in(tmp_path)
    assert len(trainings.parts) == 2 + 3 + 1, "its own are still there"


@pytest.mark.parametrize(
    ("part", "value", "blocks"),
    [
        *(
            ("scenes.VERSIONS", scenes.VERSIONS | {name: "0"}, 1)
            for name in scenes.VERSIONS
        ),
        ("scenes.grid_search.BLOCK_COLUMNS", 4 * 6, 2),
    ],
)
def test_another_version_does_not_take_the_folds(
    tmp_path, trainings, monkeypatch, printed, part, value, blocks
):
    trainings.interrupt(tmp_path, after=2)
    monkeypatch.setattr(part, value)
    search_in(tmp_path)
    assert len(trainings.parts) == 2 + FOLDS * blocks
    assert "computed again" not in printed()


@pytest.mark.parametrize("fault", ["cut off", "of another shape"])
def test_a_damaged_fold_is_trained_again_with_a_word(
    tmp_path, trainings, fault, printed
):
    expected = search_in(tmp_path)
    trainings.interrupt(tmp_path, after=2)
    part = parts_in(tmp_path)[0]
    with np.load(part) as archive:
        arrays = dict(archive)
    if fault == "of another shape":
        arrays["table"] = arrays["table"][:-1]
    files.write_arrays(part, arrays)
    if fault == "cut off":
        part.write_bytes(part.read_bytes()[:-30])
    assert search_in(tmp_path).equals(expected)
    assert printed().count("This is computed again: ") == 1
    assert trainings.parts[-2:] == ["fold-1-block-1", "fold-3-block-1"]


# --- Two runs at once, and memory -----------------------------------------------------


def test_a_second_run_stops_with_a_word_while_the_first_lives(
    start, tmp_path, trainings, monkeypatch
):
    monkeypatch.setattr(files, "WAIT", 0)
    csv = tmp_path / "grid_search.csv"
    csv.write_text("the old table")
    process, word = start(search.hold, folder=tmp_path, options=SMALL)
    assert word.recv() == "the training has begun"
    with pytest.raises(
        RuntimeError, match=r"another run is writing .*grid_search\.csv; wait"
    ):
        search_in(tmp_path)
    assert not trainings.parts
    assert csv.read_text() == "the old table"
    other = search_in(tmp_path / "other")
    process.kill()
    assert wait(process) == -signal.SIGKILL
    assert search_in(tmp_path).equals(other)


@pytest.mark.slow
def test_memory_grows_by_two_and_a_half_copies_of_the_features_for_each_of_two_tasks(
    start, tmp_path, monkeypatch
):
    """On 12,000 photos after 600; 40 MB are left for what TensorFlow keeps in store."""
    monkeypatch.setenv(
        "MALLOC_MMAP_THRESHOLD_", "1000000"
    )  # what is freed, glibc gives back
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell the peak of the memory")
    options = replace(SMALL, epochs=1)
    process, word = start(search.measure_memory, folder=tmp_path, options=options)
    grown, size = word.recv()
    assert wait(process) == 0
    assert grown < 2 * 2.5 * size + 40 * 2**20


def test_the_bar_of_a_resumed_search_ends_with_all_folds(tmp_path, trainings, bars):
    trainings.interrupt(tmp_path, after=2)
    search_in(tmp_path)
    assert [bar.n for bar in bars] == [2, 3]
