"""The committed notebook keeps its promises, and runs with photos and without."""

import ast
import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pandas as pd
import pytest
from clean_notebook import clean, main
from conftest import draw
from PIL import Image

import scenes
import scenes.classifier
import scenes.features
import scenes.photos
import scenes.settings
import utils

ROOT = Path(__file__).parents[1]
NOTEBOOK = "intel_classification.ipynb"
IMAGE_SUFFIXES = scenes.photos.PHOTO_SUFFIXES | {".svg", ".pdf", ".ico"}
PLOTLY = "application/vnd.plotly.v1+json"
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/:-])/(home|root|work|tmp|mnt|opt|usr|var|Users)/|\b[A-Z]:\\")

FINE_TUNING = (
    "fine_tuning.csv",
    "fine_tuning_search.csv",
    "fine_tuning_mirrored.csv",
    "fine_tuning_predictions.csv",
)

OTHER_RESULTS = (*FINE_TUNING, "grid_search_large.csv")  # which a run may lack, and then shows

# Settings with which a run is a matter of seconds.
SMALL = {
    "SHRINK_FACTOR": 40,
    "LEARNING_RATES": [0.001, 0.005],
    "DROPOUTS": [0.2],
    "WEIGHT_DECAYS": [0.0001, 0.01],
    "EPOCHS": 2,
    "FOLDS": 2,
    "HEAD_EPOCHS": 2,
    "RUNS": 2,
    "RUN_EPOCHS": 2,
    "LARGE_LEARNING_RATES": [0.0005, 0.001],
    "LARGE_DROPOUTS": [0.0, 0.3],
    "LARGE_WEIGHT_DECAYS": [0.0, 0.001],
    "LARGE_EPOCHS": 3,
    "FIRST_LAYER": "block_16_expand",
    "FINE_TUNE_EPOCHS": 1,
}


# --- Looking into a notebook ----------------------------------------------------------


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def streams(notebook):
    return [output for output in outputs(notebook) if output.output_type == "stream"]


def bundles(notebook):
    """Return the outputs that show something, each with its forms by MIME type."""
    return [output.data for output in outputs(notebook) if "data" in output]


def text(notebook):
    """Return all that the outputs say, without the numbers in the figures."""
    said = [stream.text for stream in streams(notebook)]
    shown = [v for data in bundles(notebook) for k, v in data.items() if k.startswith("text/")]
    return "\n".join(said + shown)


def called_in(cell, function):
    """Return the calls of a helper in a code cell."""
    return [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == function
    ]


def figures(notebook):
    """Return the output of each figure by the name under which it is saved."""
    return {
        call.args[1].value: next((o.data for o in cell.outputs if PLOTLY in o.get("data", {})), {})
        for cell in code_cells(notebook)
        for call in called_in(cell, "save_figure")
    }


