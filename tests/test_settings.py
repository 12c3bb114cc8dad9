"""Settings and arguments are checked before any work."""

import fractions
import json
import re
from pathlib import Path
from unittest.mock import Mock

import h5py
import keras
import numpy as np
import pytest
import sklearn
import tensorflow as tf

import scenes
import utils
from scenes import base_model, features, heads, settings

NOTEBOOK = Path(utils.__file__).with_name("intel_classification.ipynb")


def parameters() -> dict:
    """Return the settings of the notebook: what its parameters cell assigns."""
    namespace = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    [cell] = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    exec("".join(cell["source"]), {}, namespace)
    assert namespace.pop("recorded") is None
    return namespace


SETTINGS = parameters()
NAN, INFINITY = float("nan"), float("inf")
# Of each rule one setting: what it cannot and what it can be.
RULES = {
    "PHOTOS": ([5, "", True, ["photos"]], [None, "photos", Path("photos")]),
    "GROUPS": (
        [5, "", "patient", "(a)(b)", "(", True, Path("g"), b"p(.)", re.compile("(p)")],
        [None, r"patient(\d+)/", Path("g.csv")],
    ),
    "CACHE": (
        [None, "", 5, np.ones(2), settings.PROJECT],
        ["cache", Path("cache")],
    ),
    "DOWNLOAD": ([1, None, "True"], [True, False]),
    "CROSS_FIT": ([0, None, "no"], [True, False]),
    "SEED": (
        [-1, 0.5, "0", None, True, 4 * 10**9 + 1, 10**30, np.array(3)],
        [0, 4 * 10**9, np.int64(3), np.uint8(4)],
    ),
    "EPOCHS": ([0, 4.0, INFINITY, [4], 10**30], [1, 10**6]),
    "FOLDS": ([1, True, 10**30], [2, 100]),
    "SHRINK_FACTOR": ([10**30], [np.int64(4)]),
    "TEST_RATIO": (
        [0, 0.51, NAN, "0.2", None, True, 1j],
        [0.5, 0.001, np.float32(0.25), fractions.Fraction(1, 8), np.longdouble("0.3")],
    ),
    "LABEL_SMOOTHING": ([-0.1, 1, 0.99999999], [0, 0.9, fractions.Fraction(1, 5)]),
    "LEARNING_RATES": (
        [
            0.1,
            [],
            [[0.1]],
            [0.1, 0.1],
            [0.001, 0.00100000001],
            {0.1},
            "0.1",
            None,
            [0.01, 0],
            [1.5],
            [NAN],
            [True],
            np.array([[0.1, 0.2]]),
        ],
        [[1], [1e-9], (0.1, 0.2), np.logspace(-4, -2, 3), [fractions.Fraction(1, 9)]],
    ),
    "DROPOUTS": (
        [[0.0, -0.0], [1], [0.99999999]],
        [[0], [0.999], [0.1, 0], [np.longdouble("0.2")]],
    ),
    "WEIGHT_DECAYS": ([[-1e-4], [INFINITY], [1e30]], [[1], [10], [0, 1e-9]]),
    "FINE_TUNE_RATES": ([[2], None], [[], [1e-9, 1]]),
    "CLASS_WEIGHT": (["Balanced", True, {0: 1.0}, np.ones(6)], [None, "balanced"]),
    "FIRST_LAYER": (
        ["block_0_expand", None, []],
        ["block_1_expand", "block_16_expand", "Conv_1"],
    ),
}


def cases(column: int) -> list:
    return [
        pytest.param(name, value, id=f"{name}={value!r}")
        for name, row in RULES.items()
        for value in row[column]
    ]


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Let the cache be made in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def check_with(**changed):
    """Check the settings of the notebook, some of them changed."""
    return settings.check_settings(SETTINGS | changed)


# --- The settings of the notebook -----------------------------------------------------


def test_the_settings_of_the_notebook_are_those_of_the_rules():
    assert set(SETTINGS) == {name.upper() for name in settings.RULES}
    assert check_with() == SETTINGS


