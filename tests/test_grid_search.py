"""A search loses and mixes up nothing, and its table holds what plain fits give."""

import gc
import multiprocessing
import os
import signal
import time
import zipfile
from itertools import product
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import search
import tensorflow as tf
from hypothesis import assume, given
from hypothesis import strategies as st
from search import fake_training, fit_alone, make_photos, make_unequal

import scenes
import scenes.base_model
import scenes.evaluation
import scenes.files
import scenes.grid_search
import utils
from scenes.grid_search import grid_search, make_folds

COLUMNS = [*scenes.HYPERPARAMETERS, "fold", "epoch", *scenes.METRICS]
N = 96
X, Y = make_photos(N)
SMALL = {
    "X": X,
    "y": Y,
    "learning_rates": [0.001, 0.005],
    "dropouts": [0.0, 0.3],
    "weight_decays": [1e-4, 1e-2],
    "epochs": 2,
    "folds": 3,
    "batch_size": 24,
    "seed": 7,
}
LISTS = ("learning_rates", "dropouts", "weight_decays")


@pytest.fixture(autouse=True, scope="module")
def one_after_the_other():
    """
    Let the folds train in order, so that the tests can count them; threads have their
    own.

    Each fold looks for garbage, which takes long among all objects of TensorFlow: not
    there.
    """
    gc.freeze()
    with joblib.parallel_config(n_jobs=1):
        yield
    gc.unfreeze()


@pytest.fixture
def step_by_step():
    """
    Let TensorFlow run without compiling, which would take most of the time of a
    training.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def csv(tmp_path):
    return tmp_path / "grid_search.csv"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return the CSV and the table of a small search that trained."""
    csv = tmp_path_factory.mktemp("searched") / "new" / "grid_search.csv"
    return csv, grid_search(**SMALL, csv=csv)


class Trainings:
    """
    Takes the place of `_fit`: counts the tasks, trains if `real`, and can be
    interrupted.
    """

    def __init__(self):
        self.seeds = []
        self.last = None
        self.real = False
        self.fit = scenes.grid_search._fit

    def __call__(self, *arguments, **options):
        if len(self.seeds) == self.last:
            signal.raise_signal(signal.SIGINT)
        self.seeds.append(options["seed"])
        return (self.fit if self.real else fake_training)(*arguments, **options)

    def interrupt(self, csv, after=2):
        """Begin a search and press the interrupt button after some tasks."""
        self.last = len(self.seeds) + after
        with pytest.raises(KeyboardInterrupt):
            grid_search(**SMALL, csv=csv)
        self.last = None


@pytest.fixture
def trainings(monkeypatch):
    stand_in = Trainings()
    monkeypatch.setattr(scenes.grid_search, "_fit", stand_in)
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
    members = (
        pd.DataFrame({"label": labels, "group": groups})
        .groupby("label")["group"]
        .nunique()
    )
    if folds > members.min():
        with pytest.raises(ValueError, match=f"folds is {folds}, but"):
            make_folds(labels, groups, folds=folds, seed=seed)
        return
    splits = make_folds(labels, groups, folds=folds, seed=seed)
    assert len(splits) == folds
    assert sorted(np.concatenate([val for _, val in splits])) == list(
        range(len(labels))
    )
    for train, val in splits:
        assert sorted([*train, *val]) == list(range(len(labels)))
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
    searched, csv, trainings, monkeypatch, step_by_step
):
    """To 1e-5, though those are not compiled."""
    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", 4 * 6)
    trainings.real = True
    results = grid_search(**SMALL, csv=csv)
    assert len(trainings.seeds) == SMALL["folds"] * 2
    assert len(set(trainings.seeds)) == SMALL["folds"], (
        "blocks of a fold share its draws"
    )
    np.testing.assert_allclose(results, searched[1], rtol=0, atol=1e-5)


def divide(n_classes, counts):
    """Return a grid of as many values of each kind, and its blocks."""
    grid = {
        name: list(np.linspace(0, 0.5, n))
        for name, n in zip(LISTS, counts, strict=True)
    }
    return grid, scenes.grid_search._divide(n_classes, grid)


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
    assert [tuple(map(len, block.values())) for block in blocks] == sizes


@given(st.integers(2, 200), st.tuples(*[st.integers(1, 9)] * 3))
def test_the_more_classes_the_smaller_the_blocks(n_classes, counts):
    """
    A block has at most 768 columns, so that its memory stays, or one dropout rate.
    """
    grid, blocks = divide(n_classes, counts)
    for block in blocks:
        n_heads = np.prod([len(values) for values in block.values()])
        assert n_heads * n_classes <= 768 or len(block["dropouts"]) == 1
    found = [setting for block in blocks for setting in product(*block.values())]
    assert sorted(found) == sorted(product(*grid.values()))


