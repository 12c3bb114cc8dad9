"""Results go where they belong, and say what they were made with."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import papermill.iorw
import pytest
from conftest import CLASSES
from test_settings import NOTEBOOK, RULES, SETTINGS

import scenes
import utils
from scenes import files, runs, settings


@pytest.fixture
def committed(monkeypatch, tmp_path, table):
    """
    Return a table of photos, of which results are committed in a folder of its own.
    """
    monkeypatch.setattr(runs, "COMMITTED", tmp_path)
    monkeypatch.chdir(tmp_path)
    output_of(table, OUTPUT=".")
    return table


def output_of(images: pd.DataFrame, **changed: object) -> runs.Output:
    return runs.output_folder({**SETTINGS, **changed}, images)


def folder_of(images: pd.DataFrame, **changed: object) -> str:
    return output_of(images, **changed).folder.as_posix()


def read_settings(folder: str | Path) -> dict:
    return json.loads(Path(folder, "settings.json").read_text())


def write_settings(folder: str | Path, kept: dict) -> None:
    Path(folder, "settings.json").write_text(json.dumps(kept))


def test_only_an_explicit_output_writes_the_committed_results(committed, tmp_path):
    assert folder_of(committed).startswith("runs/unchanged-")
    assert folder_of(committed, OUTPUT=".") == "."
    assert {p.name for p in tmp_path.iterdir()} - {".settings.json.lock"} == {
        "settings.json",
        "runs",
    }


def test_a_folder_says_what_its_results_are_made_with(committed):
    output = output_of(committed, DROPOUTS=np.array([0.5]))
    made = read_settings(output.folder)
    free = {"PHOTOS", "DOWNLOAD", "CORRECTIONS", "OUTPUT", "CACHE"}
    given = {**SETTINGS, "DROPOUTS": [0.5]}
    recorded = made.pop("recorded")
    assert made == {k: v for k, v in given.items() if k not in free}
    csv = committed[["label", "split", "digest", "group"]].to_csv(
        index=False, lineterminator="\n"
    )
    assert recorded["photos"] == files.fingerprint(csv)
    assert list(recorded["versions"]) == ["tensorflow", "keras", "format"]


def test_papermill_takes_a_settings_file_to_repeat_a_run(committed, printed):
    changed = {"LEARNING_RATES": [1e-5, 0.002], "FINE_TUNE_RATES": [3e-05], "EPOCHS": 3}
    output = runs.output_folder(SETTINGS | changed, committed)
    given = papermill.iorw.read_yaml_file(str(output.folder / "settings.json"))
    assert set(given) - set(SETTINGS) == {"recorded"}
    namespace = SETTINGS | given
    assert settings.check_settings(namespace) == SETTINGS | changed
    again = runs.output_folder(namespace, committed)
    assert again.folder == output.folder
    assert printed() == ""
    runs.output_folder(namespace, committed.iloc[1:])
    (line,) = printed().splitlines()
    assert line.startswith("This run does not repeat the recorded one: photos ")


def test_a_settings_file_of_an_earlier_form_is_read(committed):
    folder = Path(folder_of(committed, EPOCHS=3))
    made = read_settings(folder)
    recorded = made.pop("recorded")
    earlier = {"settings": made, **recorded}
    write_settings(folder, earlier)
    (folder / "results").mkdir()
    assert folder_of(committed, EPOCHS=3) == folder.as_posix()
    with pytest.raises(ValueError, match="with EPOCHS = 3; it is 4 now"):
        folder_of(committed, EPOCHS=4, OUTPUT=str(folder))


def test_where_the_photos_lie_and_how_much_is_run_makes_no_difference(committed):
    """Nor do photos without a label, which train nothing, nor how a list is written."""
    unlabelled = committed.iloc[:1].assign(split="prediction")
    unlabelled["label"] = pd.Categorical([None], CLASSES)
    moved = pd.concat(
        [committed.assign(path="elsewhere/" + committed["path"]), unlabelled]
    )
    same = {"LEARNING_RATES": tuple(SETTINGS["LEARNING_RATES"]), "CACHE": "/tmp/c"}
    same |= {
        "PHOTOS": "elsewhere",
        "DOWNLOAD": True,
        "DROPOUTS": np.array([0.1, 0.3, 0.5]),
    }
    assert folder_of(moved, **same) == folder_of(committed)
    assert folder_of(moved, **same, OUTPUT=".") == "."


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"EPOCHS": 3}, "epochs-3-"),
        ({"LEARNING_RATES": np.logspace(-4, -2, 3)}, "learning_rates-"),
        ({"WEIGHTS": None}, "weights-None-"),
        (
            dict.fromkeys(["EPOCHS", "FOLDS", "RUNS", "RUN_EPOCHS", "SEED"], 3),
            "seed-3-epochs-3-",
        ),
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
        for name, (_, values) in RULES.items()
        for value in values
        if name not in runs.NOT_COMPARED
        and np.asarray(value).tolist() != SETTINGS[name]
    ]
    Path("g.csv").touch()
    folders = {folder_of(committed, **changed) for changed in changes}
    assert len(folders) == len(changes) > 20


OTHER = {"digest": "f" * 32, "label": "street", "split": "test", "group": "f" * 32}
OTHER |= {"one photo less": None}


@pytest.mark.parametrize("change", OTHER)
def test_other_photos_write_to_a_folder_of_their_own(committed, change):
    other = committed.iloc[1:].copy()
    if change in other:
        other = committed.copy()
        other.loc[0, change] = OTHER[change]
    assert folder_of(other).startswith("runs/photos-")
    assert folder_of(other) != folder_of(other.iloc[1:])
    Path("grid_search.csv").touch()
    with pytest.raises(
        ValueError, match=r"results in \. .* with other photos.*another OUTPUT"
    ):
        folder_of(other, OUTPUT=".")


def test_results_with_and_without_corrections_are_not_mixed(committed):
    """Their content decides, wherever the file lies."""
    for name, label in {"a.csv": "sea", "b.csv": "sea", "c.csv": "street"}.items():
        Path(name).write_text(f"path,label\n0.jpg,{label}\n")
    folder_of(committed, OUTPUT="mine", CORRECTIONS="a.csv")
    made = read_settings("mine")
    assert "CORRECTIONS" not in made
    assert made["recorded"]["corrections"] == files.file_digest(Path("a.csv"))
    Path("mine/grid_search.csv").touch()
    assert folder_of(committed, OUTPUT="mine", CORRECTIONS=Path("b.csv")) == "mine"
    for other in ("c.csv", None):
        with pytest.raises(
            ValueError, match=r"^the results in mine .* other CORRECTIONS"
        ):
            folder_of(committed, OUTPUT="mine", CORRECTIONS=other)
    assert folder_of(committed, CORRECTIONS="a.csv").startswith("runs/corrections-")


def test_weights_are_known_by_their_content(committed):
    Path("w.h5").write_text("one")
    assert folder_of(committed, OUTPUT="mine", WEIGHTS="w.h5") == "mine"
    Path("mine/classifier.keras").touch()
    assert folder_of(committed, OUTPUT="mine", WEIGHTS=Path("w.h5")) == "mine"
    Path("w.h5").write_text("two")
    with pytest.raises(ValueError, match=r"^the results in mine .* with other WEIGHTS"):
        folder_of(committed, OUTPUT="mine", WEIGHTS="w.h5")


def test_results_of_other_versions_are_not_mixed(committed, monkeypatch):
    folder_of(committed, OUTPUT="mine")
    Path("mine/grid_search.csv").touch()
    monkeypatch.setattr(scenes, "VERSIONS", scenes.VERSIONS | {"keras": "9.9"})
    assert folder_of(committed).startswith("runs/versions-")
    with pytest.raises(
        ValueError, match=r"computed with versions = .*'keras': '9\.9'.* another O"
    ):
        folder_of(committed, OUTPUT="mine")
    old = read_settings("mine")
    del old["recorded"]["versions"]  # as before versions were recorded
    write_settings("mine", old)
    with pytest.raises(ValueError, match="computed with versions = None"):
        folder_of(committed, OUTPUT="mine")


def test_results_of_before_a_setting_was_there_are_said_to_be_of_another_version(
    committed,
):
    folder_of(committed, OUTPUT="mine")
    Path("mine/grid_search.csv").touch()
    now = read_settings("mine")
    before = {name: now[name] for name in now if name != "CROSS_FIT"}
    for name, old in (("CROSS_FIT", before), ("RUNS", now | {"RUNS": 3})):
        write_settings("mine", old)
        told = rf"with a version .* other settings \({name}\)\. Go back to that"
        with pytest.raises(ValueError, match=told):
            folder_of(committed, OUTPUT="mine")


def test_output_is_taken_at_its_word_once(committed, tmp_path):
    output = tmp_path / "a" / "b"
    for _ in range(2):
        assert folder_of(committed, OUTPUT=str(output), EPOCHS=3) == output.as_posix()
    before = (output / "settings.json").read_bytes()
    (output / "grid_search.csv").touch()
    with pytest.raises(
        ValueError, match=r"with EPOCHS = 3; it is 4 now\. Go back to that, or"
    ):
        folder_of(committed, OUTPUT=str(output), EPOCHS=4)
    assert (output / "settings.json").read_bytes() == before


WRITTEN = ["grid_search.csv", "classifier.keras", "plotly_plots", "results"]


@pytest.mark.parametrize("begun", ["", *WRITTEN])
def test_a_folder_of_a_run_that_came_to_no_result_is_taken_over(committed, begun):
    """And the earlier run, should it still live, writes nothing into it any more."""
    first, second = (
        dict(SETTINGS) | {"OUTPUT": "mine", "EPOCHS": epochs} for epochs in (3, 4)
    )
    earlier = runs.output_folder(first, committed)
    if begun:
        Path("mine", begun).mkdir()
        with pytest.raises(ValueError, match=r"computed with EPOCHS = 3; it is 4 now"):
            runs.output_folder(second, committed)
    else:
        runs.output_folder(second, committed).file("grid_search.csv")
        with pytest.raises(ValueError, match=r"computed with EPOCHS = 4; it is 3 now"):
            earlier.file("grid_search.csv")


@pytest.mark.parametrize("name", WRITTEN)
def test_results_of_unknown_configuration_are_not_taken(committed, name):
    Path("old", name).mkdir(parents=True)
    with pytest.raises(
        ValueError, match=rf"^old holds {name}, but no settings\.json .* another O"
    ):
        folder_of(committed, OUTPUT="old")
    assert [path.name for path in Path("old").iterdir()] == [name]


FOREIGN = [
    "",
    "[]",
    "{}",
    '"a"',
    '{"recorded": 1}',
    '{"recorded": {"photos": ""}}',
    '{"settings": 1, "photos": ""}',
    "\xff",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_settings_file_that_no_run_has_written_stays_as_it_is(committed, text):
    path = Path(".vscode", "settings.json")
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"^\.vscode/settings\.json records no .* another OUTPUT$"
    ):
        folder_of(committed, OUTPUT=".vscode")
    assert path.read_text(encoding="latin-1") == text
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_written_after_a_setting_has_changed(committed):
    namespace, table = dict(SETTINGS), pd.DataFrame({"run": [1]})
    output = runs.output_folder(namespace, committed)
    assert output.file("grid_search.csv") == output.folder / "grid_search.csv"
    assert output.file("results/a.csv").parent.is_dir()
    namespace |= {"CACHE": "elsewhere", "DROPOUTS": (0.1, 0.3, 0.5)}
    assert output.plots == output.folder / "plotly_plots"
    namespace["EPOCHS"] = 3
    told = (
        r"results in runs/unchanged-.* with EPOCHS = 25; it "
        r"is 3 now\..* run all cells again"
    )
    with pytest.raises(ValueError, match=told):
        output.file("grid_search.csv")
    with pytest.raises(ValueError, match=told):
        _ = output.plots
    with pytest.raises(ValueError, match=told):
        output.keep([table], "b.csv")
    namespace["EPOCHS"] = 0
    with pytest.raises(ValueError, match="EPOCHS is 0; it must be"):
        output.file("grid_search.csv")


def test_results_are_of_this_run_or_the_committed_ones_with_a_message(
    committed, printed
):
    Path("results").mkdir()
    Path("results/a.csv").write_text("n\n1\n")
    output = output_of(committed)
    assert output.keep([], "a.csv")["n"].tolist() == [1]
    assert "a.csv was not computed in this run; showing the committed" in printed()
    assert output.model() == Path("classifier.keras")
    assert "classifier.keras was not computed in this run" in printed()
    tables = [pd.DataFrame({"n": [0.123456789]}), pd.DataFrame({"n": [2]})]
    assert output.keep(tables, "a.csv")["n"].tolist() == [0.123456789, 2]
    # A run that stopped before its last file may have left some tables, not all.
    assert output.keep([], "a.csv")["n"].tolist() == [1]
    assert output.shown_run == "the committed run"
    printed()
    output.file("classifier.keras").touch()
    assert output.keep([], "a.csv")["n"].tolist() == [0.1234568, 2]
    assert output.model() == output.folder / "classifier.keras"
    assert output.shown_run == "an earlier run"
    assert printed() == ""
    with pytest.raises(ValueError, match=r"b\.csv is missing in runs/.*: run all"):
        output.keep([], "b.csv")


def test_committed_results_of_other_classes_are_not_taken(committed):
    """Their columns and figures would be taken for those of the photos at hand."""
    label = committed["label"].cat.rename_categories({"sea": "lake"})
    assert output_of(committed).has_committed_classes
    output = output_of(committed.assign(label=label))
    assert not output.has_committed_classes
    for take in (lambda: output.keep([], "a.csv"), output.model):
        with pytest.raises(
            ValueError, match=r"is missing in runs/.*: run all cells again"
        ):
            take()


def test_the_committed_results_say_what_they_are_made_with(
    bundled, monkeypatch, tmp_path
):
    """
    settings.json holds what a run of the notebook with the pinned versions would write.
    """
    pinned = NOTEBOOK.with_name("requirements.txt").read_text()
    versions = dict(re.findall(r"^(tensorflow|keras)==(\S+)", pinned, re.MULTILINE))
    monkeypatch.setattr(
        scenes, "VERSIONS", versions | {"format": scenes.RESULTS_FORMAT}
    )
    images = utils.create_validation(
        utils.drop_leaks(bundled[0]), SETTINGS["VALIDATION_RATIO"]
    )
    output = output_of(images, OUTPUT=tmp_path / "a")
    made = read_settings(output.folder)
    assert made == read_settings(NOTEBOOK.parent)
    results = pd.read_csv(NOTEBOOK.with_name("grid_search.csv"))
    for name in scenes.HYPERPARAMETERS:
        assert sorted(results[name].unique()) == sorted(made[f"{name.upper()}S"])


def test_a_table_of_photos_in_other_folders_is_refused(committed):
    """A later run without photos would look for them under the bundled names."""
    output = output_of(committed)
    output.keep([committed[["path", "label"]]], "test_predictions.csv")
    output.file("classifier.keras").touch()
    moved = committed.assign(path="train/" + committed["path"])
    other = output_of(moved)
    assert other.folder == output.folder
    told = (
        r"test_predictions\.csv is of photos in other folders, as '0\.jpg'; set PHOTOS"
    )
    with pytest.raises(ValueError, match=told):
        other.keep([], "test_predictions.csv")


def test_a_run_of_some_of_the_photos_takes_the_committed_table(committed):
    Path("results").mkdir()
    files.write_csv(committed[["path", "label"]], "results/a.csv")
    output = output_of(committed[::2])
    assert len(output.keep([], "a.csv")) == len(committed)


def test_what_is_edited_in_a_spreadsheet_runs_no_formula(committed):
    output = output_of(committed)
    table = pd.DataFrame({"path": ["=1+1/a.jpg", "é.jpg"], "n": [-1, 0.123456789]})
    output.write(table, "a.csv", edited=True)
    text = (output.folder / "results" / "a.csv").read_bytes().decode("utf-8")
    assert text == "path,n\n'=1+1/a.jpg,-1\né.jpg,0.1234568\n"
    output.write(table, "a.csv")
    assert files.read_csv(output.file("results/a.csv"))["path"][0] == "=1+1/a.jpg"


def test_a_table_that_its_owner_has_edited_is_kept_under_another_name(
    committed, printed
):
    output = runs.output_folder(dict(SETTINGS), committed)
    table = pd.DataFrame({"path": ["a.jpg"], "label": ["sea"]})
    csv = output.file("results/flagged_labels.csv")
    for edit in ("forest", "street"):
        output.write(table, csv.name, edited=True)
        output.write(table, csv.name, edited=True)  # the same bytes
        csv.write_text(f"path,label\na.jpg,{edit}\n")
    output.write(table, csv.name, edited=True)
    assert csv.read_text() == "path,label\na.jpg,sea\n"
    kept = sorted(path.name for path in csv.parent.glob("flagged*"))
    assert kept == [csv.name, "flagged_labels_2.csv", "flagged_labels_3.csv"]
    assert "forest" in (csv.parent / kept[1]).read_text()
    assert "street" in (csv.parent / kept[2]).read_text()
    said = (
        "Another flagged_labels.csv was there; it is kept as flagged_labels_{}.csv.\n"
    )
    assert printed() == said.format(2) + said.format(3)


def test_what_killed_runs_have_left_unfinished_goes_from_all_folders(committed):
    folder = Path(folder_of(committed))
    left = []
    for name in ("", "results", "plotly_plots"):
        (folder / name).mkdir(exist_ok=True)
        left.append(folder / name / ".a.unfinished-1.csv")
        left[-1].touch()
        os.utime(left[-1], (0, 0))
    folder_of(committed)
    assert not any(path.exists() for path in left)


def test_an_output_folder_that_cannot_be_made_is_an_error_that_names_it(
    committed, small_disk
):
    folder, make_read_only = small_disk
    make_read_only()
    with pytest.raises(OSError, match=rf"write {folder}/runs/.*\(Read-only"):
        folder_of(committed, OUTPUT=str(folder / "runs"))


def test_names_stand_in_a_settings_file_as_people_read_them(committed):
    labels = committed["label"].cat.rename_categories({"sea": "Größe"})
    folder = Path(folder_of(committed.assign(label=labels)))
    assert '"Größe"' in (folder / "settings.json").read_text(encoding="utf-8")
