"""The committed notebook keeps its promises, and runs with photos and without."""

import ast
import base64
import dataclasses
import functools
import importlib.metadata
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import nbformat
import numpy as np
import pandas as pd
import pytest
from clean_notebook import WITHOUT_PHOTOS, clean, main, tidy
from conftest import CLASSES, ROOT, draw, held_out
from nbconvert import PythonExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from numpy.testing import assert_allclose
from PIL import Image

import scenes.__main__
import utils
from scenes import (
    calibration,
    chrome,
    classifier,
    drawings,
    evaluation,
    features,
    grid_search,
    heads,
    photos,
    runs,
)
from scenes.settings import GridOptions, HeadOptions
from studies import large_search

NOTEBOOK = "intel_classification.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~/:-])/(home|root|work|tmp|mnt|opt|usr|var|Users)/|\b[A-Z]:\\"
)

# Settings with which a run is a matter of seconds.
SMALL = {
    "SHRINK_FACTOR": 100,
    "LEARNING_RATES": [0.001, 0.005],
    "DROPOUTS": [0.2],
    "WEIGHT_DECAYS": [0.0001, 0.01],
    "EPOCHS": 2,
    "FOLDS": 2,
    "FINE_TUNE_EPOCHS": 1,
    "FIRST_LAYER": "block_16_expand",
}


