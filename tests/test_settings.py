"""Settings and arguments are checked before any work."""

import json
import re
from pathlib import Path

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


def each(values: list) -> list:
    """Put each value, and a list with a good and then this value, in the place of a list."""
    return [[value] for value in values] + [[0.01, value] for value in values]


IMPOSSIBLE_SETTINGS = {
    "PHOTOS": FOLDERS,
    "DOWNLOAD": [1, 0, None, "True"],
    "WEIGHTS": FOLDERS,
    "OUTPUT": FOLDERS,
    "CACHE": [*FOLDERS, None, __file__, NOTEBOOK.parent, f"{NOTEBOOK.parent}/tests/.."],
    "SEED": SEEDS,
    "SHRINK_FACTOR": POSITIVE,
    "TEST_RATIO": RATIOS,
    "VALIDATION_RATIO": RATIOS,
    "LEARNING_RATES": [*LISTS, *each(RATE)],
    "DROPOUTS": [*LISTS, *each(SHARE), [0.0, -0.0]],
    "WEIGHT_DECAYS": [*LISTS, *each(DECAY)],
    "EPOCHS": POSITIVE,
    "FOLDS": [1, 0, -5, 2.5, NAN, "5", None, True],
    "BATCH_SIZE": POSITIVE,
    "HEAD_EPOCHS": POSITIVE,
    "RUNS": POSITIVE,
    "RUN_EPOCHS": POSITIVE,
    "FINE_TUNE_RUNS": [-1, 0.5, NAN, "1", None, True],
    "FINE_TUNE_SEARCH": [1, 0, None, "True"],
    "LABEL_SMOOTHING": SHARE,
    "FIRST_LAYER": ["block_0_expand", "block_17_expand", "Conv1", "out_relu", "", None, 10, []],
    "FINE_TUNE_RATE": RATE,
    "FINE_TUNE_EPOCHS": POSITIVE,
}
POSSIBLE_SETTINGS = {
    "PHOTOS": [None, "photos", Path("photos")],
    "DOWNLOAD": [True, False],
    "WEIGHTS": ["imagenet", "weights.h5", None],
    "OUTPUT": [None, "out", Path("out")],
    "CACHE": ["cache", Path("cache")],
    "SEED": [0, 4 * 10**9, np.int64(3)],
    "SHRINK_FACTOR": [1, 1000, np.int32(4)],
    "TEST_RATIO": [0.5, 0.001, np.float32(0.25)],
    "VALIDATION_RATIO": [0.5, 0.001, np.float32(0.25)],
    "LEARNING_RATES": [[1], [1e-9], (0.1, 0.2), np.logspace(-4, -2, 3)],
    "DROPOUTS": [[0], [0.999], [0.1, 0]],
    "WEIGHT_DECAYS": [[0], [10], [0, 1e-9]],
    "EPOCHS": [1, 10000],
    "FOLDS": [2, 100],
    "BATCH_SIZE": [1, 10**6],
    "HEAD_EPOCHS": [1],
    "RUNS": [1],
    "RUN_EPOCHS": [1],
    "FINE_TUNE_RUNS": [0, 3],
    "FINE_TUNE_SEARCH": [True, False],
    "LABEL_SMOOTHING": [0, 0.9],
    "FIRST_LAYER": ["block_1_expand", "block_16_expand", "Conv_1"],
    "FINE_TUNE_RATE": [1, 1e-9],
    "FINE_TUNE_EPOCHS": [1],
}


def cases(table: dict[str, list]) -> list:
    return [
        pytest.param(name, value, id=f"{name}={value!r}")
        for name, values in table.items()
        for value in values
    ]


# --- The settings of the notebook -----------------------------------------------------


