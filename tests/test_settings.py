"""Settings and arguments are checked before any work, and results go where they belong."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import read_table

import scenes
import scenes.classifier
import scenes.features
import scenes.grid_search
import scenes.heads
import scenes.settings
import utils

NOTEBOOK = Path(utils.__file__).with_name("intel_classification.ipynb")
NAN, INFINITY = float("nan"), float("inf")

POSITIVE = [0, -1, 2.5, 4.0, NAN, INFINITY, "4", None, True, [4]]
RATE = [0, -0.001, 1.5, NAN, INFINITY, "0.001", None, True]
SHARE = [-0.1, 1, 1.5, NAN, INFINITY, "0.1", None, True]
DECAY = [-1e-4, NAN, INFINITY, "1e-4", None, True]
LISTS = [0.1, [], (), [[0.1]], [0.1, 0.1], (0.1, 0.2, 0.1), {0.1}, "0.1", None]
SEEDS = [-1, 0.5, NAN, "0", None, True, 2**32]
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
    "SEED": SEEDS,
    "SHRINK_FACTOR": POSITIVE,
    "VALIDATION_RATIO": RATIOS,
    "LEARNING_RATES": [*LISTS, *each(RATE)],
    "DROPOUTS": [*LISTS, *each(SHARE)],
    "WEIGHT_DECAYS": [*LISTS, *each(DECAY)],
    "EPOCHS": POSITIVE,
    "FOLDS": [1, 0, -5, 2.5, NAN, "5", None, True],
    "BATCH_SIZE": POSITIVE,
    "HEAD_EPOCHS": POSITIVE,
    "RUNS": POSITIVE,
    "RUN_EPOCHS": POSITIVE,
    "FINE_TUNE_RUNS": [-1, 0.5, NAN, "1", None, True],
    "FINE_TUNE_SEARCH": [1, 0, None, "True"],
    "FIRST_LAYER": ["block_0_expand", "block_17_expand", "Conv1", "out_relu", "", None, 10, []],
    "FINE_TUNE_RATE": RATE,
    "FINE_TUNE_EPOCHS": POSITIVE,
    "LARGE_SEARCH": [1, 0, None, "True"],
    "LARGE_LEARNING_RATES": [*LISTS, *each(RATE)],
    "LARGE_DROPOUTS": [*LISTS, *each(SHARE)],
    "LARGE_WEIGHT_DECAYS": [*LISTS, *each(DECAY)],
    "LARGE_EPOCHS": POSITIVE,
}
POSSIBLE_SETTINGS = {
    "PHOTOS": [None, "photos", Path("photos")],
    "DOWNLOAD": [True, False],
    "WEIGHTS": ["imagenet", "weights.h5", None],
    "OUTPUT": [None, "out", Path("out")],
    "SEED": [0, 2**32 - 1, np.int64(3)],
    "SHRINK_FACTOR": [1, 1000, np.int32(4)],
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
    "FIRST_LAYER": ["block_1_expand", "block_16_expand", "Conv_1"],
    "FINE_TUNE_RATE": [1, 1e-9],
    "FINE_TUNE_EPOCHS": [1],
    "LARGE_SEARCH": [True, False],
    "LARGE_LEARNING_RATES": [[1], (0.1, 0.2)],
    "LARGE_DROPOUTS": [[0], [0.1, 0]],
    "LARGE_WEIGHT_DECAYS": [[10], [0, 1e-9]],
    "LARGE_EPOCHS": [1],
}


def cases(table: dict[str, list]) -> list:
    return [
        pytest.param(name, value, id=f"{name}={value!r}")
        for name, values in table.items()
        for value in values
    ]


def notebook_code(tag: str | None = None) -> str:
    """Return the code of the notebook's cells, or of those with a tag."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return "\n".join(
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and (not tag or tag in cell["metadata"].get("tags", []))
    )


# --- The settings of the notebook -----------------------------------------------------


def test_settings_are_those_of_the_notebook_in_its_order():
    namespace = {}
    exec(notebook_code("parameters"), namespace)
    del namespace["__builtins__"]
    assert list(namespace.items()) == list(scenes.settings.SETTINGS.items())


def test_settings_are_picked_out_of_the_variables_of_a_notebook():
    others = {"__name__": "__main__", "_": "1", "_EPOCHS": 3, "In": ["x"], "Out": {}, "pd": pd}
    namespace = {
        **others,
        **scenes.settings.SETTINGS,
        "EPOCHS": 7,
        "title": "a text",
        "history": [1, 2],
    }
    settings = scenes.settings.check_settings(namespace)
    assert settings == {**scenes.settings.SETTINGS, "EPOCHS": 7}
    assert list(settings) == list(scenes.settings.SETTINGS)