# --- Looking into a notebook ----------------------------------------------------------


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def read_run(path):
    """
    Return an executed notebook in which what a cell prints is one output.

    How a kernel cuts what is printed into pieces is chance: no test may see it.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = tidy(cell.outputs)
    return notebook


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
    shown = [data["text/plain"] for data in bundles(notebook) if "text/plain" in data]
    return "\n".join(said + shown)


def tagged(notebook, tag):
    return [
        cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", ())
    ]


def calls(cell, attribute):
    """Return the calls of `something.attribute` in a code cell."""
    nodes = [
        node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)
    ]
    return [node for node in nodes if getattr(node.func, "attr", None) == attribute]


def shown_as(cell, form):
    """Return the outputs of a cell that have a form, each with all its forms."""
    return [o.data for o in cell.outputs if form in o.get("data", {})]


def figures(notebook):
    """Return the output of each figure by the name under which it is saved."""
    return {
        call.args[1].value: next(iter(shown_as(cell, PLOTLY)), {})
        for cell in code_cells(notebook)
        for call in calls(cell, "show")
    }


def curves(notebook, name):
    """Return the y values of each curve of a figure."""
    ys = [curve["y"] for curve in figures(notebook)[name][PLOTLY]["data"]]
    # As plotly packs long lists.
    return [
        np.frombuffer(base64.b64decode(y["bdata"]), y["dtype"]) if "bdata" in y else y
        for y in ys
    ]


def cell_of(notebook, cell_id):
    """Return the code cell of a name."""
    [cell] = [cell for cell in code_cells(notebook) if cell.id == cell_id]
    return cell


def number(shown):
    """Return the number that a table shows, 94.2% as 0.942, else what it shows."""
    if not re.fullmatch(r"-?[\d.]+%?", shown):
        return shown
    return float(shown.rstrip("%")) / (100 if "%" in shown else 1)


def table_after(notebook, cell_id):
    """Return the last table that a cell shows, its numbers as numbers."""
    shown = shown_as(cell_of(notebook, cell_id), "text/html")[-1]["text/html"]
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        for row in re.findall(r"<tr.*?</tr>", shown, re.S)
    ]
    header, *body = [row for row in rows if any(row[1:])]
    return pd.DataFrame(body, columns=header).set_index(header[0]).map(number)


def printed_by(notebook, cell_id):
    """Return what a cell prints before it shows anything."""
    return cell_of(notebook, cell_id).outputs[0].text


IMPORTED = {"np": np, "pd": pd, "utils": utils}
IMPORTED |= {"evaluation": evaluation, "calibration": calibration}


def run_cells(notebook, *names, **variables):
    """
    Run the settings cell and others by name, without a kernel; return their variables.
    """
    cells = {cell.id: cell.source for cell in code_cells(notebook)}
    exec(cells["parameters"], namespace := {})
    namespace |= IMPORTED | variables
    for name in names:
        exec(cells[name], namespace)
    return namespace


# --- Cleaning -------------------------------------------------------------------------


@pytest.fixture
def untidy():
    """Return a notebook with a photo, remains of bars, a set parameter and times."""
    photo = new_output("display_data", {"image/png": "cGhvdG8="})
    bar = new_output("display_data", {})
    said = [
        new_output("stream", name=name, text=text)
        for name, text in [("stdout", "92"), ("stdout", ".4%\n"), ("stderr", "why\n")]
    ]
    table = new_output("execute_result", {"text/plain": "1"}, execution_count=4)
    tags = {
        "tags": ["photos"],
        "papermill": {"duration": 1.5},
        "execution": {"iopub.status": "t"},
    }
    cells = [
        new_code_cell("show()", execution_count=1, outputs=[photo], metadata=tags),
        new_code_cell(
            "OUTPUT = '.'",
            execution_count=2,
            metadata={"tags": ["injected-parameters"]},
        ),
        new_code_cell(
            "train()", execution_count=3, outputs=[bar], metadata={"tags": []}
        ),
        new_code_cell(
            "say()", execution_count=4, outputs=[said[0], bar, *said[1:], table]
        ),
    ]
    return new_notebook(cells=cells, metadata={"papermill": {"start_time": "today"}})


def test_cleaning_removes_photos_bars_cuts_and_traces_of_the_run(untidy):
    before = json.dumps(untidy)
    cleaned = clean(untidy)
    shown, trained, said = cleaned.cells
    [line] = shown.outputs
    assert (line.text, shown.execution_count) == (WITHOUT_PHOTOS, 1)
    assert shown.metadata == {"tags": ["photos"]}
    assert (trained.outputs, trained.metadata, trained.execution_count) == ([], {}, 2)
    *printed, table = said.outputs
    assert [(o.name, o.text) for o in printed] == [
        ("stdout", "92.4%\n"),
        ("stderr", "why\n"),
    ]
    assert table.execution_count == said.execution_count == 3
    assert cleaned.metadata == {}
    assert json.dumps(untidy) == before, "the notebook given is left as it is"


def test_cleaning_twice_is_cleaning_once(untidy, tmp_path):
    nbformat.write(untidy, path := tmp_path / "notebook.ipynb")
    for _ in range(2):
        main(path)
        assert nbformat.read(path, as_version=4) == clean(untidy)
    assert list(tmp_path.iterdir()) == [path]


# --- The committed notebook -----------------------------------------------------------


@pytest.fixture(scope="session")
def committed():
    return nbformat.read(ROOT / NOTEBOOK, as_version=4)


def test_cells_were_run_once_from_top_to_bottom(committed):
    for count, cell in enumerate(code_cells(committed), start=1):
        assert {o.get("execution_count", count) for o in [cell, *cell.outputs]} == {
            count
        }


def test_nothing_failed_and_nothing_warned(committed):
    assert [o for o in outputs(committed) if o.output_type == "error"] == []
    assert [s.text for s in streams(committed) if s.name == "stderr"] == []
    assert not re.search("warning|deprecated", text(committed), re.IGNORECASE)
    for data in bundles(committed):
        name = data.get("text/plain", "")
        assert "image/png" in data or not name.startswith("<Figure")
        assert not any("widget" in kind for kind in data)


def test_notebook_was_cleaned_and_is_small_enough_for_the_web(committed):
    assert clean(committed) == committed, f"run tools/clean_notebook.py {NOTEBOOK}"
    assert "widgets" not in committed.metadata
    assert (ROOT / NOTEBOOK).stat().st_size < 5_000_000


def test_each_cell_that_shows_photos_is_tagged(committed):
    shows = re.compile(r"show_(images|photos|predictions|maps)\(|\.maps\(")
    found = {cell.id for cell in code_cells(committed) if shows.search(cell.source)}
    stripped = {
        cell.id for tag in ("photos", "samples") for cell in tagged(committed, tag)
    }
    assert found == stripped != set()


def test_no_image_but_figures_and_the_two_sample_photos(committed):
    """The sample photos are those of scikit-learn, which may be shown."""
    others = [o.data for cell in tagged(committed, "samples") for o in cell.outputs]
    for data in bundles(committed):
        drawn = any(kind.startswith("image/") for kind in data)
        assert not drawn or PLOTLY in data or data in others
    assert not any("attachments" in cell for cell in committed.cells)


def test_such_a_picture_is_that_of_a_fresh_drawing(committed):
    """So that nothing else can stand in its place."""
    [cell] = tagged(committed, "samples")
    [shown] = shown_as(cell, "image/png")
    maps = Mock()
    run_cells(
        committed,
        "use-load",
        cell.id,
        predict=classifier.predict,
        read_photo=photos.read_photo,
        drawings=Mock(maps=maps),
        model=classifier.load_classifier(ROOT / "classifier.keras"),
        output=Mock(),  # it has the Intel classes
        test_images=None,
    )
    figure, fresh = drawings.maps(*maps.call_args.args), io.BytesIO()
    figure.savefig(fresh, format="png", bbox_inches="tight", dpi=figure.dpi)
    first, second = (
        np.asarray(Image.open(file).convert("RGB").resize((400, 200)), float)
        for file in (io.BytesIO(base64.b64decode(shown["image/png"])), fresh)
    )
    assert np.abs(first - second).mean() < 3


def test_each_figure_is_also_a_file_and_an_image(committed):
    folder = ROOT / "plotly_plots"
    names = figures(committed)
    # Of the others, one is drawn by benchmark.py and two by studies/large_search.py.
    drawn = {*names, "search_growth", *large_search.figures()}
    expected = {f"{name}.{suffix}" for name in drawn for suffix in ("html", "png")}
    others = {"plotly.min.js", "README.md"}
    assert {path.name for path in folder.iterdir()} == expected | others
    for name, data in names.items():
        assert {PLOTLY, "image/png"} <= data.keys(), f"{name} needs both forms"
        image = base64.b64decode(data["image/png"])
        picture = (folder / f"{name}.png").read_bytes()
        assert chrome.halve(picture) == image, f"{name} is of another run"
        with Image.open(io.BytesIO(image)) as opened:
            assert opened.width == data[PLOTLY]["layout"]["width"], (
                "JupyterLab would cut it off"
            )
        page = (folder / f"{name}.html").read_text("utf-8").replace(r"\u002f", "/")
        for packed in re.findall(
            r'"bdata": "([^"]+)"', json.dumps(data[PLOTLY]["data"])
        ):
            assert packed in page, f"{name} is of another run"


def test_no_path_of_the_machine_that_ran_it(committed):
    told = [cell.source for cell in committed.cells] + [text(committed)]
    found = [
        line for part in told for line in part.split("\n") if ABSOLUTE_PATH.search(line)
    ]
    assert found == []


def test_links_of_the_contents_lead_to_headings(committed):
    prose = "\n".join(
        cell.source for cell in committed.cells if cell.cell_type == "markdown"
    )
    headings = {line.replace(" ", "-") for line in re.findall(r"(?m)^##+ (.*)$", prose)}
    assert set(re.findall(r"\]\(#([^)]+)\)", prose)) <= headings


def test_the_notebook_as_a_script_lacks_no_name():
    """
    As nbconvert writes it; `%cd` is for Colab and Kaggle alone, which have
    `get_ipython`.
    """
    script, _ = PythonExporter().from_filename(ROOT / NOTEBOOK)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    command += ["--config", "builtins = ['get_ipython']", "-"]
    checked = subprocess.run(command, input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_committed_results_are_of_the_settings_in_the_notebook(committed):
    namespace = run_cells(committed)
    kept = json.loads((ROOT / "settings.json").read_text("utf-8"))
    kept["recorded"] = None
    assert {name: namespace[name] for name in kept} == kept
    results = pd.read_csv(ROOT / "grid_search.csv")
    sizes = [
        len(kept[name]) for name in ("LEARNING_RATES", "DROPOUTS", "WEIGHT_DECAYS")
    ]
    assert len(results) == np.prod(sizes) * kept["FOLDS"] * kept["EPOCHS"]
    best = evaluation.summarize(results).iloc[0]
    assert f"other folds: {evaluation.accuracy_by_other_folds(results):.2%}\n" in text(
        committed
    )
    shown = table_after(committed, "best").iloc[0]
    for name in ("learning_rate", "dropout", "weight_decay", "epoch"):
        assert shown[name] == pytest.approx(best[name])


def test_the_committed_predictions_are_of_the_committed_split(committed):
    images, _ = features.load_bundled_features()
    images = utils.create_validation(utils.drop_leaks(images))
    files = (
        ROOT / "results" / f"{split}_predictions.csv"
        for split in ("validation", "test")
    )
    validation, test = map(pd.read_csv, files)
    for split, table in {"validation": validation, "test": test}.items():
        right = images.loc[images["split"] == split, ["path", "label"]].to_numpy()
        for _, rows in table.groupby("model"):
            assert (rows[["path", "label"]].to_numpy() == right).all()
    [selected] = test["model"].unique()
    assert evaluation.compare_models(validation).index[0] == selected
    correct = test[CLASSES].idxmax(axis=1) == test["label"]
    said = f"on 3,000 test photos: {calibration.percent(correct)},"
    assert said in printed_by(committed, "summary")
    shown = table_after(committed, "accuracy")
    assert shown["accuracy"][selected] == pytest.approx(correct.mean(), abs=5.1e-5)
    # The 92.3% are those of scikit-learn's logistic regression on the bundled features.
    assert shown["ci_low"]["head"] < 0.923 < shown["ci_high"]["head"]
    assert shown["photos"]["head"] == 3000


def test_no_photo_is_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    kinds = {*Image.registered_extensions(), ".svg"}
    images = {name for name in committed_files() if Path(name).suffix.lower() in kinds}
    drawn = re.compile(r"plotly_plots/\w+\.png|docs/idea\.svg")
    assert {name for name in images if not drawn.fullmatch(name)} == set()


def test_readme_gives_the_figures_of_the_notebook(committed):
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = [line for line in readme.splitlines() if line.startswith("|")]
    said, _, _ = printed_by(committed, "summary").partition("Validation ")
    figure = r"\d+\.\d%(?: \(.*?\))?"  # with its interval, if there is one
    selected, head, *others = re.findall(figure, said)
    others = [share.partition(" ")[0] for share in others[:2]]
    assert re.findall(figure, " ".join(rows)) == [head, selected, *others]
    [summary] = re.findall(r"^```\n(Model: .*?)^```", readme, re.M | re.S)
    assert summary in said


# --- Runs with small settings ---------------------------------------------------------


def committed_files():
    return (
        git(ROOT, "-c", "safe.directory=*", "ls-files", "-z")
        .stdout.rstrip("\0")
        .split("\0")
    )


def copy_project(folder, edit=None):
    """
    Copy what a clone would hold into a git repository, perhaps with edited cells.

    What lies there already stays.
    """
    for name in committed_files():
        needed = (ROOT / name).exists() and not name.startswith("tests/")
        if needed and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    if edit:
        notebook = nbformat.read(folder / NOTEBOOK, as_version=4)
        notebook.cells = edit(notebook.cells)
        nbformat.write(notebook, folder / NOTEBOOK)
    commit_all(folder)
    return folder


def commit_all(folder):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")


def git(folder, *arguments):
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True
    )


def short(cells):
    """
    Return the cells, with 2 heads for the learning curve and 3 epochs of fine-tuning at
    most.
    """
    by_name = {cell.id: cell for cell in cells}
    curve, factors = by_name["curve"], "(16, 8, 4, 2)"
    assert factors in curve.source
    curve.source = curve.source.replace(factors, "(2,)")
    by_name[
        "tune"
    ].source += "\nimport scenes.fine_tuning\nscenes.fine_tuning.MAX_EPOCHS = 3"
    return cells


def short_twice(cells):
    """Return each cell of `short` and, where it is code but no settings, its copy."""
    found = []
    for cell in short(cells):
        found.append(cell)
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get(
            "tags", ()
        ):
            found.append(nbformat.from_dict(cell | {"id": f"{cell.id}-again"}))
    return found


def environment(**variables):
    """Return the environment without photos, in which python3 is this interpreter."""
    # On a busy machine, threads that wait for each other make t-SNE ten times slower.
    variables |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
    return {k: v for k, v in os.environ.items() if k != "INTEL_PHOTOS"} | variables


def run_notebook(folder, settings, results="runs/*", edit=None, **variables):
    """Run the notebook as the README says."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        NOTEBOOK,
        "run.ipynb",
        "--no-progress-bar",
    ]
    for name, value in settings.items():
        plain = not isinstance(value, list)
        command += ["-p", name, str(value)] if plain else ["-y", f"{name}: {value}"]
    options = {"cwd": copy_project(folder, edit), "env": environment(**variables)}
    process = subprocess.run(
        command, **options, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr[-3000:]
    [results] = folder.glob(results)
    notebook = read_run(folder / "run.ipynb")
    return SimpleNamespace(folder=folder, results=results, notebook=notebook)


ON_FEATURES = SMALL | {"SHRINK_FACTOR": 1}


def thin_features(path):
    """
    Write every 40th of the bundled features, and those of photos that have copies.

    Of the latter, some are in two splits.
    """
    arrays = dict(np.load(ROOT / "features.npz"))
    copied = pd.Series(arrays["group"]).duplicated(keep=False)
    kept = copied | (copied.index % 40 == 0)
    for name in ("path", "label", "split", "digest", "group", "features"):
        arrays[name] = arrays[name][kept]
    np.savez(path, **arrays)


@pytest.fixture(scope="session")
def run_on_features(tmp_path_factory):
    """Run each cell twice, on bundled features that are thinned out."""
    folder = tmp_path_factory.mktemp("features")
    thin_features(folder / "features.npz")
    return run_notebook(folder, ON_FEATURES, edit=short_twice)


NAMES = {"a b, c": 14, "<i>déjà": 12, "3rd": 10}  # three classes with odd names


@pytest.fixture(scope="session")
def run_on_drawn_photos(tmp_path_factory):
    """
    Run all that there is, on drawn photos of three classes in folders of train, val and test.

    Without a browser, with matplotlib told to show nothing, in a folder of an odd name.
    """
    folder = tmp_path_factory.mktemp("drawn à côté")
    settings = {
        "PHOTOS": "drawn",
        "WEIGHTS": None,
        "OUTPUT": "results",
        "SHRINK_FACTOR": 1,
    }
    settings |= {"FINE_TUNE_RATES": [0.0001, 0.001], "CLASS_WEIGHT": "balanced"}
    settings["CROSS_FIT"] = True
    draw_photos(folder / "drawn")
    (folder / ".git" / "info").mkdir(parents=True)
    poor = {"BROWSER_PATH": str(folder / "none"), "MPLBACKEND": "Agg"}
    return run_notebook(folder, SMALL | settings, "results", short, **poor)


def draw_photos(folder):
    """
    Draw photos in `train/`, `val/` and `test/`, large enough for all that the notebook does.
    """
    seeds = itertools.count()
    for number, (name, count) in enumerate(NAMES.items()):
        for split, n in {"train": count, "val": 4, "test": 4}.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(n):
                pixels = draw(next(seeds)) // 2 + np.uint8(40 * number)
                Image.fromarray(pixels).save(place / f"{i}.png")


@pytest.fixture(params=["features", "drawn_photos"])
def run(request):
    return request.getfixturevalue(f"run_on_{request.param}")


def table_of(run, name):
    """Return a table of the results of a run."""
    return pd.read_csv(run.results / "results" / f"{name}.csv")


def test_run_succeeds_without_noise(run):
    test_nothing_failed_and_nothing_warned(run.notebook)
    test_cells_were_run_once_from_top_to_bottom(run.notebook)
    bars = [
        s.text for s in streams(run.notebook) if re.search(r"\r|\d+%\||[█▏]", s.text)
    ]
    assert bars == []


def test_run_leaves_git_as_it_was(run_on_features):
    assert git(run_on_features.folder, "status", "--porcelain").stdout == ""


def test_run_writes_its_results_to_a_folder_of_its_own(run):
    results = pd.read_csv(run.results / "grid_search.csv")
    assert len(results) == 2 * 1 * 2 * SMALL["FOLDS"] * SMALL["EPOCHS"]
    plots = {path.name for path in (run.results / "plotly_plots").iterdir()}
    assert {f"{name}.html" for name in figures(run.notebook)} <= plots
    committed = {path.name for path in (ROOT / "results").iterdir()}
    known = {path.name for name in runs.RESULTS for path in run.results.glob(name)}
    others = {path.name for path in run.results.iterdir()} - committed - known
    assert {name for name in others if not name.endswith(".lock")} == {"settings.json"}


def shown_by(cell):
    """Return what a cell prints, but for the times, and shows, but for pictures."""
    forms = [output.get("data", {}).items() for output in cell.outputs]
    shown = [
        (kind, form)
        for form in forms
        for kind, form in form
        if not kind.startswith("image/")
    ]
    said = "".join(output.get("text", "") for output in cell.outputs)
    return re.sub(
        r"One head: \d+ s; .* folds: \d+ s\n|The search was resumed.*\n", "", said
    ), shown


def test_each_cell_gives_the_same_when_it_is_run_twice(run_on_features):
    cells = {cell.id: cell for cell in code_cells(run_on_features.notebook)}
    copies = [name for name in cells if name.endswith("-again") and name[:-6] in cells]
    assert len(copies) > 45
    for name in copies:
        assert shown_by(cells[name]) == shown_by(cells[name[:-6]]), name
    said = [cells[name].outputs[0].text for name in ("search-run", "search-run-again")]
    for line in said:  # a search that has finished leaves nothing to resume
        assert re.fullmatch(r"One head: \d+ s; 4 settings x 2 folds: \d+ s\n", line)


def test_cells_of_photos_show_them_or_say_what_they_would_show(run):
    for cell in tagged(run.notebook, "photos"):
        [output] = cell.outputs
        if "data" in output:
            assert "image/png" in output.data
        else:
            assert re.fullmatch(
                r"(With the photos|Put photos|Nothing found).*\.\n", output.text
            )


def test_a_run_on_photos_of_other_classes_speaks_of_these(run_on_drawn_photos):
    classes = sorted(NAMES)
    predictions = table_of(run_on_drawn_photos, "test_predictions")
    assert list(predictions.columns) == ["model", "path", "label", *classes]
    assert len(predictions) == 12
    assert_allclose(predictions[classes].sum(axis=1), 1, atol=0.001)
    said = text(run_on_drawn_photos.notebook)
    for word in ("glacier", "committed", "Intel", "six"):
        assert word not in said
    model = classifier.load_classifier(run_on_drawn_photos.results / "classifier.keras")
    assert list(classifier.classes_of(model)) == classes
    assert predictions["path"].str.startswith("test/").all()
    paths = [
        run_on_drawn_photos.folder / "drawn" / path for path in predictions["path"]
    ]
    again = classifier.predict(model, paths)
    temperature = 1 / model.get_layer("temperature").scale
    cooled = calibration.apply_temperature(predictions[classes], temperature)
    assert_allclose(again[classes], cooled, atol=1e-3)


def test_a_run_on_photos_keeps_what_selected_the_model(run_on_drawn_photos):
    validation = table_of(run_on_drawn_photos, "validation_predictions")
    assert validation["path"].str.startswith("val/").all()
    histories = table_of(run_on_drawn_photos, "fine_tuning")
    tuned = ["fine-tuned, 0.0001", "fine-tuned, 0.001"]
    assert list(validation["model"].unique()) == ["head", *tuned]
    assert list(histories["model"].unique()) == tuned
    comparison = evaluation.compare_models(validation, class_weight="balanced")
    ends = histories.groupby("model")["val_accuracy"].last()
    assert list(comparison["balanced accuracy"][tuned]) == pytest.approx(
        list(ends[tuned]), abs=0.1
    )
    [selected] = table_of(run_on_drawn_photos, "test_predictions")["model"].unique()
    assert selected == comparison.index[0]


def test_the_command_of_the_summary_classifies(
    run_on_drawn_photos, monkeypatch, printed
):
    said = printed_by(run_on_drawn_photos.notebook, "summary")
    command = re.search(r"python -m scenes (classify --model \S+) FOLDER", said)
    monkeypatch.chdir(run_on_drawn_photos.folder)
    assert scenes.__main__.main([*command[1].split(), "drawn"]) == 0
    assert any(name in printed() for name in NAMES)


def test_what_is_not_computed_is_shown_as_committed(run_on_features, committed):
    assert not list(run_on_features.results.glob("results/[tv]*_predictions.csv"))
    notebooks = run_on_features.notebook, committed
    shown, before = (curves(notebook, "fine_tuning") for notebook in notebooks)
    assert len(shown) == 4  # loss and accuracy, of training and validation
    assert_allclose(shown, before, atol=1e-5)


# --- A run shows what the engine gives ------------------------------------------------


@pytest.fixture(scope="session")
def by_engine(run_on_features):
    """
    Return the photos of the run on features as the notebook must take them, and what
    the engine gives for them when it is called by itself.
    """
    found, X = features.load_bundled_features(run_on_features.folder / "features.npz")
    images = utils.create_validation(utils.drop_leaks(found))
    assert len(images) < len(found), "rows of features and of the table differ"
    X, y = X[images.index], images["label"].cat.codes.to_numpy()
    train, validation, test = (
        (images["split"] == name).to_numpy() for name in ("train", "validation", "test")
    )
    grid = GridOptions(
        learning_rates=SMALL["LEARNING_RATES"],
        dropouts=SMALL["DROPOUTS"],
        weight_decays=SMALL["WEIGHT_DECAYS"],
        epochs=SMALL["EPOCHS"],
    )
    groups = images["group"][~test]
    splits = grid_search.make_folds(y[~test], groups, folds=SMALL["FOLDS"], seed=0)
    csv = run_on_features.folder / ".cache" / "by_engine.csv"
    results = grid_search.grid_search(
        X[~test], y[~test], grid, splits, cache=csv.parent, csv=csv
    )
    best = evaluation.best_hyperparameters(results)
    options = HeadOptions(**best)

    def predict(training_rows, rows, seed=0):
        head = heads.train_head(
            X[training_rows], y[training_rows], dataclasses.replace(options, seed=seed)
        )
        return head.predict(X[rows], verbose=0)

    def score(training_rows, seed=0):
        guesses = predict(training_rows, validation, seed).argmax(axis=1)
        return np.mean(guesses == y[validation])

    out_of_fold = np.zeros((np.sum(~test), len(CLASSES)), "float32")
    rows = np.flatnonzero(~test)
    for training_rows, fold in splits:
        out_of_fold[fold] = predict(rows[training_rows], rows[fold])
    halves = [utils.shrink(images[train], 2, start=number).index for number in range(2)]
    of_halves = [
        score(images.index.isin(half), seed) for seed, half in enumerate(halves)
    ]
    return SimpleNamespace(
        csv=csv,
        best=evaluation.summarize(results).iloc[0],
        by_other_folds=evaluation.accuracy_by_other_folds(results),
        curve={len(halves[0]): of_halves, train.sum(): [score(train)]},
        images=pd.concat([images[~test], images[test]]),
        y_test=y[test],
        test=predict(~test, test),
        out_of_fold=out_of_fold,
    )


def test_a_run_searches_as_the_engine_does(run_on_features, by_engine):
    csv = run_on_features.results / "grid_search.csv"
    assert csv.read_bytes() == by_engine.csv.read_bytes()
    shown = table_after(run_on_features.notebook, "best").iloc[0]
    for name in ("learning_rate", "dropout", "weight_decay", "epoch", "val_accuracy"):
        digits = 5.1e-5 if name == "val_accuracy" else 1e-6
        assert shown[name] == pytest.approx(by_engine.best[name], abs=digits)
    said = f"selected by the other folds: {by_engine.by_other_folds:.2%}\n"
    assert said in text(run_on_features.notebook)


def test_a_run_shows_the_learning_curve_of_its_heads(run_on_features, by_engine):
    shown = table_after(run_on_features.notebook, "curve-plot")
    assert list(shown.index.astype(int)) == list(by_engine.curve)
    for name, of in {"mean": np.mean, "min": min, "max": max}.items():
        expected = [of(scores) for scores in by_engine.curve.values()]
        assert list(shown[name]) == pytest.approx(expected, abs=5.1e-5)


def test_labels_are_flagged_by_heads_that_did_not_train_on_them(
    run_on_features, by_engine
):
    flagged = table_of(run_on_features, "flagged_labels")
    expected = evaluation.list_flagged_labels(
        by_engine.images, np.concatenate([by_engine.out_of_fold, by_engine.test])
    )
    assert {"train", "test"} <= set(expected["split"])
    pd.testing.assert_frame_equal(
        flagged, expected, check_dtype=False, check_categorical=False, atol=2e-4
    )


def test_the_map_rings_what_heads_misclassify_that_did_not_train_on_it(
    run_on_features, by_engine
):
    n, guesses = len(by_engine.out_of_fold), by_engine.out_of_fold.argmax(axis=1)
    is_wrong = guesses != by_engine.images["label"].cat.codes[:n]
    rings = curves(run_on_features.notebook, "features")[-1]
    assert len(rings) == is_wrong.sum() > 0


def test_what_is_fitted_is_fitted_on_validation_photos_and_shown_on_test_photos(
    run_on_features, by_engine
):
    """Of the selected model, which the committed predictions are of."""
    test = pd.read_csv(ROOT / "results" / "test_predictions.csv").set_index("path")
    validation, labels = held_out()
    fitted = calibration.fit(validation, labels)
    said = printed_by(run_on_features.notebook, "calibrate")
    errors = np.count_nonzero(validation.argmax(axis=1) != labels)
    assert said.splitlines() == [
        f"In the committed run, the temperature is {fitted['temperature']:.3f}",
        f"In the committed run, the threshold is {fitted['threshold']:.3f}",
        f"Fitted on 2,807 held-out photos; the threshold rests on {errors} errors",
    ]

    paths = by_engine.images["path"][by_engine.images["split"] == "test"]
    probabilities = test.loc[paths, CLASSES].to_numpy()
    correct = probabilities.argmax(axis=1) == by_engine.y_test
    shown = table_after(run_on_features.notebook, "accuracy")["accuracy"]
    of_head = np.mean(by_engine.test.argmax(axis=1) == by_engine.y_test)
    assert dict(shown) == pytest.approx(
        {"head": of_head, test["model"].iloc[0]: correct.mean()}, abs=5.1e-5
    )
    scaled = calibration.apply_temperature(probabilities, fitted["temperature"])
    covered = scaled.max(axis=1) >= fitted["threshold"]
    expected = covered.mean(), correct[covered].mean(), correct[~covered].mean()
    shown = table_after(run_on_features.notebook, "selective")["share"]
    assert list(shown) == pytest.approx(expected, abs=5.1e-5)
    said = printed_by(run_on_features.notebook, "selective")
    assert said == f"{calibration.describe_target(correct[covered])}\n"


def test_a_cross_fitted_run_is_calibrated_on_all_training_photos(run_on_drawn_photos):
    said = printed_by(run_on_drawn_photos.notebook, "calibrate")
    n_training = sum(NAMES.values()) + 4 * len(NAMES)  # with the validation photos
    assert f"Fitted on {n_training} held-out photos" in said
    said = text(run_on_drawn_photos.notebook)
    [selected] = table_of(run_on_drawn_photos, "test_predictions")["model"].unique()
    assert f"Cross-validated accuracy of '{selected}': " in said
    assert re.findall(r"up to (\d+) trainings", said) == ["5"]


def test_a_given_validation_set_is_predicted_by_the_head_and_in_no_fold(committed):
    images = pd.DataFrame({"in_folds": [True, False, True, False]})
    run = run_cells(
        committed,
        "out-of-fold",
        train_val_images=images,
        validation=~images["in_folds"],
        test=images["in_folds"] & False,
        classes=["a", "b"],
        splits=[([0], [2]), ([2], [0])],
        X_train_val=np.zeros((4, 1)),
        y_train_val=np.array([0, 0, 1, 0]),
        y_val=np.zeros(2, int),
        head=Mock(predict=lambda X, verbose: np.array([[0, 1], [0, 1]])),
        train_head=lambda X, y, options: lambda X: np.array([[1, 0]]),
        **dict.fromkeys(["X_val", "head_options"]),
    )
    assert run["oof_probabilities"].argmax(axis=1).tolist() == [0, 1, 0, 1]
    assert run["oof_correct"].tolist() == [True, False]


@pytest.fixture
def cross_fit(committed, monkeypatch):
    """Return a function that runs the cell of the cross-fit, and a stand-in for it."""
    labels = pd.Series(pd.Categorical(list("ab") * 10))
    split = ["test"] * 2 + ["train"] * 10 + ["validation"] * 8
    images = pd.DataFrame({"label": labels, "split": split})[2:]
    in_folds = images["split"] == "train"
    y = images["label"].cat.codes.to_numpy()
    # Right in the folds, wrong for the validation photos, which are in none.
    guesses = np.eye(2)[np.where(in_folds, y, 1 - y)]
    fit = Mock(return_value=guesses)
    monkeypatch.setattr(utils, "cross_fit", fit)
    run = functools.partial(
        run_cells,
        committed,
        "cross-fit",
        train_val_images=images,
        in_folds=in_folds,
        y_train_val=y,
        splits="of the folds",
        oof_probabilities=1 - guesses,
        head_probabilities="of head",
        options_of_model={"tuned": None},
        probabilities="of tuned",
        **dict.fromkeys(["X_train_val", "base_model", "head_options"]),
    )
    return run, fit


def test_the_selected_setting_is_tuned_on_folds_of_the_training_photos_alone(
    cross_fit, printed
):
    """Photos of a given validation set are in no fold."""
    cell, fit = cross_fit
    run = cell(CROSS_FIT=True, with_photos=True, selected="tuned")
    assert (run["oof_model"], run["test_probabilities"]) == ("tuned", "of tuned")
    assert "accuracy of 'tuned': 100.0%" in printed()
    table, _, splits, *_ = fit.call_args.args
    assert list(table["split"]) == ["train"] * 10 + ["validation"] * 8
    assert splits == "of the folds"


@pytest.mark.parametrize(
    ("wanted", "with_photos", "selected", "said"),
    [
        (False, True, "tuned", ""),
        (True, True, "head", ""),
        (True, False, "tuned", "CROSS_FIT needs photos: "),
    ],
)
def test_without_photos_or_if_the_head_is_selected_its_folds_serve(
    cross_fit, printed, wanted, with_photos, selected, said
):
    cell, fit = cross_fit
    run = cell(CROSS_FIT=wanted, with_photos=with_photos, selected=selected)
    assert (run["oof_model"], run["test_probabilities"]) == ("head", "of head")
    assert not fit.called
    out = printed()
    assert out.startswith(said or "Cross-validated accuracy of 'head': 0.0% ")
    assert out.endswith("optimistic, since its setting was chosen on these photos)\n")


def test_a_selected_head_is_fitted_on_its_out_of_fold_predictions(committed):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    probabilities = rng.dirichlet([1, 1], 200)
    images = pd.DataFrame({"path": "", "label": pd.Categorical(list("ab"))})
    of_head = evaluation.predictions_table(images, np.eye(2), "head")
    run = run_cells(
        committed,
        "calibrate",
        selected="head",
        classes=list("ab"),
        run="this run",
        validation_predictions=of_head,
        y_train_val=y,
        oof_model="head",
        cross_fitted=probabilities,
    )
    assert run["abstention"] == calibration.fit(probabilities, y)


def photos_shown(committed, cell, **variables):
    """Return the table of the photos that a cell shows, and their titles."""
    stand_in = Mock(wraps=utils)
    stand_in.show_photos = Mock()
    run_cells(committed, cell, utils=stand_in, **variables)
    [call] = stand_in.show_photos.call_args_list
    return call.args[0], list(call.args[1])


@pytest.mark.parametrize(("n_classes", "shown"), [(2, 6), (25, 25), (50, 36)])
def test_sample_photos_come_from_as_many_classes_as_there_is_room_for(
    committed, n_classes, shown
):
    codes = np.arange(6 * n_classes) % n_classes
    names = [f"{code:02}" for code in range(n_classes)]
    images = pd.DataFrame({"label": pd.Categorical.from_codes(codes, names)})
    images["split"] = np.where(images.index < 5 * n_classes, "train", "test")
    table, titles = photos_shown(committed, "samples", images=images)
    assert set(table["split"]) == {"train"}
    assert titles == list(table["label"]) == sorted(titles)
    counts = table["label"].value_counts()
    assert len(table) == shown
    assert counts.max() - counts.min() <= 1


def test_the_first_flagged_labels_are_shown_beside_what_is_suggested(committed):
    flagged = pd.DataFrame({"path": [f"a/{n}.jpg" for n in range(14, 0, -1)]})
    flagged = flagged.assign(label="ants", suggested="bees")
    checked = flagged[::-1].assign(file="/" + flagged["path"], label="ants", split=1)
    table, titles = photos_shown(
        committed, "flagged-photos", flagged=flagged, checked=checked
    )
    assert list(table["file"]) == [f"/a/{n}.jpg" for n in range(14, 2, -1)]
    assert titles == ["ants, suggested\nbees"] * 12


@pytest.mark.parametrize(
    ("guesses", "shown"), [("acbbccb", ["b/4", "b/5"]), ("aabbbbb", [])]
)
def test_the_photos_of_the_most_frequent_error_are_shown(committed, guesses, shown):
    """If there is no error, there are no photos."""
    images = pd.DataFrame({"label": pd.Categorical(list("aabbbbb"), list("abc"))})
    images["path"] = [f"{name}/{row}" for row, name in enumerate(images["label"])]
    pairs = evaluation.confused_pairs(images["label"], list(guesses))
    table, _ = photos_shown(
        committed,
        "confused",
        pairs=pairs,
        test_images=images,
        classes=[*"abc"],
        predictions=np.array(list(guesses)),
    )
    assert list(table["path"]) == shown


def test_a_test_photo_that_corrections_leave_out_still_counts_in_one_row(committed):
    """
    One is left out and one relabelled: the two errors, since features are
    probabilities.
    """
    labelled = pd.DataFrame({"label": pd.Categorical(list("aaababab")), "file": None})
    labelled["path"] = labelled.index.astype(str)
    labelled["split"] = ["test"] * 4 + ["train"] * 2 + ["validation"] * 2
    X = np.eye(2, dtype="float32")[[1, 0, 1, 1, 0, 1, 0, 1]]
    images = labelled.drop(index=0)
    images.loc[2, "label"] = "b"
    output = Mock(keep=Mock(wraps=lambda tables, name: tables[0]))
    probabilities = pd.DataFrame(X[:4], columns=["a", "b"])
    head = Mock(predict=lambda X, verbose: X)
    run = run_cells(
        committed,
        *("extract", "final", "accuracy"),
        labelled=labelled,
        images=images,
        utils=Mock(wraps=utils, load_features=Mock(return_value=X)),
        with_photos=True,
        output=output,
        selected="tuned",
        options_of_model={"tuned": 0},
        run="this run",
        fine_tune=Mock(return_value=[None] * 3),
        build_classifier=Mock(),
        predict=lambda model, files: probabilities,
        train_head=lambda X, y, options: head,
        **dict.fromkeys(["base_model", "CACHE", "head_options"]),
    )
    table = run["accuracies"]
    written = output.keep.call_args.args[0][0]
    assert list(written["label"].isna()) == [True, False, False, False]
    assert list(table["photos"]) == [3, 4] * 2
    accuracies = table["accuracy"].to_dict()
    for name in ("head", "tuned"):
        assert accuracies[name] == 1
        assert accuracies[f"{name}, without corrections"] == 1 / 2


@pytest.mark.parametrize(
    ("n_classes", "metric", "lowest"),
    [
        (2, "balanced accuracy", "01 50.0%"),
        (25, "accuracy", "01 50.0%, 00 100.0%, 02 100.0%"),
    ],
)
def test_the_last_cell_says_what_selected_the_model_and_the_lowest_recalls(
    committed, printed, n_classes, metric, lowest
):
    """In each class are two photos, and one photo of the second class is an error."""
    codes = np.repeat(np.arange(n_classes), 2)
    names = [f"{code:02}" for code in range(n_classes)]
    images = pd.DataFrame({"label": pd.Categorical.from_codes(codes, names)})
    images = images.assign(path="a.jpg", split="test", corrected=False)
    images["group"] = images.index
    predictions = images["label"].astype(str).to_numpy()
    predictions[2] = "00"
    correct = predictions == images["label"].astype(str)
    best = {"learning_rate": 0.1, "dropout": 0, "weight_decay": 0, "epochs": 7}
    run = run_cells(
        committed,
        *("report", "summary"),
        test_images=images,
        best=best,
        by_other_folds=0.75,
        metric=metric,
        with_photos=True,
        run="this run",
        selected="head",
        model_file="a.keras",
        comparison=pd.DataFrame({metric: [0.875]}),
        **dict.fromkeys(["predictions", "head_predictions"], predictions),
        **dict.fromkeys(["correct", "head_correct", "covered"], correct),
        is_kept=np.ones(len(images), bool),
        divided=images[:0],
    )
    said = printed()
    balanced = 1 - 0.5 / n_classes
    assert f"7 epochs; {metric} if selected by the other folds 75.00%\n" in said
    assert "No test photo was corrected, and none is of a group that is in an" in said
    line = f"Validation {metric} of the model: 87.5%; balanced accuracy on the test"
    assert f"{line} photos: {balanced:.1%}\nLowest recall: {lowest}\n" in said
    shown = run["shown_report"]
    assert len(shown) == min(n_classes, 20) + 1
    assert shown.index[-1] == "mean of the classes"
    assert shown["recall"].iloc[-1] == balanced


def test_a_changed_setting_stops_what_would_write_over_the_results(
    committed, monkeypatch, tmp_path
):
    """The settings cell is run again with another value, and then only the search."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEL_PHOTOS", raising=False)
    run = run_cells(
        committed, "check", "load", "split", "extract", base_model=None, **SMALL
    )
    run["EPOCHS"] = 3
    with pytest.raises(ValueError, match=r"EPOCHS = 2.* run all cells again"):
        exec(cell_of(committed, "search-run").source, run)
    assert not list(tmp_path.glob("runs/*/grid_search.csv"))


@pytest.mark.parametrize(("name", "value"), [("PHOTOS", "nowhere"), ("WEIGHTS", None)])
def test_wrong_setting_stops_the_first_cells(
    committed, name, value, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTEL_PHOTOS", raising=False)
    with pytest.raises(
        (OSError, ValueError), match=f"no folder nowhere|{name} is {value}"
    ):
        run_cells(committed, "check", "load", **{name: value})
    assert not (tmp_path / "runs").exists()


# --- Colab and Kaggle -----------------------------------------------------------------


def test_the_first_cell_fetches_the_project_and_goes_on_after_a_restart(
    committed, tmp_path
):
    """
    As a script, whose own folder is on the path; pip needs no network for what it
    refuses.
    """
    source, empty = code_cells(committed)[0].source, tmp_path / "repository"
    (empty / "scenes").mkdir(parents=True)
    (empty / "scenes" / "__init__.py").touch()
    (empty / "requirements-notebook.in").write_text("no requirement!")
    commit_all(empty)

    def run(source):
        script = f"{source}\n{source}\nimport scenes\nprint(scenes.__file__)"
        (tmp_path / "script.py").write_text(script)
        command = [sys.executable, "script.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert "or set REPOSITORY" in run(source).stderr
    source = source.replace('REPOSITORY = ""', f"REPOSITORY = {str(empty)!r}")
    assert "ERROR: Invalid requirement" in run(source).stderr, "pip's own message"
    project = tmp_path / "project"
    (project / "requirements-notebook.in").write_text("")
    for _ in range(2):
        done = run(source)
        assert done.stdout.strip() == str(project / "scenes" / "__init__.py"), (
            done.stderr
        )


def test_what_colab_installs_is_what_the_notebook_imports(committed):
    code = [cell.source for cell in code_cells(committed)]
    # Only the commands `report` and `train` need these two.
    rooms = set(ROOT.glob("scenes/*.py")) - {
        ROOT / "scenes" / f"{name}.py" for name in ("__main__", "report")
    }
    code += [path.read_text("utf-8") for path in (ROOT / "utils.py", *rooms)]
    imported = set(re.findall(r"(?m)^ *(?:import|from) (\w+)", "\n".join(code)))
    places = importlib.metadata.packages_distributions()
    needed = {
        places[name][0].lower()
        for name in imported - {"scenes", "utils"}
        if name in places
    }
    lines = (ROOT / "requirements-notebook.in").read_text("utf-8").splitlines()
    listed = {re.match(r"[\w-]+", line)[0] for line in lines if line and line[0] != "#"}
    assert listed == needed | {"kaleido"}, "kaleido is used by plotly"


# --- Real photos ----------------------------------------------------------------------


@pytest.mark.photos
@pytest.mark.slow
def test_two_classes_of_real_photos_are_learned(
    tmp_path, real_photos, imagenet_base_model
):
    for path in sorted(real_photos.resolve().glob("seg_t*/*/*/*.jpg"))[::25]:
        label = "built" if path.parent.name in ("buildings", "street") else "natural"
        split = path.parts[-3].removeprefix("seg_")
        place = tmp_path / "two" / split / label
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path)
    settings = SMALL | {"PHOTOS": "two", "OUTPUT": "results", "SHRINK_FACTOR": 1}
    settings |= {"EPOCHS": 8, "FINE_TUNE_RATES": [0.0003]}
    run = run_notebook(tmp_path, settings, "results")
    predictions = table_of(run, "test_predictions")
    right = predictions[["built", "natural"]].idxmax(axis=1) == predictions["label"]
    assert right.mean() > 0.93


@pytest.mark.slow
def test_the_readmes_command_leaves_git_as_it_was_and_repeats_the_search(tmp_path):
    """An older processor than that of the committed run moved a number by 0.0007."""
    run = run_notebook(tmp_path, {})
    assert git(tmp_path, "status", "--porcelain").stdout == ""
    found, expected = (
        pd.read_csv(folder / "grid_search.csv") for folder in (run.results, ROOT)
    )
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0.001)