def test_finished_blocks_are_kept(csv, tmp_path, trainings, monkeypatch):
    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", 4 * 6)
    grid_search(**SMALL, csv=tmp_path / "uninterrupted.csv")
    trainings.interrupt(csv, after=3)
    grid_search(**SMALL, csv=csv)
    assert len(trainings.seeds) == 2 * SMALL["folds"] * 2
    assert csv.read_bytes() == (tmp_path / "uninterrupted.csv").read_bytes()


@pytest.mark.parametrize(
    "backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_threads_and_processes_give_the_same_bytes(searched, csv, monkeypatch, backend):
    """Though seeds belong to the whole process: one training waits for the other."""
    at_work, most, fit = [], [], scenes.grid_search._fit

    def count(*arguments, **options):
        at_work.append(options["seed"])
        most.append(len(at_work))
        history = fit(*arguments, **options)
        at_work.remove(options["seed"])
        return history

    monkeypatch.setattr(scenes.grid_search, "_fit", count)
    with joblib.parallel_config(backend, n_jobs=2):
        grid_search(**SMALL, csv=csv)
    assert csv.read_bytes() == searched[0].read_bytes()
    assert set(most) <= {1}


# --- The table and its file -----------------------------------------------------------


def test_the_table_has_a_row_for_each_setting_fold_and_epoch_in_order(searched):
    _, results = searched
    rows = product(
        *(SMALL[f"{name}s"] for name in scenes.HYPERPARAMETERS), (1, 2, 3), (1, 2)
    )
    assert list(results.columns) == COLUMNS
    assert list(results[COLUMNS[:5]].itertuples(index=False, name=None)) == list(rows)
    assert results[list(scenes.METRICS)].notna().all(axis=None)


def test_the_table_is_what_the_file_holds_with_7_digits(searched):
    csv, results = searched
    pd.testing.assert_frame_equal(results, pd.read_csv(csv), check_exact=True)
    numbers = [n for line in csv.read_text().splitlines()[1:] for n in line.split(",")]
    assert all(n == f"{float(n):.7g}" for n in numbers)
    assert max(len(n.lstrip("0.").replace(".", "")) for n in numbers) == 7


def assert_plain_fits_agree(results, options):
    """
    Let no figure of a search stand in another setting's row, nor in another fold's.
    """
    folds, seed = options["folds"], options["seed"]
    splits = make_folds(options["y"], options.get("groups"), folds=folds, seed=seed)
    training = {
        name: options.get(name) for name in ("epochs", "batch_size", "class_weight")
    }
    for fold, setting in ((1, (0.001, 0.0, 1e-2)), (2, (0.005, 0.3, 1e-4))):
        halves = [(options["X"][rows], options["y"][rows]) for rows in splits[fold - 1]]
        fold_seed = int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
        alone = fit_alone(*halves, setting, seed=fold_seed, **training)
        rows = results.set_index([*scenes.HYPERPARAMETERS, "fold"]).loc[
            (*setting, fold)
        ]
        np.testing.assert_allclose(rows[list(scenes.METRICS)], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"batch_size": 10**6},
        dict(zip("Xy", make_unequal(130), strict=True)) | {"class_weight": "balanced"},
    ],
    ids=["as it is", "in one batch", "of unequal classes"],
)
def test_the_table_holds_what_plain_fits_give(csv, changed, step_by_step):
    """The class weights are those of the training part of each fold."""
    assert_plain_fits_agree(grid_search(**SMALL | changed, csv=csv), SMALL | changed)


def test_a_search_on_real_photos_learns_and_is_what_plain_fits_give(bundled, csv):
    """On every 8th training photo."""
    images = utils.shrink(utils.drop_leaks(bundled[0]), 8).query("split == 'train'")
    photos = {"X": bundled[1][images.index], "y": images["label"].cat.codes.to_numpy()}
    options = (
        SMALL | photos | {"groups": images["digest"], "epochs": 6, "batch_size": 128}
    )
    results = grid_search(**options, csv=csv)
    assert scenes.evaluation.best_hyperparameters(results)["val_accuracy"] > 0.88
    assert_plain_fits_agree(results, options)


