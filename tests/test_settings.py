"""Settings and arguments are checked before any work."""

import json
import re
from pathlib import Path

import keras
import nbformat
import numpy as np
import pandas as pd
import papermill.parameterize
import pytest

import scenes
import scenes.base_model
import scenes.classifier
import scenes.features
import scenes.grid_search
import scenes.heads
import scenes.settings
import utils

NOTEBOOK = Path(utils.__file__).with_name("intel_classification.ipynb")


def parameters() -> dict:
    """Return the settings of the notebook: what its parameters cell assigns."""
    namespace = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    [cell] = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    exec("".join(cell["source"]), {}, namespace)
    return namespace


SETTINGS = parameters()
NAN, INFINITY = float("nan"), float("inf")

POSITIVE = [0, -1, 2.5, 4.0, NAN, INFINITY, "4", None, True, [4]]
RATE = [0, -0.001, 1.5, NAN, INFINITY, "0.001", None, True]
SHARE = [-0.1, 1, 1.5, NAN, INFINITY, "0.1", None, True]
DECAY = [-1e-4, NAN, INFINITY, "1e-4", None, True]
LISTS = [0.1, [], (), [[0.1]], [0.1, 0.1], (0.1, 0.2, 0.1), {0.1}, "0.1", None]
SEEDS = [-1, 0.5, NAN, "0", None, True, 4 * 10**9 + 1]
RATIOS = [0, -0.2, 0.51, 1, 2, NAN, INFINITY, "0.2", None, True]
FOLDERS = [5, "", True, ["photos"]]
CLASS_WEIGHTS = ["Balanced", "", True, 1.0, {0: 1.0}, ["balanced"], np.ones(6)]


def each(values: list) -> list:
    """Put each value, and a list with a good and then this value, in the place of a list."""
    return [[value] for value in values] + [[0.01, value] for value in values]