def numbers_of(array):
    """Return a plotly array, which may be packed in base64."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])
    return np.array(array, dtype=float)


def images_without_figure(notebook):
    return [
        data
        for data in bundles(notebook)
        if any(kind.startswith("image/") for kind in data) and PLOTLY not in data
    ]


# --- Cleaning -------------------------------------------------------------------------


@pytest.fixture
def untidy():
    """Return a notebook with a photo, progress bars and times of execution."""
    stream = nbformat.v4.new_output
    photo = nbformat.v4.new_output("display_data", {"image/png": "cGhvdG8="})
    bar = [
        stream("stream", name="stdout", text="\rTraining:   0%|     | 0/2"),
        stream("stream", name="stdout", text="\rTraining: 100%|#####| 2/2"),
        stream("stream", name="stdout", text="\r                         \r"),
    ]
    said = stream("stream", name="stdout", text="92.40% of the photos\n")
    tags = {"tags": ["photos"], "papermill": {"duration": 1.5}, "execution": {"iopub.status": "t"}}
    cells = [
        nbformat.v4.new_code_cell("show()", execution_count=1, outputs=[photo], metadata=tags),
        nbformat.v4.new_code_cell("train()", execution_count=2, outputs=bar, metadata={"tags": []}),
        nbformat.v4.new_code_cell("say()", execution_count=3, outputs=[*bar, said]),
    ]
    return nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"start_time": "today"}})


def test_cleaning_removes_photos_progress_bars_and_times(untidy):
    before = json.dumps(untidy)
    cleaned = clean(untidy)
    shown, trained, said = cleaned.cells
    assert (shown.outputs, shown.execution_count) == ([], 1)
    assert shown.metadata == {"tags": ["photos"]}
    assert (trained.outputs, trained.metadata) == ([], {})
    assert [output.text for output in said.outputs] == ["92.40% of the photos\n"]
    assert cleaned.metadata == {}
    assert json.dumps(untidy) == before, "the notebook given is left as it is"


def test_cleaning_twice_is_cleaning_once(untidy, tmp_path):
    path = tmp_path / "notebook.ipynb"
    nbformat.write(untidy, path)
    main(path)
    once = path.read_bytes()
    main(path)
    assert path.read_bytes() == once
    assert nbformat.read(path, as_version=4) == clean(untidy)
    assert list(tmp_path.iterdir()) == [path]


# --- The committed notebook -----------------------------------------------------------


@pytest.fixture(scope="session")
def committed():
    return nbformat.read(ROOT / NOTEBOOK, as_version=4)


def test_cells_were_run_once_from_top_to_bottom(committed):
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1))


def test_nothing_failed_and_nothing_warned(committed):
    assert [output for output in outputs(committed) if output.output_type == "error"] == []
    assert [stream.text for stream in streams(committed) if stream.name == "stderr"] == []
    assert not re.search("warning|deprecated", text(committed), re.IGNORECASE)


def test_notebook_was_cleaned(committed):
    assert clean(committed) == committed, f"run tests/clean_notebook.py {NOTEBOOK}"


def test_each_cell_that_shows_photos_is_tagged(committed):
    shows = [c.id for c in code_cells(committed) if re.search(r"show_(images|worst)\(", c.source)]
    tagged = [c.id for c in code_cells(committed) if "photos" in c.metadata.get("tags", ())]
    assert shows == tagged != []


def test_each_image_is_the_still_form_of_a_plotly_figure(committed):
    assert images_without_figure(committed) == []
    shown = figures(committed)
    assert shown
    for name, data in shown.items():
        assert {PLOTLY, "image/png"} <= data.keys(), f"{name} needs both forms"
        with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
            assert image.width == data[PLOTLY]["layout"]["width"], "JupyterLab would cut it off"
    assert sum(PLOTLY in data for data in bundles(committed)) == len(shown)
    assert not any("attachments" in cell for cell in committed.cells)


def test_each_figure_is_also_a_file_and_an_image(committed):
    folder = ROOT / "plotly_plots"
    names = figures(committed)
    drawn = {*names, "search_growth"}  # the last one by benchmark.py
    expected = {f"{name}.{suffix}" for name in drawn for suffix in ("html", "png")}
    assert {path.name for path in folder.iterdir()} == expected | {"plotly.min.js"}
    for name, data in names.items():
        image = base64.b64decode(data["image/png"])
        assert (folder / f"{name}.png").read_bytes() == image, f"{name} is of another run"
        page = (folder / f"{name}.html").read_text("utf-8").replace(r"\u002f", "/")
        for packed in re.findall(r'"bdata": "([^"]+)"', json.dumps(data[PLOTLY]["data"])):
            assert packed in page, f"{name} is of another run"


def test_notebook_is_small_enough_to_be_shown_on_the_web():
    assert (ROOT / NOTEBOOK).stat().st_size < 5_000_000


def test_no_output_is_a_dead_widget(committed):
    assert [kind for data in bundles(committed) for kind in data if "widget" in kind] == []
    assert "widgets" not in committed.metadata


def test_no_path_of_the_machine_that_ran_it(committed):
    told = [cell.source for cell in committed.cells] + [text(committed)]
    found = [line for part in told for line in part.split("\n") if ABSOLUTE_PATH.search(line)]
    assert found == []


def test_numbers_in_the_text_are_those_of_grid_search_csv(committed):
    results = pd.read_csv(ROOT / "grid_search.csv")
    settings = scenes.settings.SETTINGS
    sizes = [len(settings[name]) for name in ("LEARNING_RATES", "DROPOUTS", "WEIGHT_DECAYS")]
    assert len(results) == np.prod(sizes) * settings["FOLDS"] * settings["EPOCHS"]
    best, said = utils.best_hyperparameters(results), text(committed)
    for words in (
        f"learning rate **{best['learning_rate']:g}**",
        f"dropout **{best['dropout']:g}**",
        f"weight decay **{best['weight_decay']:g}**",
        f"**{best['val_accuracy']:.2%}** at epoch {best['epoch']}",
        f"{100 * best['behind']:.2f} points behind",
    ):
        assert words in said


@pytest.fixture(scope="session")
def large():
    """Return the committed results of the large search: the kept epochs, and the best ones."""
    kept = pd.read_csv(ROOT / "grid_search_large.csv")
    best = kept[kept["kept"] == "best"]
    return kept[kept["kept"] != "best"], best.sort_values("val_accuracy", ascending=False)


def test_the_large_search_is_that_of_the_settings(large):
    at_epochs, best = large
    assert (ROOT / "grid_search_large.csv").stat().st_size < 1_000_000
    grid = pd.MultiIndex.from_product(
        scenes.settings.SETTINGS[f"LARGE_{name.upper()}S"] for name in scenes.HYPERPARAMETERS
    )
    assert sorted(best.set_index(scenes.HYPERPARAMETERS).index) == sorted(grid)
    assert len(grid) == 512
    for _, rows in at_epochs.groupby(scenes.HYPERPARAMETERS):
        assert list(rows["epoch"]) == [10, 25, 50, scenes.settings.SETTINGS["LARGE_EPOCHS"]]


def test_numbers_of_the_large_search_are_those_of_its_file(committed, large):
    at_epochs, best = large
    chosen, said = best.iloc[0], text(committed)
    rates = at_epochs.pivot_table("val_accuracy", "learning_rate", "epoch", "max")
    for words in (
        "The best of 512 settings is ",
        f"learning rate **{chosen['learning_rate']:g}**, dropout **{chosen['dropout']:g}**",
        f"weight decay **{chosen['weight_decay']:g}**, with **{chosen['val_accuracy']:.2%}**",
        *(f"{rates[n].idxmax():g} after {n} epochs ({rates[n].max():.2%})" for n in rates),
        f"**{(best['behind'] <= 2 * best['noise']).sum()}** of the 512 settings",
        f"{100 * best['noise'].iloc[1:].median():.2f} points (median)",
    ):
        assert words in said


def test_sentences_on_the_large_search_say_what_its_file_holds(committed, large):
    at_epochs, best = large
    rates = at_epochs.pivot_table("val_accuracy", "learning_rate", "epoch", "max")
    favourites = rates.idxmax()
    assert favourites.is_monotonic_decreasing, "the more epochs, the smaller the learning rate"
    assert favourites.nunique() > 1
    gain = 100 * (rates.max()[100] - rates.max()[25])
    noise = 100 * best["noise"].iloc[1:].median()
    assert round(gain, 1) == round(noise, 1) == 0.1, "a tenth of a point, as the noise"
    top = best["val_accuracy"].max()
    for name, low, high in (("dropout", 0.1, 0.5), ("weight_decay", 0, 0.003)):
        alike = best.groupby(name)["val_accuracy"].max()[low:high]
        assert len(alike) > 3
        assert alike.min() > top - 0.001, "within a tenth of a point of the best"
    chance = re.search(r"on as many photos, (\d+)% are as far apart", text(committed))
    assert int(chance[1]) > 5, "no better on the test photos"


def test_accuracy_is_what_these_features_allow(committed):
    """Its interval holds the 92.3% of scikit-learn's logistic regression on these features."""
    found = re.search(
        r"tested on 3,000: .* interval (\d\d\.\d\d)% to (\d\d\.\d\d)%\)", text(committed)
    )
    low, high = map(float, found.groups())
    assert low < 92.3 < high


