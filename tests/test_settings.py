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
PROJECT = NOTEBOOK.parent
# Of each rule one setting: what it cannot and what it can be.
RULES = {
    "PHOTOS": ([5, "", True, ["photos"]], [None, "photos", Path("photos")]),
    "CACHE": ([None, "", PROJECT, f"{PROJECT}/tests/.."], ["cache", Path("cache")]),
    "DOWNLOAD": ([1, None, "True"], [True, False]),
    "SEED": ([-1, 0.5, "0", None, True, 4 * 10**9 + 1], [0, 4 * 10**9, np.int64(3)]),
    "EPOCHS": ([0, 4.0, INFINITY, [4]], [1, 10**6]),
    "FOLDS": ([1, True], [2, 100]),
    "TEST_RATIO": ([0, 0.51, NAN, "0.2", None, True], [0.5, 0.001, np.float32(0.25)]),
    "LABEL_SMOOTHING": ([-0.1, 1], [0, 0.9]),
    "LEARNING_RATES": (
        [
            0.1,
            [],
            [[0.1]],
            [0.1, 0.1],
            {0.1},
            "0.1",
            None,
            [0.01, 0],
            [1.5],
            [NAN],
            [True],
        ],
        [[1], [1e-9], (0.1, 0.2), np.logspace(-4, -2, 3)],
    ),
    "DROPOUTS": ([[0.0, -0.0], [1]], [[0], [0.999], [0.1, 0]]),
    "WEIGHT_DECAYS": ([[-1e-4], [INFINITY]], [[0], [10], [0, 1e-9]]),
    "FINE_TUNE_RATES": ([(), [2]], [[], [1e-9, 1]]),
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


# --- The settings of the notebook -----------------------------------------------------


def test_the_settings_of_the_notebook_are_those_of_the_rules():
    assert set(SETTINGS) == {name.upper() for name in scenes.settings.RULES}
    assert scenes.settings.check_settings(dict(SETTINGS)) == SETTINGS


def test_settings_are_picked_out_of_the_variables_of_a_notebook():
    """A reader's own variables may have any name."""
    own = {
        "N": 10,
        "photo": "a.jpg",
        "EPOCH": 3,
        "dropout": 0.1,
        "In": ["x"],
        "Out": {},
        "pd": pd,
    }
    settings = scenes.settings.check_settings({**own, **SETTINGS, "EPOCHS": 7})
    assert settings == {**SETTINGS, "EPOCHS": 7}
    with pytest.raises(ValueError, match="the setting EPOCHS is missing"):
        scenes.settings.check_settings(
            {k: v for k, v in SETTINGS.items() if k != "EPOCHS"}
        )


def test_a_home_folder_is_found_in_each_path(monkeypatch, tmp_path):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    paths = dict.fromkeys(("PHOTOS", "CORRECTIONS", "WEIGHTS", "OUTPUT"), "~/here")
    namespace = {**SETTINGS, **paths, "CACHE": Path("~/here")}
    settings = scenes.settings.pick(namespace)
    for name in (*paths, "CACHE"):
        assert settings[name] == namespace[name] == str(tmp_path / "here")


@pytest.mark.parametrize(("name", "value"), cases(0))
def test_an_impossible_setting_is_refused_by_name_value_and_what_is_allowed(
    name, value
):
    told = re.escape(
        f"{name} is {value!r}; it must be {scenes.settings.RULES[name.lower()][0]}"
    )
    with pytest.raises(ValueError, match=told):
        scenes.settings.check_settings({**SETTINGS, name: value})
    assert not Path(".cache").exists()


@pytest.mark.parametrize(("name", "value"), cases(1))
def test_a_possible_setting_is_taken_as_it_is(name, value):
    assert scenes.settings.pick({**SETTINGS, name: value})[name] is value


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("LEARNING_RATES", ["1e-4"], "YAML reads 1e-4 as text, too: write 0.0001"),
        ("LEARNING_RATES", "[0.001]", 'by -y "LEARNING_RATES: [0.001]", not by -p'),
        ("DOWNLOAD", "true", "write True"),
        (
            "PHOTOS",
            2024,
            "write it in quotes; papermill takes it by -r PHOTOS 2024, not by -p",
        ),
        ("EPOCHS", 0, ""),
        ("DROPOUTS", ["many"], ""),
    ],
)
def test_a_value_of_another_type_gets_the_hint_that_helps(name, value, hint):
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        scenes.settings.check_settings({**SETTINGS, name: value})
    assert hint in str(caught.value)
    assert ("(" in str(caught.value)) == (hint != "")