def test_settings_are_picked_out_of_the_variables_of_a_notebook():
    """A reader's own variables may have any name that is not almost a setting's."""
    own = dict.fromkeys(["N", "photo", "epoch", "dropout", "In", "pd", "X"])
    own |= dict.fromkeys(["REPOSITORY", "BATCH", "HEIGHT", "DATA", "CLASSES", "PATH"])
    found = settings.check_settings({**own, **SETTINGS, "EPOCHS": 7})
    assert found == {**SETTINGS, "EPOCHS": 7}
    with pytest.raises(ValueError, match="the setting EPOCHS is missing"):
        settings.check_settings({k: v for k, v in SETTINGS.items() if k != "EPOCHS"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EPOCH", "EPOCHS"),
        ("SHRINK_FACTR", "SHRINK_FACTOR"),
        ("LEARNING_RATE", "LEARNING_RATES"),
        ("CAHCE", "CACHE"),
    ],
)
def test_a_mistyped_setting_is_named_with_what_was_meant(name, meant):
    told = f"^Unknown setting {name}; did you mean {meant}\\?$"
    with pytest.raises(ValueError, match=told):
        check_with(**{name: 4})


def test_a_home_folder_is_found_in_each_path(monkeypatch, tmp_path):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    paths = dict.fromkeys(("PHOTOS", "CORRECTIONS", "WEIGHTS", "OUTPUT"), "~/here")
    namespace = {**SETTINGS, **paths, "CACHE": Path("~/here")}
    found = settings.pick(namespace)
    for name in (*paths, "CACHE"):
        assert found[name] == namespace[name] == str(tmp_path / "here")


@pytest.mark.parametrize(("name", "value"), cases(0))
def test_an_impossible_setting_is_refused_by_name_value_and_what_is_allowed(
    name, value
):
    told = re.escape(
        f"{name} is {value!r}; it must be {settings.RULES[name.lower()][0]}"
    )
    with pytest.raises(ValueError, match=told):
        check_with(**{name: value})
    assert not Path(".cache").exists()


@pytest.mark.parametrize(
    ("name", "value", "is_text"),
    [
        ("LEARNING_RATES", "[1e-4]", True),
        ("LEARNING_RATES", [0.001, "1e-4"], True),
        ("TEST_RATIO", "0.3", True),
        ("LEARNING_RATES", 0.001, False),
        ("FIRST_LAYER", "block_0_expand", False),
    ],
)
def test_a_number_that_came_as_text_is_called_so_and_how_to_write_it(
    name, value, is_text
):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be") as error:
        settings.check(**{name: value})
    hint = "; this is text: write 3 or 1.0e-4 (a list after papermill's -y)"
    assert str(error.value).endswith(hint) == is_text


@pytest.mark.parametrize(("name", "value"), cases(1))
def test_a_possible_setting_is_the_number_or_text_that_it_is(name, value):
    """As Python's own, in the notebook's variables too; settings.json can hold it."""
    namespace = {**SETTINGS, name: value}
    found = settings.pick(namespace)[name]
    assert namespace[name] is found
    assert json.loads(json.dumps(found)) == found
    if isinstance(value, (str, Path)):
        assert found == str(value)
    elif value is not None:
        np.testing.assert_array_equal(found, np.asarray(value, "float64"))


# --- A run that is repeated -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"CORRECTIONS": "b.csv"}, ["corrections"]),
        ({"CORRECTIONS": None}, ["corrections"]),
        ({"WEIGHTS": "imagenet"}, ["weights"]),
        ({"GROUPS": "b.csv"}, ["groups"]),
    ],
)
def test_a_repeated_run_says_what_is_not_as_it_was(changed, told, printed, monkeypatch):
    for name in ("a.csv", "b.csv", "g.CSV", "w.h5"):
        Path(name).write_text(name)
    monkeypatch.setattr(base_model, "check_weights", str)
    files = {"CORRECTIONS": "a.csv", "GROUPS": "g.CSV", "WEIGHTS": "w.h5"}
    given = SETTINGS | files
    recorded = {"versions": scenes.VERSIONS, "photos": "of another room"}
    recorded |= settings.hash_files(given)
    settings.check_settings({**given, **changed, "recorded": recorded})
    said = printed().splitlines()
    assert len(said) == len(told)
    for line, name in zip(said, told, strict=True):
        assert re.match(
            f"This run does not repeat the recorded one: {name} .*, not ", line
        )
    settings.check_settings({**given, **changed})
    assert printed() == ""