@pytest.mark.parametrize(("name", "value"), cases(IMPOSSIBLE_SETTINGS))
def test_an_impossible_setting_is_refused_by_name_value_and_what_is_allowed(name, value):
    told = re.escape(f"{name} is {value!r}; it must be {scenes.settings.RULES[name.lower()][0]}")
    with pytest.raises(ValueError, match=told):
        scenes.settings.check_settings({**scenes.settings.SETTINGS, name: value})


@pytest.mark.parametrize(("name", "value"), cases(POSSIBLE_SETTINGS))
def test_a_possible_setting_is_taken_as_it_is(name, value):
    assert scenes.settings.check_settings({**scenes.settings.SETTINGS, name: value})[name] is value


@pytest.mark.parametrize(
    ("name", "value"), [("LEARNING_RATES", ["1e-4"]), ("WEIGHT_DECAYS", [0.1, "1e-4"])]
)
def test_a_number_given_as_text_is_explained(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is .*YAML reads 1e-4 as text: write 0\.0001"):
        scenes.settings.check_settings({**scenes.settings.SETTINGS, name: value})


def test_a_number_given_as_a_number_gets_no_word_on_text():
    with pytest.raises(ValueError, match="EPOCHS is 0") as caught:
        scenes.settings.check_settings({**scenes.settings.SETTINGS, "EPOCHS": 0})
    assert "YAML" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SHRINK_FACTR", "SHRINK_FACTOR"),
        ("SHRINKFACTOR", "SHRINK_FACTOR"),
        ("epoch", "EPOCHS"),
        ("EPOCH", "EPOCHS"),
        ("epochs", "EPOCHS"),
        ("Learning_Rate", "LEARNING_RATES"),
        ("dropout", "DROPOUTS"),
        ("seed", "SEED"),
    ],
)
@pytest.mark.parametrize("value", [4, 0.5, "4", [4], True])
def test_a_mistyped_setting_is_named_with_what_was_meant(name, meant, value):
    with pytest.raises(ValueError, match=rf"no setting {name}; do you mean {meant}\?"):
        scenes.settings.check_settings({**scenes.settings.SETTINGS, name: value})


def test_an_unknown_setting_is_named_with_all_there_are():
    with pytest.raises(
        ValueError, match=r"no setting MOMENTUM\. There are: PHOTOS, .*FINE_TUNE_EPOCHS"
    ):
        scenes.settings.check_settings({**scenes.settings.SETTINGS, "MOMENTUM": 0.9})