@pytest.fixture(scope="session")
def fine_tuned():
    """Return the committed predictions of the fine-tuned runs, and which are right."""
    predictions = pd.read_csv(ROOT / "fine_tuning_predictions.csv")
    chances = predictions[list(scenes.CLASSES)]
    return predictions, chances.idxmax(axis=1) == predictions["label"]


def test_fine_tuned_runs_predict_all_test_photos(fine_tuned):
    predictions, _ = fine_tuned
    images, _ = scenes.features.load_bundled_features()
    tests = images[images["split"] == "test"]
    for _, rows in predictions.groupby("run"):
        assert list(rows["path"]) == list(tests["path"])
        assert list(rows["label"]) == list(tests["label"])
    assert list(predictions["run"].unique()) == [1, 2, 3]


def test_numbers_of_fine_tuning_are_those_of_its_files(committed, fine_tuned):
    predictions, right = fine_tuned
    by_run, said = right.groupby(predictions["run"]).mean(), text(committed)
    assert f"**{by_run.mean():.2%} ± {by_run.std():.2%}**" in said
    assert f"The file of run 1: **{by_run[1]:.2%} (" in said
    first = predictions[predictions["run"] == 1]
    predicted = first[list(scenes.CLASSES)].idxmax(axis=1)
    for pair in (["glacier", "mountain"], ["buildings", "street"]):
        confused = first["label"].isin(pair) & predicted.isin(pair) & (predicted != first["label"])
        assert f"{pair[0]} and {pair[1]} confused: " in said
        assert re.search(
            rf"{pair[0]} and {pair[1]} confused: \d+ .*, {confused.sum()} deeper", said
        )