RATES, DROPOUTS, DECAYS = ([*LISTS, *each(values)] for values in (RATE, SHARE, DECAY))
FOLDS = [1, 0, -5, 2.5, NAN, "5", None, True]
PROJECT = NOTEBOOK.parent
# A setting, the others that have its rule, and what it cannot and can be.
RULES = {
    "PHOTOS": (["OUTPUT"], FOLDERS, [None, "photos", Path("photos")]),
    "CORRECTIONS": ([], FOLDERS, [None, "labels.csv", Path("labels.csv")]),
    "WEIGHTS": ([], FOLDERS, ["imagenet", "weights.h5", None]),
    "CACHE": ([], [*FOLDERS, None, PROJECT, f"{PROJECT}/tests/.."], ["cache", Path("cache")]),
    "SEED": ([], SEEDS, [0, 4 * 10**9, np.int64(3)]),
    "DOWNLOAD": ([], [1, 0, None, "True"], [True, False]),
    "EPOCHS": (
        ["FINE_TUNE_EPOCHS", "SHRINK_FACTOR", "BATCH_SIZE"],
        POSITIVE,
        [1, 10**6, np.int32(4)],
    ),
    "CLASS_WEIGHT": ([], CLASS_WEIGHTS, [None, "balanced"]),
    "TEST_RATIO": (["VALIDATION_RATIO"], RATIOS, [0.5, 0.001, np.float32(0.25)]),
    "LEARNING_RATES": (
        [],
        RATES,
        [[1], [1e-9], (0.1, 0.2), np.logspace(-4, -2, 3)],
    ),
    "DROPOUTS": ([], [*DROPOUTS, [0.0, -0.0]], [[0], [0.999], [0.1, 0]]),
    "WEIGHT_DECAYS": ([], DECAYS, [[0], [10], [0, 1e-9]]),
    "FOLDS": ([], FOLDS, [2, 100]),
    "FIRST_LAYER": (
        [],
        ["block_0_expand", "block_17_expand", "Conv1", "out_relu", "", None, 10, []],
        ["block_1_expand", "block_16_expand", "Conv_1"],
    ),
    "LABEL_SMOOTHING": ([], SHARE, [0, 0.9]),
    "FINE_TUNE_RATES": ([], [r for r in RATES if r != []], [[], [1e-9, 1]]),
}
POSSIBLE_SETTINGS = {
    name: values for first, (others, _, values) in RULES.items() for name in [first, *others]
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


# --- The settings of the notebook -----------------------------------------------------


def test_the_settings_of_the_notebook_are_those_of_the_rules():
    assert set(SETTINGS) == {name.upper() for name in scenes.settings.RULES}
    assert scenes.settings.check_settings(dict(SETTINGS)) == SETTINGS


def test_each_setting_has_the_rule_that_is_tested_for_it():
    assert POSSIBLE_SETTINGS.keys() == SETTINGS.keys()
    rules = scenes.settings.RULES
    for first, (others, *_) in RULES.items():
        assert all(rules[name.lower()] is rules[first.lower()] for name in others), first


def test_settings_are_picked_out_of_the_variables_of_a_notebook():
    """A reader's own variables may have any name."""
    own = {"N": 10, "photo": "a.jpg", "EPOCH": 3, "dropout": 0.1, "In": ["x"], "Out": {}, "pd": pd}
    settings = scenes.settings.check_settings({**own, **SETTINGS, "EPOCHS": 7})
    assert settings == {**SETTINGS, "EPOCHS": 7}


def test_a_setting_that_is_missing_is_named():
    with pytest.raises(ValueError, match="the setting EPOCHS is missing"):
        scenes.settings.check_settings({k: v for k, v in SETTINGS.items() if k != "EPOCHS"})


def test_a_home_folder_is_found_in_each_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    paths = dict.fromkeys(("PHOTOS", "CORRECTIONS", "WEIGHTS", "OUTPUT"), "~/here")
    namespace = {**SETTINGS, **paths, "CACHE": Path("~/here")}
    settings = scenes.settings.pick(namespace)
    for name in ("PHOTOS", "CORRECTIONS", "WEIGHTS", "OUTPUT", "CACHE"):
        assert settings[name] == namespace[name] == str(tmp_path / "here")


@pytest.mark.parametrize(("name", "value"), cases(1))
def test_an_impossible_setting_is_refused_by_name_value_and_what_is_allowed(name, value):
    told = re.escape(f"{name} is {value!r}; it must be {scenes.settings.RULES[name.lower()][0]}")
    with pytest.raises(ValueError, match=told):
        scenes.settings.check_settings({**SETTINGS, name: value})
    assert not Path(".cache").exists()


@pytest.mark.parametrize(("name", "value"), cases(2))
def test_a_possible_setting_is_taken_as_it_is(name, value):
    assert scenes.settings.pick({**SETTINGS, name: value})[name] is value


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("LEARNING_RATES", ["1e-4"], "YAML reads 1e-4 as text, too: write 0.0001"),
        ("WEIGHT_DECAYS", [0.1, "1e-4"], "YAML reads 1e-4 as text, too: write 0.0001"),
        ("FINE_TUNE_RATES", ["1e-4"], "YAML reads 1e-4 as text, too: write 0.0001"),
        ("LEARNING_RATES", "[0.001]", 'by -y "LEARNING_RATES: [0.001]", not by -p'),
        ("DOWNLOAD", "true", "write True"),
        ("PHOTOS", 2024, "write it in quotes; papermill takes it by -r PHOTOS 2024, not by -p"),
        ("CACHE", 1.5, "-r CACHE 1.5"),
        ("DOWNLOAD", "false", "write False"),
        ("EPOCHS", 0, None),
        ("FIRST_LAYER", "conv", None),
        ("DROPOUTS", ["many"], None),
    ],
)
def test_a_value_of_another_type_gets_the_hint_that_helps(name, value, hint):
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        scenes.settings.check_settings({**SETTINGS, name: value})
    assert (hint or "") in str(caught.value)
    assert ("(" in str(caught.value)) == (hint is not None)