def test_no_loop_of_the_notebook_leaves_a_variable_that_looks_like_a_setting():
    """Else the settings cell would refuse to run a second time in the same kernel."""
    loops = [node for node in ast.parse(notebook_code()).body if isinstance(node, ast.For)]
    names = {n.id for loop in loops for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
    assert names
    scenes.settings.check_settings({**scenes.settings.SETTINGS, **dict.fromkeys(names, 5)})


# --- Arguments ------------------------------------------------------------------------

LABELS = np.repeat(np.arange(6), 4)
FEATURES = np.ones((len(LABELS), scenes.N_FEATURES), "float32")
HYPERPARAMETERS = {"learning_rate": 0.001, "dropout": 0.1, "weight_decay": 0.001}


@pytest.fixture(scope="module")
def table():
    """Return a table of four training photos a class, all different."""
    labels = np.repeat(scenes.CLASSES, 4)
    return pd.DataFrame(
        {
            "path": [f"{number}.jpg" for number in range(len(labels))],
            "label": pd.Categorical(labels, scenes.CLASSES),
            "split": pd.Categorical(["train"] * len(labels), scenes.SPLITS),
            "digest": [f"{number:032}" for number in range(len(labels))],
            "problem": "",
        }
    )


@pytest.fixture
def doors(table, tmp_path):
    """Return each function that takes numbers, ready to be called with one more argument."""
    csv = tmp_path / "grid.csv"
    return {
        "shrink": lambda factor: utils.shrink(table, factor),
        "create_validation": lambda **kw: utils.create_validation(table, **kw),
        "build_trunk": lambda weights: scenes.features.build_trunk(weights),
        "extract_features": lambda **kw: scenes.features.extract_features(
            table, tmp_path, None, cache=tmp_path / "cache.npz", **kw
        ),
        "build_head": lambda **kw: scenes.heads.build_head(
            **{"dropout": 0, "weight_decay": 0, **kw}
        ),
        "train_head": lambda **kw: scenes.heads.train_head(
            FEATURES, LABELS, **{**HYPERPARAMETERS, **kw}
        ),
        "grid_search": lambda **kw: scenes.grid_search.grid_search(
            FEATURES, LABELS, **{"csv": csv, "folds": 2, **kw}
        ),
        "predict": lambda **kw: scenes.classifier.predict(None, tmp_path, **kw),
    }


IMPOSSIBLE_ARGUMENTS = {
    ("shrink", "factor"): POSITIVE,
    ("create_validation", "ratio"): RATIOS,
    ("create_validation", "seed"): SEEDS,
    ("build_trunk", "weights"): FOLDERS,
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


# --- The folder of the results --------------------------------------------------------


@pytest.fixture
def committed(monkeypatch, tmp_path, drawn):
    """Return a table of photos that stands for the committed one, in a folder of its own."""
    images = read_table(drawn)
    labelled = images[images["label"].notna()]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scenes.features, "load_bundled_features", lambda: (labelled, None))
    return images


def folder_of(images: pd.DataFrame, **changed: object) -> str:
    return utils.output_folder({**scenes.settings.SETTINGS, **changed}, images).as_posix()


def test_committed_settings_and_photos_write_beside_the_notebook(committed):
    assert folder_of(committed) == "."
    assert not Path("runs").exists()


def test_where_the_photos_lie_makes_no_difference(committed):
    """Nor do photos without a label, which train nothing, nor how a list is written."""
    moved = committed.assign(path="elsewhere/" + committed["path"])
    assert folder_of(moved[moved["label"].notna()], PHOTOS="elsewhere", DOWNLOAD=True) == "."
    rates = scenes.settings.SETTINGS["LEARNING_RATES"]
    same = {"LEARNING_RATES": tuple(rates), "DROPOUTS": np.array([0.1, 0.3, 0.5])}
    assert folder_of(committed, **same) == "."


def test_more_runs_and_searches_are_added_to_those_that_are_there(committed):
    changed = {"FINE_TUNE_RUNS": 3, "FINE_TUNE_SEARCH": True, "LARGE_SEARCH": True}
    assert folder_of(committed, **changed) == "."


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"EPOCHS": 3}, "epochs-3"),
        ({"SHRINK_FACTOR": 4, "SEED": 1}, "seed-1-shrink_factor-4"),
        ({"LEARNING_RATES": [0.1]}, ""),
        ({"LEARNING_RATES": np.logspace(-4, -2, 3)}, ""),
        ({"WEIGHTS": "other.h5"}, ""),
        ({"WEIGHTS": None}, "weights-None"),
    ],
)
def test_other_settings_write_to_a_folder_of_their_own(committed, changed, word):
    folder = folder_of(committed, **changed)
    assert folder.startswith(f"runs/{word}")
    assert Path(folder).is_dir()
    assert folder == folder_of(committed, **changed)


def test_different_settings_write_to_different_folders(committed):
    changes = [
        {name: value}
        for name, values in POSSIBLE_SETTINGS.items()
        for value in values
        if name not in ("PHOTOS", "DOWNLOAD", "OUTPUT", "FINE_TUNE_RUNS")
        and not name.endswith("_SEARCH")
        and np.asarray(value).tolist() != scenes.settings.SETTINGS[name]
    ]
    folders = {folder_of(committed, **changed) for changed in changes}
    assert len(folders) == len(changes) > 20


@pytest.mark.parametrize("change", ["one photo less", "other pixels", "other label", "other split"])
def test_other_photos_write_to_a_folder_of_their_own(committed, change):
    other = committed.copy()
    if change == "one photo less":
        other = other.iloc[1:]
    elif change == "other pixels":
        other.loc[0, "digest"] = "0" * 32
    elif change == "other label":
        other.loc[0, "label"] = "street"
    else:
        other.loc[0, "split"] = "test"
    assert folder_of(other).startswith("runs/photos-")
    assert folder_of(other) != folder_of(other.iloc[1:])


def test_output_is_taken_at_its_word(committed, tmp_path):
    output = tmp_path / "a" / "b"
    assert folder_of(committed, OUTPUT=str(output), EPOCHS=3) == output.as_posix()
    assert output.is_dir()