def test_validation_chose_the_settings_of_the_fine_tuning():
    """No other one is better by more than the standard error of an accuracy on 2,807 photos."""
    search = pd.read_csv(ROOT / "fine_tuning_search.csv")
    last = search.groupby("run").last()
    chosen = last.iloc[-1]
    settings = scenes.settings.SETTINGS
    assert chosen["first_layer"] == settings["FIRST_LAYER"]
    assert chosen["learning_rate"] == pytest.approx(settings["FINE_TUNE_RATE"])
    assert chosen["epochs"] == chosen["epoch"] == settings["FINE_TUNE_EPOCHS"]
    top = last["val_accuracy"].max()
    assert chosen["val_accuracy"] > top - np.sqrt(top * (1 - top) / 2807)
    histories = pd.read_csv(ROOT / "fine_tuning.csv")
    assert list(histories["run"].unique()) == [0, 1, 2, 3]
    same = search[search["run"] == last.index[-1]].reset_index()
    for name in scenes.METRICS:
        assert list(histories.loc[histories["run"] == 0, name]) == list(same[name])


def test_sentences_on_fine_tuning_say_what_its_files_hold(committed, fine_tuned):
    last = pd.read_csv(ROOT / "fine_tuning_search.csv").groupby("run").last()
    accuracy = last["val_accuracy"]
    error = np.sqrt(accuracy.max() * (1 - accuracy.max()) / 2807)
    assert accuracy.max() - accuracy.min() < error, "within one standard error of each other"
    comparable = last[last["label_smoothing"] == last["label_smoothing"].iloc[-1]]
    assert comparable["val_loss"].idxmin() == last.index[-1], "the lowest validation loss"
    assert len(comparable) == 4

    plain, mirrored = pd.read_csv(ROOT / "fine_tuning_mirrored.csv").to_dict("records")
    assert plain["val_accuracy"] < mirrored["val_accuracy"], "it pays a little"
    assert plain["val_log_loss"] > mirrored["val_log_loss"]

    history = pd.read_csv(ROOT / "fine_tuning.csv").query("run == 0")
    assert history["accuracy"].iloc[-1] > 0.96, "known almost by heart"
    gains = history["val_accuracy"].diff().dropna()
    assert (gains > 0).all(), "validation still gains"
    assert gains.is_monotonic_decreasing, "though less and less"

    head, deeper = (
        float(re.search(r"[\d.]+$", line["name"])[0])
        for line in figures(committed)["calibration"][PLOTLY]["data"][1:]
    )
    assert head < 0.02 < deeper, "the head means what it says"
    predictions, right = fine_tuned
    first = predictions["run"] == 1
    confidence = predictions.loc[first, list(scenes.CLASSES)].max(axis=1)
    assert right[first].mean() > confidence.mean() + 0.02, "right more often than it says"