def injected(**values: object) -> dict:
    """Return the variables of a notebook that papermill was given these values for."""
    lines = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    cells = ["", "EPOCHS = 25", f"# Parameters\n{lines}", "check_settings(globals())"]
    return {**SETTINGS, **values, "In": cells}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("SHRINK_FACTR", "SHRINK_FACTOR"), ("Learning_Rate", "LEARNING_RATES")],
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
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("EPOCHS = 25")]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    notebook.metadata["papermill"] = {}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    given = papermill.parameterize.parameterize_notebook(
        notebook, {"EPOCH": 3, "SEED": [1]}
    )
    sources = [cell["source"] for cell in given.cells]
    found = scenes.settings._from_papermill(
        {"In": [*sources, "check_settings(globals())"]}
    )
    assert found == {"EPOCH": 3, "SEED": [1]}


OWN_CELLS = ["%matplotlib inline\nn = 3", "a, b = 1, 2", "d['x'] = 1", "self.x = 1"]
OWN_CELLS += ["epoch: int = 3", "epoch += 3", "epoch = len(d)", "show(epoch)"]


@pytest.mark.parametrize("cell", OWN_CELLS)
def test_a_readers_cell_called_parameters_does_no_harm(cell, capsys):
    cells = [
        "# Parameters\nepoch = 3",
        f"# Parameters\n{cell}",
        "check_settings(globals())",
    ]
    assert scenes.settings.check_settings({**SETTINGS, "In": cells}) == SETTINGS
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cache", ["file", "file/cache", "disk", "disk/cache"])
def test_a_cache_that_cannot_be_written_to_is_refused_at_once(cache, small_disk):
    Path("file").touch()
    small_disk[1]()
    with pytest.raises(
        ValueError, match=rf"^CACHE is '{cache}'; .* can be written to.*\(\[Errno"
    ):
        scenes.settings.check_settings({**SETTINGS, "CACHE": cache})


def test_corrections_that_cannot_be_read_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"^CORRECTIONS is 'none.csv'; it must be .* \(\[Errno"
    ):
        scenes.settings.check_settings({**SETTINGS, "CORRECTIONS": "none.csv"})
    Path("labels.csv").touch()
    given = {**SETTINGS, "CORRECTIONS": Path("labels.csv")}
    assert scenes.settings.check_settings(given) == given


def test_weights_that_are_not_those_of_the_base_model_are_refused_at_once(
    classifier, recwarn
):
    Path("text.h5").write_text("a letter")
    classifier.save_weights("whole.weights.h5")
    recwarn.clear()
    for file in ("none.h5", "text.h5", "whole.weights.h5"):
        told = f"^WEIGHTS is '{file}'; it must be 'imagenet', None or"
        with pytest.raises(ValueError, match=told):
            scenes.settings.check_settings({**SETTINGS, "WEIGHTS": file})
    assert not recwarn.list


def test_weights_of_the_base_model_are_taken(random_base_model):
    random_base_model.save_weights("own.weights.h5")
    given = {**SETTINGS, "WEIGHTS": Path("own.weights.h5")}
    assert scenes.settings.check_settings(given) == given


# --- Arguments ------------------------------------------------------------------------

DATA = [
    np.ones((24, scenes.base_model.N_FEATURES), "float32"),
    np.repeat(np.arange(6), 4),
]
DECAY = {"dropout": 0.1, "weight_decay": 0.001}
ONE = DECAY | {"learning_rate": 0.001, "epochs": 1}
GRID = {
    "learning_rates": [0.1],
    "dropouts": [0.1],
    "weight_decays": [0.1],
    "epochs": 1,
    "folds": 2,
}


def test_an_impossible_argument_is_refused_before_any_work(table, tmp_path):
    training = {"epochs": 0, "batch_size": 0, "class_weight": "all", "seed": -1}
    head = {"dropout": 1, "weight_decay": -1}
    # a function, what it is given, by position and by name, and what is impossible
    rows = [
        (utils.shrink, [table], {}, {"factor": 0}),
        (utils.create_validation, [table], {}, {"ratio": 0.51, "seed": -1}),
        (
            scenes.features.extract_features,
            [table, None],
            {"cache": tmp_path / "cache.npz"},
            {"batch_size": 0},
        ),
        (scenes.heads.build_head, [scenes.base_model.N_FEATURES, 6], DECAY, head),
        (scenes.heads.train_head, DATA, ONE, training | head | {"learning_rate": 0}),
        (
            scenes.grid_search.grid_search,
            DATA,
            GRID | {"csv": tmp_path / "grid.csv"},
            training
            | {"learning_rates": 0, "dropouts": [1], "weight_decays": [], "folds": 1},
        ),
        (scenes.classifier.predict, [None, tmp_path], {}, {"batch_size": 0}),
    ]
    for function, given, named, impossible in rows:
        for name, value in impossible.items():
            with pytest.raises(
                ValueError, match=re.escape(f"{name} is {value!r}; it must be ")
            ):
                function(*given, **named | {name: value})
    assert not any(tmp_path.iterdir())