def test_the_settings_of_the_notebook_are_those_of_the_rules():
    assert set(SETTINGS) == {name.upper() for name in scenes.settings.RULES}
    assert scenes.settings.check_settings(dict(SETTINGS)) == SETTINGS


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
    paths = dict.fromkeys(("PHOTOS", "WEIGHTS", "OUTPUT"), "~/here")
    namespace = {**SETTINGS, **paths, "CACHE": Path("~/here")}
    settings = scenes.settings.check_settings(namespace)
    for name in ("PHOTOS", "WEIGHTS", "OUTPUT", "CACHE"):
        assert settings[name] == namespace[name] == str(tmp_path / "here")


@pytest.mark.parametrize(("name", "value"), cases(IMPOSSIBLE_SETTINGS))
def test_an_impossible_setting_is_refused_by_name_value_and_what_is_allowed(name, value):
    told = re.escape(f"{name} is {value!r}; it must be {scenes.settings.RULES[name.lower()][0]}")
    with pytest.raises(ValueError, match=told):
        scenes.settings.check_settings({**SETTINGS, name: value})


@pytest.mark.parametrize(("name", "value"), cases(POSSIBLE_SETTINGS))
def test_a_possible_setting_is_taken_as_it_is(name, value):
    assert scenes.settings.check_settings({**SETTINGS, name: value})[name] is value


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("LEARNING_RATES", ["1e-4"], "YAML reads 1e-4 as text, too: write 0.0001"),
        ("WEIGHT_DECAYS", [0.1, "1e-4"], "YAML reads 1e-4 as text, too: write 0.0001"),
        ("FINE_TUNE_RATE", "1e-4", "YAML reads 1e-4 as text, too: write 0.0001"),
        ("LEARNING_RATES", "[0.001]", 'by -y "LEARNING_RATES: [0.001]", not by -p'),
        ("DOWNLOAD", "true", "write True"),
        ("FINE_TUNE_SEARCH", "false", "write False"),
        ("EPOCHS", 0, None),
        ("FIRST_LAYER", "conv", None),
        ("DROPOUTS", ["many"], None),
    ],
)
def test_a_value_given_as_text_gets_the_hint_that_helps(name, value, hint):
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
        ("SHRINKFACTOR", "SHRINK_FACTOR"),
        ("epoch", "EPOCHS"),
        ("EPOCH", "EPOCHS"),
        ("EPOCHZ", "EPOCHS"),
        ("epochs", "EPOCHS"),
        ("Learning_Rate", "LEARNING_RATES"),
        ("dropout", "DROPOUTS"),
        ("seed", "SEED"),
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
    ("train_head", "seed"): SEEDS,
    ("grid_search", "learning_rates"): IMPOSSIBLE_SETTINGS["LEARNING_RATES"],
    ("grid_search", "dropouts"): IMPOSSIBLE_SETTINGS["DROPOUTS"],
    ("grid_search", "weight_decays"): IMPOSSIBLE_SETTINGS["WEIGHT_DECAYS"],
    ("grid_search", "epochs"): POSITIVE,
    ("grid_search", "folds"): IMPOSSIBLE_SETTINGS["FOLDS"],
    ("grid_search", "batch_size"): POSITIVE,
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


@pytest.mark.parametrize("folds", [5, 100])
def test_more_folds_than_a_class_has_photos_are_refused(doors, folds):
    with pytest.raises(ValueError, match=rf"folds is {folds}, but a class has only 4 different"):
        doors["grid_search"](folds=folds)


def test_copies_do_not_count_as_photos_when_folds_are_made(doors):
    groups = np.arange(len(LABELS))
    groups[:3] = 0  # of the four buildings, three are the same photo
    with pytest.raises(ValueError, match="folds is 3, but a class has only 2 different"):
        doors["grid_search"](folds=3, groups=groups)


def test_a_class_with_one_photo_is_refused(doors, table):
    single = table[(table["label"] != "sea") | ~table["label"].duplicated()]
    with pytest.raises(ValueError, match="a class has only 1 different photo"):
        utils.create_validation(single, 0.5)