def test_titles_and_sentences_say_what_the_figures_show(committed):
    data = {name: shown[PLOTLY]["data"] for name, shown in figures(committed).items()}

    counts = sum(numbers_of(bars["y"]) for bars in data["photo_counts"])
    assert counts.max() < 1.2 * counts.min(), "the classes are of similar size"

    cells = [
        [int(cell.split("<")[0]) for cell in row] for row in data["confusion_matrix"][0]["text"]
    ]
    confused = pd.DataFrame(np.triu(np.array(cells) + np.transpose(cells), 1))
    confused = confused.set_axis(scenes.CLASSES).set_axis(scenes.CLASSES, axis=1).stack()
    assert set(confused.nlargest(2).index) == {("glacier", "mountain"), ("buildings", "street")}

    training, validation = (
        numbers_of(line["y"])
        for kind in ("training", "validation")
        for line in data["head_training"]
        if line.get("name") == kind and line["yaxis"] == "y2"
    )
    half = len(training) // 2
    gain = training[-1] - training[half], validation[-1] - validation[half]
    assert gain[0] > gain[1], "validation levels off while training goes on"
    assert validation[-1] > validation.max() - 0.01, "more epochs do no harm"

    images, _ = scenes.features.load_bundled_features()
    found = set(utils.audit_images(images)["finding"])
    assert {"duplicate", "two labels", "two splits"} <= found, "the text says so"
    assert f"{scenes.features.BUNDLED_FEATURES.stat().st_size / 2**20:.0f} MB" in "".join(
        cell.source for cell in committed.cells
    )


def test_no_photo_is_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    images = [n for n in listed.split("\0") if Path(n).suffix.lower() in IMAGE_SUFFIXES]
    assert [name for name in images if not re.fullmatch(r"plotly_plots/\w+\.png", name)] == []


def test_readme_gives_the_figures_of_the_notebook(committed):
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README.md yet")
    rows = [
        line.strip("| \n").split("|")
        for line in readme.read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    header, figures_given = [], []
    for row in rows:
        header = header if len(header) == len(row) else row
        if "2020" not in row[0]:
            ours = [c for name, c in zip(header, row, strict=True) if "2020" not in name]
            figures_given += re.findall(r"\d+\.\d\d ?%", " ".join(ours))
    assert figures_given, "the results table has accuracies with two decimals"
    said = text(committed)
    assert [figure for figure in figures_given if figure.replace(" ", "") not in said] == []


# --- A run with small settings --------------------------------------------------------


class Run(NamedTuple):
    folder: Path
    results: Path
    notebook: nbformat.NotebookNode


def copy_project(folder):
    """Copy what a run needs, with stand-ins for the committed results."""
    for name in (NOTEBOOK, "utils.py", "features.npz", *OTHER_RESULTS):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "scenes", folder / "scenes")
    (folder / "grid_search.csv").write_text("committed")
    (folder / "plotly_plots").mkdir()
    (folder / "plotly_plots" / "grid_search.html").write_text("committed")
    return folder


def environment(**variables):
    """Return the environment without photos, in which python3 is this interpreter."""
    variables |= {"JUPYTER_PREFER_ENV_PATH": "1"}
    return {k: v for k, v in os.environ.items() if k != "INTEL_PHOTOS"} | variables