def test_a_run_of_other_versions_is_told(printed):
    recorded = {"versions": scenes.VERSIONS | {"keras": "1"}}
    check_with(recorded=recorded)
    assert "versions {" in printed()


# --- What else the numbers depend on --------------------------------------------------

KERAS = keras.config
CHANGED = {
    "floatx": (KERAS.set_floatx, "float64", "float32"),
    "image_data_format": (
        KERAS.set_image_data_format,
        "channels_first",
        "channels_last",
    ),
    "epsilon": (KERAS.set_epsilon, 1e-3, 1e-7),
    "max_epochs": (KERAS.set_max_epochs, 1, None),
    "get_jit": (tf.config.optimizer.set_jit, True, False),
    "TensorFloat-32": (
        tf.config.experimental.enable_tensor_float_32_execution,
        True,
        False,
    ),
    "transform_output": (
        lambda v: sklearn.set_config(transform_output=v),
        "pandas",
        "default",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_cell_that_changes_all_numbers_is_refused_by_name(name):
    change, value, back = CHANGED[name]
    change(value)
    try:
        with pytest.raises(ValueError, match=f"^.*{name}.* is .*; it must be .*: rest"):
            check_with()
    finally:
        change(back)
    settings.check_configuration()


def test_a_compiler_by_environment_variable_is_refused(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2")
    with pytest.raises(ValueError, match="TF_XLA_FLAGS is '--tf_xla_auto_jit=2'; it"):
        check_with()


# --- Files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cache", ["file", "imagenet", "file/cache", "disk", "disk/cache"]
)
def test_a_cache_that_cannot_be_written_to_is_refused_at_once(cache, small_disk):
    for name in ("imagenet", "file"):
        Path(name).touch()
    small_disk[1]()
    with pytest.raises(
        ValueError, match=rf"^CACHE is '{cache}'; .* can be written to.*\(\[Errno"
    ):
        check_with(CACHE=cache)


def test_damaged_imagenet_weights_are_named_at_once(monkeypatch, tmp_path):
    damaged = tmp_path / "weights.h5"
    damaged.write_bytes(b"\x89HDF")
    monkeypatch.setattr(base_model, "IMAGENET_WEIGHTS", damaged)
    with pytest.raises(ValueError, match=r"weights\.h5 is damaged .*: delete it, and"):
        check_with(WEIGHTS="imagenet")
    check_with(WEIGHTS=None)


def test_a_reason_without_words_is_its_kind(monkeypatch):
    monkeypatch.setattr(scenes.files, "file_digest", Mock(side_effect=MemoryError))
    with pytest.raises(
        ValueError, match=r"^CORRECTIONS is 'a.csv'; .* \(MemoryError\)"
    ):
        check_with(CORRECTIONS="a.csv")


def test_corrections_that_cannot_be_read_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"^CORRECTIONS is 'none.csv'; it must be .* \(\[Errno"
    ):
        check_with(CORRECTIONS="none.csv")
    Path("labels.csv").touch()
    assert check_with(CORRECTIONS=Path("labels.csv"))["CORRECTIONS"] == "labels.csv"


def write_arrays(name: str, shapes: list) -> None:
    with h5py.File(name, "w") as file:
        for number, shape in enumerate(shapes):
            file[f"layers/{number}/vars/0"] = np.zeros(shape, "float32")


def test_weights_that_are_not_those_of_the_base_model_are_refused_at_once(
    classifier, recwarn
):
    Path("text.h5").write_text("a letter")
    classifier.save_weights("whole.weights.h5")
    Path("folder.h5").mkdir()
    write_arrays("empty.h5", [])
    recwarn.clear()
    for file in ["none.h5", "text.h5", "whole.weights.h5", "folder.h5", "empty.h5"]:
        told = f"^WEIGHTS is '{file}'; it must be 'imagenet', None or .*\\(.+\\)$"
        with pytest.raises(ValueError, match=told):
            check_with(WEIGHTS=file)
    assert not recwarn.list


def test_weights_are_known_by_their_shapes_and_no_network_is_built(
    random_base_model, monkeypatch
):
    """
    In each layout of Keras, with an optimizer too; the first wrong array is named.
    """
    random_base_model.save_weights("own.weights.h5")
    random_base_model.save("whole.h5")
    with h5py.File("own.weights.h5", "a") as file:
        file["optimizer/vars/0"] = 1.0
    monkeypatch.delattr(base_model, "build_base_model")
    for file in ("own.weights.h5", "whole.h5"):
        assert check_with(WEIGHTS=Path(file)) == SETTINGS | {"WEIGHTS": file}
    shapes = [weight.shape for weight in random_base_model.weights]
    turned = [shape[::-1] for shape in shapes]  # of as many numbers
    faults = {
        "short": (shapes[1:], r"it lacks an array of the shape \(3, 3, 3, 32\)"),
        "turned": (
            turned,
            r"array layers/0/vars/0 of the shape \(32, 3, 3, 3\) is one",
        ),
    }
    for name, (arrays, told) in faults.items():
        write_arrays(f"{name}.h5", arrays)
        with pytest.raises(ValueError, match=told):
            check_with(WEIGHTS=f"{name}.h5")


# --- Arguments ------------------------------------------------------------------------

HEAD = {"learning_rate": 0.001, "dropout": 0.1, "weight_decay": 0.001, "epochs": 1}
TUNING = {
    "learning_rate": 0.001,
    "first_layer": "block_10_expand",
    "label_smoothing": 0.1,
    "epochs": 1,
}
GRID = {
    "learning_rates": [0.1],
    "dropouts": [0.1],
    "weight_decays": [0.1],
    "epochs": 1,
}


def test_options_hold_pythons_own_numbers_or_are_refused():
    options = settings.GridOptions(
        learning_rates=np.array([0.01, 0.001]),
        dropouts=(fractions.Fraction(1, 5),),
        weight_decays=[np.longdouble("0.25"), 0],
        epochs=np.int64(3),
    )
    assert repr(options) == (
        "GridOptions(epochs=3, batch_size=128, class_weight=None, seed=0, "
        "learning_rates=(0.001, 0.01), dropouts=(0.2,), weight_decays=(0.0, 0.25))"
    )
    one = {"learning_rate": 0.1, "dropout": 0.1, "weight_decay": 0.1, "epochs": 1}
    for name, value in {"seed": 10**30, "weight_decay": 1e30, "epochs": 0}.items():
        with pytest.raises(
            ValueError, match=f"^{name} is {re.escape(repr(value))}; it"
        ):
            settings.HeadOptions(**one | {name: value})


def test_an_impossible_argument_is_refused_before_any_work(table, tmp_path):
    training = {"epochs": 0, "batch_size": 0, "class_weight": "all", "seed": -1}
    head = {"learning_rate": 0, "dropout": 1, "weight_decay": -1}
    grid = {"learning_rates": 0, "dropouts": [1], "weight_decays": []}
    tuning = {"learning_rate": 2, "first_layer": "block_0", "label_smoothing": 1}
    # a function, what it is given, by position and by name, and what is impossible
    rows = [
        (utils.shrink, [table], {}, {"factor": 0}),
        (utils.create_validation, [table], {}, {"ratio": 0.51, "seed": -1}),
        (utils.draw_folds, [table], {"folds": 2}, {"folds": 1, "seed": -1}),
        (
            features.extract_features,
            [table, None],
            {"cache": tmp_path / "cache"},
            {"batch_size": 0},
        ),
        (
            heads.build_head,
            [base_model.N_FEATURES, 6],
            {"dropout": 0.3, "weight_decay": 0.01},
            {"dropout": 1, "weight_decay": -1},
        ),
        (settings.HeadOptions, [], HEAD, training | head),
        (settings.GridOptions, [], GRID, training | grid),
        (settings.FineTuningOptions, [], TUNING, training | tuning),
    ]
    for function, given, named, impossible in rows:
        for name, value in impossible.items():
            with pytest.raises(
                ValueError, match=re.escape(f"{name} is {value!r}; it must be ")
            ):
                function(*given, **named | {name: value})
    assert not any(tmp_path.iterdir())


def test_fine_tuning_without_more_is_that_of_the_committed_results():
    options = settings.FineTuningOptions(**TUNING)
    assert (options.batch_size, options.weight_decay) == (32, 0.01)