def test_neither_the_order_of_the_lists_nor_their_type_matters(searched, csv):
    lists = {name: np.array(SMALL[name][::-1]) for name in LISTS}
    numbers = {
        name: np.int64(SMALL[name])
        for name in ("epochs", "folds", "batch_size", "seed")
    }
    photos = {"X": np.asfortranarray(X, "float64"), "y": Y.astype("uint8")}
    grid_search(**photos, **lists, **numbers, csv=str(csv))
    assert csv.read_bytes() == searched[0].read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"groups": [1, 2]}, r"groups have the shape \(2,\), and labels \(96,\)"),
        (
            {"learning_rates": [0.001, 0.00100000001]},
            r"learning_rates is \[0.001, 0.00100000001\]; it must",
        ),
    ],
    ids=["too few groups", "numbers that the file cannot tell apart"],
)
def test_what_cannot_be_searched_is_refused(csv, changed, message):
    with pytest.raises(ValueError, match=message):
        grid_search(**SMALL | changed, csv=csv)
    assert not any(csv.parent.iterdir())


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
    folder = tmp_path_factory.mktemp("repeated")
    files = {name: folder / f"{name}.csv" for name in ("here", "fresh", "one thread")}
    photos = dict(zip("Xy", make_photos(600), strict=True))
    options = SMALL | photos | {"folds": 2, "batch_size": 64}
    fresh, _ = start(search.run, **options, csv=files["fresh"])
    one, _ = start(search.run, **options, csv=files["one thread"], threads=1)
    grid_search(**options, csv=files["here"])
    assert (wait(fresh), wait(one)) == (0, 0)
    return files


def test_a_fresh_process_gives_the_same_bytes(repeated):
    assert repeated["fresh"].read_bytes() == repeated["here"].read_bytes()


def test_another_number_of_threads_changes_the_last_digits_at_most(repeated):
    """
    Losses to 1e-3 and accuracies to two of a fold's 300 photos; measured: 1e-6 and
    none.

    (With 36 settings on 1,200 photos of random numbers: 6e-4 and one photo.)
    """
    first, other = (
        pd.read_csv(repeated[name])[COLUMNS] for name in ("here", "one thread")
    )
    assert first[COLUMNS[:5]].equals(other[COLUMNS[:5]])
    difference = (first - other).abs().max()
    assert difference[["loss", "val_loss"]].max() < 1e-3
    assert difference[["accuracy", "val_accuracy"]].max() < 2.5 / 300


# --- Interrupted ----------------------------------------------------------------------


def check_files(csv: Path, tables: tuple[bytes, ...]) -> None:
    """Assert that each file that has its final name is whole."""
    assert csv.read_bytes() in tables
    for part in csv.parent.glob(f".{csv.stem}-*/fold-*.npz"):
        with zipfile.ZipFile(part) as archive:
            assert archive.testzip() is None


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_search_killed_at_random_points_ends_with_the_same_bytes(start, tmp_path):
    """
    5 times `kill -9`, each up to two folds' time after the first training step.

    A search that ends before it is killed was one of several: the next one begins anew.
    """
    options = SMALL | {"dropouts": [0.3], "epochs": 1, "folds": 4, "batch_size": 36}
    uninterrupted = tmp_path / "uninterrupted.csv"
    process, word = start(search.run_step_by_step, **options, csv=uninterrupted)
    word.recv()
    began = time.perf_counter()
    assert wait(process) == 0
    fold = (time.perf_counter() - began) / options["folds"]
    expected = uninterrupted.read_bytes()

    csv = tmp_path / "new" / "grid_search.csv"
    csv.parent.mkdir()
    csv.write_bytes(b"the old table")
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 5 or csv.read_bytes() != expected:
        process, word = start(search.run_step_by_step, **options, csv=csv)
        if kills < 5:
            word.poll(300)
            process.join(rng.uniform(0, 2 * fold))
            process.kill()
        killed = wait(process) == -signal.SIGKILL
        kills += killed
        check_files(csv, (b"the old table", expected))
        if not killed:
            assert process.exitcode == 0
            assert csv.read_bytes() == expected
            assert names_in(csv.parent) <= {csv.name, f".{csv.name}.lock"}
            if kills < 5:
                csv.write_bytes(b"the old table")


def test_a_search_killed_before_any_file_operation_ends_with_the_same_bytes(
    start, trainings, tmp_path
):
    options = SMALL | {"folds": 2}
    grid_search(**options, csv=tmp_path / "uninterrupted.csv")
    expected = (tmp_path / "uninterrupted.csv").read_bytes()
    folds_trained = set()
    for operation in range(1000):
        csv = tmp_path / f"{operation}" / "grid_search.csv"
        csv.parent.mkdir()
        csv.write_bytes(b"the old table")
        process, _ = start(search.run_and_die, **options, operation=operation, csv=csv)
        exitcode = wait(process)
        check_files(csv, (b"the old table", expected))
        if exitcode == 0:
            break
        assert exitcode == -signal.SIGKILL
        before = len(trainings.seeds)
        grid_search(**options, csv=csv)
        folds_trained.add(len(trainings.seeds) - before)
        assert csv.read_bytes() == expected
        assert names_in(csv.parent) <= {csv.name, f".{csv.name}.lock"}
    assert folds_trained == {0, 1, 2}