def run_papermill(folder, settings, **variables):
    """Run the notebook as the README says; return the finished process."""
    command = [sys.executable, "-m", "papermill", NOTEBOOK, "run.ipynb", "--no-progress-bar"]
    for name, value in settings.items():
        plain = not isinstance(value, list)
        command += ["-p", name, str(value)] if plain else ["-y", f"{name}: {value}"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=900,
    )


def run_notebook(folder, settings, results="runs/*", **variables):
    process = run_papermill(copy_project(folder), settings, **variables)
    assert process.returncode == 0, process.stderr[-3000:]
    [results] = folder.glob(results)
    return Run(folder, results, nbformat.read(folder / "run.ipynb", as_version=4))


@pytest.fixture(scope="session")
def run_on_features(tmp_path_factory):
    return run_notebook(tmp_path_factory.mktemp("features"), SMALL)


@pytest.fixture(scope="session")
def run_on_drawn_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    photos = draw_photos(folder / "drawn")
    settings = {"PHOTOS": photos, "WEIGHTS": None, "OUTPUT": "results", "SHRINK_FACTOR": 1}
    settings |= {"FINE_TUNE_RUNS": 2, "FINE_TUNE_SEARCH": True, "LARGE_SEARCH": True}
    return run_notebook(folder, SMALL | settings, "results")


@pytest.fixture(scope="session")
def run_on_photos(tmp_path_factory, real_photos, imagenet_trunk):
    folder = tmp_path_factory.mktemp("photos")
    return run_notebook(folder, SMALL, INTEL_PHOTOS=str(real_photos.resolve()))


@pytest.fixture(
    params=["features", "drawn_photos", pytest.param("photos", marks=pytest.mark.photos)]
)
def run(request):
    return request.getfixturevalue(f"run_on_{request.param}")


def draw_photos(folder):
    """Draw a data set in Kaggle's layout, large enough for all that the notebook does."""
    counts = {f"seg_train/seg_train/{label}": 24 for label in scenes.CLASSES}
    counts |= {f"seg_test/seg_test/{label}": 4 for label in scenes.CLASSES}
    seeds = itertools.count()
    for place, count in (counts | {"seg_pred/seg_pred": 5}).items():
        (folder / place).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw(next(seeds))).save(folder / place / f"{number}.jpg")
    return folder


def test_run_succeeds_without_noise(run):
    test_nothing_failed_and_nothing_warned(run.notebook)
    test_cells_were_run_once_from_top_to_bottom(run.notebook)


def test_run_writes_its_results_to_a_folder_of_its_own(run):
    results = pd.read_csv(run.results / "grid_search.csv")
    assert len(results) == 2 * 1 * 2 * SMALL["FOLDS"] * SMALL["EPOCHS"]
    plots = {path.name for path in (run.results / "plotly_plots").iterdir()}
    assert {f"{name}.html" for name in figures(run.notebook)} | {"plotly.min.js"} <= plots
    for name in ("grid_search.csv", "plotly_plots/grid_search.html"):
        assert (run.folder / name).read_text() == "committed"


def test_run_shows_each_figure_in_both_forms_or_says_why_not(run):
    for data in figures(run.notebook).values():
        assert PLOTLY in data
        assert ("image/png" in data) != ("No PNGs" in text(run.notebook))


def test_cleaned_run_holds_no_photo_and_no_progress_bar(run):
    cleaned = clean(run.notebook)
    assert images_without_figure(cleaned) == []
    assert [s.text for s in streams(cleaned) if re.search(r"\r|\d+%\||[█▏]", s.text)] == []


def test_cells_of_photos_show_them_or_say_what_they_would_show(run):
    with_photos = (run.results / "intel_classifier.keras").exists()
    for cell in code_cells(run.notebook):
        if "photos" in cell.metadata.get("tags", ()):
            [output] = cell.outputs
            if with_photos:
                assert "image/png" in output.data
            else:
                assert re.fullmatch(r"With the photos, this cell .*\.\n", output.text)