def injected(**values: object) -> dict:
    """Return the variables of a notebook that papermill was given these values for."""
    lines = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    cells = ["", "EPOCHS = 25", f"# Parameters\n{lines}", "check_settings(globals())"]
    return {**SETTINGS, **values, "In": cells}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SHRINK_FACTR", "SHRINK_FACTOR"),
        ("EPOCH", "EPOCHS"),
        ("epochs", "EPOCHS"),
        ("Learning_Rate", "LEARNING_RATES"),
    ],
)
def test_a_mistyped_setting_from_papermill_is_named_with_what_was_meant(name, meant):
    with pytest.raises(ValueError, match=rf"no setting {name}; do you mean {meant}\?"):
        scenes.settings.check_settings(injected(**{name: 4}))


def test_other_names_from_papermill_are_told_and_taken(capsys):
    """Among them those of `papermill --inject-paths`."""
    given = injected(EPOCHS=3, MOMENTUM=0.9, PAPERMILL_INPUT_PATH="a.ipynb")
    assert scenes.settings.check_settings(given)["EPOCHS"] == 3
    assert capsys.readouterr().out.startswith("MOMENTUM is no setting of this notebook")


def test_papermill_marks_its_cell_as_the_settings_expect():
    """Else no misspelt setting would be found."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("EPOCHS = 25")])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    notebook.metadata["papermill"] = {}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    given = papermill.parameterize.parameterize_notebook(notebook, {"EPOCH": 3, "SEED": [1]})
    sources = [cell["source"] for cell in given.cells]
    found = scenes.settings._from_papermill({"In": [*sources, "check_settings(globals())"]})
    assert found == {"EPOCH": 3, "SEED": [1]}


OWN_CELLS = ["%matplotlib inline\nn = 3", "!ls", "a, b = 1, 2", "d['x'] = 1", "self.x = 1"]
OWN_CELLS += ["epoch: int = 3", "epoch += 3", "epoch = len(d)", "show(epoch)"]


@pytest.mark.parametrize("cell", OWN_CELLS)
def test_a_readers_cell_called_parameters_does_no_harm(cell, capsys):
    given = {**SETTINGS, "In": ["", f"# Parameters\n{cell}", "check_settings(globals())"]}
    assert scenes.settings.check_settings(given) == SETTINGS
    given["In"][1:1] = ["# Parameters\nepoch = 3"]  # was run before
    assert scenes.settings.check_settings(given) == SETTINGS
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cache", ["file", "file/cache", "disk", "disk/cache"])
def test_a_cache_that_cannot_be_written_to_is_refused_at_once(cache, small_disk):
    Path("file").touch()
    small_disk[1]()
    with pytest.raises(ValueError, match=rf"^CACHE is '{cache}'; .* can be written to.*\(\[Errno"):
        scenes.settings.check_settings({**SETTINGS, "CACHE": cache})


@pytest.mark.parametrize("file", ["none.csv", "folder"])
def test_corrections_that_cannot_be_read_are_refused_at_once(file):
    Path("folder").mkdir()
    told = rf"^CORRECTIONS is '{file}'; it must be None or a CSV file .* \(\[Errno"
    with pytest.raises(ValueError, match=told):
        scenes.settings.check_settings({**SETTINGS, "CORRECTIONS": file})
    Path("labels.csv").touch()
    given = {**SETTINGS, "CORRECTIONS": Path("labels.csv")}
    assert scenes.settings.check_settings(given) == given


@pytest.mark.parametrize("file", ["whole.keras", "whole.weights.h5", "none.h5", "text.h5"])
def test_weights_that_are_not_those_of_the_base_model_are_refused_at_once(
    classifier, recwarn, file
):
    if file.startswith("whole"):
        (classifier.save if file.endswith("keras") else classifier.save_weights)(file)
    elif file == "text.h5":
        Path(file).write_text("a letter")
    recwarn.clear()
    with pytest.raises(ValueError, match=f"^WEIGHTS is '{file}'; it must be 'imagenet', None or"):
        scenes.settings.check_settings({**SETTINGS, "WEIGHTS": file})
    assert not recwarn.list


def test_weights_of_the_base_model_are_taken():
    base = keras.applications.MobileNetV2(include_top=False, weights=None)
    base.save_weights("own.weights.h5")
    given = {**SETTINGS, "WEIGHTS": Path("own.weights.h5")}
    assert scenes.settings.check_settings(given) == given


# --- Arguments ------------------------------------------------------------------------

LABELS = np.repeat(np.arange(6), 4)
FEATURES = np.ones((len(LABELS), scenes.base_model.N_FEATURES), "float32")
HYPERPARAMETERS = {"learning_rate": 0.001, "dropout": 0.1, "weight_decay": 0.001}
GRID = {f"{name}s": [value] for name, value in HYPERPARAMETERS.items()}


@pytest.fixture
def doors(table, tmp_path):
    """Return each function that takes numbers, ready to be called with one more argument."""
    csv = tmp_path / "grid.csv"
    return {
        "shrink": lambda factor: utils.shrink(table, factor),
        "create_validation": lambda **kw: utils.create_validation(table, **kw),
        "extract_features": lambda **kw: scenes.features.extract_features(
            table, tmp_path, None, cache=tmp_path / "cache.npz", **kw
        ),
        "build_head": lambda **kw: scenes.heads.build_head(
            scenes.base_model.N_FEATURES, 6, **{"dropout": 0, "weight_decay": 0, **kw}
        ),
        "train_head": lambda **kw: scenes.heads.train_head(
            FEATURES, LABELS, **{**HYPERPARAMETERS, "epochs": 1, **kw}
        ),
        "grid_search": lambda **kw: scenes.grid_search.grid_search(
            FEATURES, LABELS, **{**GRID, "epochs": 1, "folds": 2, "csv": csv, **kw}
        ),
        "predict": lambda **kw: scenes.classifier.predict(None, tmp_path, **kw),
    }


IMPOSSIBLE_ARGUMENTS = {
    ("shrink", "factor"): POSITIVE,
    ("create_validation", "ratio"): RATIOS,
    ("create_validation", "seed"): SEEDS,
    ("extract_features", "batch_size"): POSITIVE,
    ("build_head", "dropout"): SHARE,
    ("build_head", "weight_decay"): DECAY,
    ("train_head", "learning_rate"): RATE,
    ("train_head", "dropout"): SHARE,
    ("train_head", "weight_decay"): DECAY,
    ("train_head", "epochs"): POSITIVE,
    ("train_head", "batch_size"): POSITIVE,
    ("train_head", "class_weight"): CLASS_WEIGHTS,
    ("train_head", "seed"): SEEDS,
    ("grid_search", "learning_rates"): RATES,
    ("grid_search", "dropouts"): DROPOUTS,
    ("grid_search", "weight_decays"): DECAYS,
    ("grid_search", "epochs"): POSITIVE,
    ("grid_search", "folds"): FOLDS,
    ("grid_search", "batch_size"): POSITIVE,
    ("grid_search", "class_weight"): CLASS_WEIGHTS,
    ("grid_search", "seed"): SEEDS,
    ("predict", "batch_size"): POSITIVE,
}


@pytest.mark.parametrize(
    ("function", "name"), [pytest.param(*key, id="-".join(key)) for key in IMPOSSIBLE_ARGUMENTS]
)
def test_an_impossible_argument_is_refused_before_any_work(doors, function, name, tmp_path):
    for value in IMPOSSIBLE_ARGUMENTS[function, name]:
        with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}; it must be ")):
            doors[function](**{name: value})
    assert not any(tmp_path.iterdir())