def test_the_interrupt_button_keeps_the_finished_folds(searched, csv, trainings):
    trainings.real = True
    trainings.interrupt(csv, after=2)
    assert not csv.exists()
    assert len(list(csv.parent.glob(".grid_search-*/fold-*.npz"))) == 2
    grid_search(**SMALL, csv=csv)
    assert len(trainings.seeds) == 2 + 1
    assert csv.read_bytes() == searched[0].read_bytes()


def test_folds_outlive_a_table_that_cannot_be_written(csv, trainings, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(scenes.files, "write_csv", fail)
        with pytest.raises(OSError, match="the disk is full"):
            grid_search(**SMALL, csv=csv)
    grid_search(**SMALL, csv=csv)
    assert len(trainings.seeds) == SMALL["folds"]


def test_a_finished_search_is_run_again(csv, trainings):
    for runs in (1, 2):
        grid_search(**SMALL, csv=csv)
        assert len(trainings.seeds) == runs * SMALL["folds"]
    assert len(set(trainings.seeds)) == SMALL["folds"]


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_decays": [1e-4, 1e-3]},
        {"epochs": 3},
        {"class_weight": "balanced"},
        {"seed": 8},
        {"groups": np.arange(N) // 2},
        {"X": np.where(X[5, 5] == X, X + 1e-6, X)},
        {"y": np.concatenate([Y[1::-1], Y[2:]])},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_search_does_not_take_the_folds_of_this_one(csv, trainings, changed):
    trainings.interrupt(csv, after=2)
    grid_search(**SMALL | changed, csv=csv)
    assert len(trainings.seeds) == 2 + 3
    grid_search(**SMALL, csv=csv)
    assert len(trainings.seeds) == 2 + 3 + 1, "its own are still there"


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
    csv, trainings, monkeypatch, part, value, blocks
):
    trainings.interrupt(csv, after=2)
    monkeypatch.setattr(part, value)
    grid_search(**SMALL, csv=csv)
    assert len(trainings.seeds) == 2 + SMALL["folds"] * blocks


@pytest.mark.parametrize("fault", ["cut off", "of another shape"])
def test_a_damaged_fold_is_trained_again_with_a_word(csv, trainings, fault, capsys):
    expected = grid_search(**SMALL, csv=csv)
    trainings.interrupt(csv, after=2)
    part = next(csv.parent.glob(".grid_search-*/fold-1-block-1.npz"))
    with np.load(part) as archive:
        arrays = dict(archive)
    if fault == "of another shape":
        arrays["val_loss"] = arrays["val_loss"][:-1]
    scenes.files.write_arrays(part, arrays)
    if fault == "cut off":
        part.write_bytes(part.read_bytes()[:-30])
    assert grid_search(**SMALL, csv=csv).equals(expected)
    assert capsys.readouterr().out.count("A fold is trained again: ") == 1
    assert len(trainings.seeds) == 3 + 2 + 2


# --- Two runs at once, and memory -----------------------------------------------------


def test_a_second_run_stops_with_a_word_while_the_first_lives(
    start, csv, tmp_path, trainings, monkeypatch
):
    monkeypatch.setattr(scenes.files, "WAIT", 0)
    csv.write_text("the old table")
    process, word = start(search.hold, **SMALL, csv=csv)
    assert word.recv() == "the training has begun"
    with pytest.raises(
        RuntimeError, match=r"another run is writing .*grid_search\.csv; wait"
    ):
        grid_search(**SMALL, csv=csv)
    assert not trainings.seeds
    assert csv.read_text() == "the old table"
    other = grid_search(**SMALL, csv=tmp_path / "other.csv")
    process.kill()
    assert wait(process) == -signal.SIGKILL
    assert grid_search(**SMALL, csv=csv).equals(other)


def test_memory_grows_by_at_most_three_copies_of_the_features(start, csv, monkeypatch):
    """On 12,000 photos after 600; 40 MB are left for what TensorFlow keeps in store."""
    monkeypatch.setenv(
        "MALLOC_MMAP_THRESHOLD_", "1000000"
    )  # what is freed, glibc gives back
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell the peak of the memory")
    options = {name: value for name, value in SMALL.items() if name not in "Xy"}
    options |= {"epochs": 1, "folds": 2, "copies": 20, "csv": csv}
    process, word = start(search.measure_memory, **options)
    grown = word.recv()
    assert wait(process) == 0
    assert grown < 3 * 12_000 * X.shape[1] * X.itemsize + 40 * 2**20