def test_a_run_on_photos_writes_what_fine_tuning_gave(run_on_drawn_photos):
    results, epochs = run_on_drawn_photos.results, SMALL["FINE_TUNE_EPOCHS"]
    histories, search, mirrored, predictions = (pd.read_csv(results / name) for name in FINE_TUNING)
    assert list(histories["run"]) == list(np.repeat([0, 1, 2], epochs))
    assert list(histories["val_loss"].isna()) == list(np.repeat([False, True, True], epochs))
    assert search["run"].nunique() == 5
    assert mirrored["val_accuracy"][0] == pytest.approx(histories["val_accuracy"][epochs - 1])
    assert list(predictions["run"]) == list(np.repeat([1, 2], 24))
    np.testing.assert_allclose(predictions[list(scenes.CLASSES)].sum(axis=1), 1, atol=0.001)
    for run, rows in predictions.groupby("run"):
        classifier = scenes.classifier.load_classifier(
            results / f"intel_classifier_deeper_{run}.keras"
        )
        paths = run_on_drawn_photos.folder / "drawn" / rows["path"]
        again = scenes.classifier.predict(classifier, list(paths))[list(scenes.CLASSES)]
        np.testing.assert_allclose(again, rows[list(scenes.CLASSES)], atol=1e-4)


def test_a_large_search_leaves_its_condensed_results(run_on_drawn_photos):
    results = run_on_drawn_photos.results
    histories = pd.read_csv(results / "grid_search_large_histories.csv")
    kept = pd.read_csv(results / "grid_search_large.csv")
    assert len(histories) == 2 * 2 * 2 * SMALL["FOLDS"] * SMALL["LARGE_EPOCHS"]
    assert list(kept["kept"].value_counts()[["3", "best"]]) == [8, 8]
    means = histories.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"].mean()
    shown = kept.set_index([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"]
    np.testing.assert_allclose(shown, means[shown.index], atol=1e-6)


def test_what_is_not_run_is_shown_as_committed(run_on_features, committed):
    assert not any((run_on_features.results / name).exists() for name in OTHER_RESULTS)
    for name in OTHER_RESULTS:
        assert (run_on_features.folder / name).read_bytes() == (ROOT / name).read_bytes()
    for name in ("fine_tuning", "grid_search_large_epochs"):
        shown = figures(run_on_features.notebook)[name][PLOTLY]["data"]
        assert shown == figures(committed)[name][PLOTLY]["data"]


def test_only_a_run_on_photos_saves_the_classifier(run_on_features, run_on_drawn_photos):
    assert not (run_on_features.results / "intel_classifier.keras").exists()
    assert (run_on_drawn_photos.results / "intel_classifier.keras").exists()


@pytest.mark.photos
def test_photos_and_bundled_features_give_the_same_results(run_on_photos, run_on_features):
    images, bundled = scenes.features.load_bundled_features()
    computed_images, computed = scenes.features.load_bundled_features(
        run_on_photos.folder / ".cache" / "features.npz"
    )
    rows = images.drop_duplicates("digest").reset_index().set_index("digest")["index"]
    same_features = np.array_equal(computed, bundled[rows[computed_images["digest"]]])
    csv, csv_on_features = (
        run.results / "grid_search.csv" for run in (run_on_photos, run_on_features)
    )
    if same_features:
        assert csv.read_bytes() == csv_on_features.read_bytes()
    else:  # another processor rounds some features to the next step
        np.testing.assert_allclose(pd.read_csv(csv), pd.read_csv(csv_on_features), atol=0.02)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"SHRINK_FACTR": 4}, "there is no setting SHRINK_FACTR; do you mean SHRINK_FACTOR?"),
        ({"LEARNING_RATES": ["1e-4"]}, "LEARNING_RATES is ['1e-4']"),
    ],
)
def test_wrong_setting_stops_the_first_cells_by_name(setting, named, tmp_path):
    process = run_papermill(copy_project(tmp_path), setting)
    assert process.returncode != 0
    assert named in process.stderr
    cells = code_cells(nbformat.read(tmp_path / "run.ipynb", as_version=4))
    assert sum(cell.execution_count is not None for cell in cells) <= 4
    assert not (tmp_path / "runs").exists()
