"""What is written is whole, or what was there before: on full disks, on kill, on interrupts."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from conftest import read_table

import scenes.classifier
import scenes.features
import scenes.files
import scenes.plots
import scenes.settings
import utils

OLD = b"what was there before"
SCHEMA = {"features": (np.uint8, (60, 1280))}


@pytest.fixture(params=["features", "classifier", "html", "script"])
def write(request, drawn, trunk, classifier, shown):
    """Return the name of each file that the helpers write, and a function that writes it."""
    figure = go.Figure(go.Scatter(y=np.arange(20_000)))  # too large for the small disk
    images = read_table(drawn)
    rng = np.random.default_rng(0)
    many = pd.concat([images] * 4, ignore_index=True)
    rounded = rng.integers(0, 256, (len(many), 1280)).astype("uint8")

    def save_html(folder: Path) -> None:
        if not (folder / "plotly.min.js").exists():
            (folder / "plotly.min.js").touch()
        scenes.plots.save_figure(figure, "plot", folder)

    return {
        "features": (
            "f.npz",
            lambda at: scenes.features._write_features(at / "f.npz", many, rounded, "t"),
        ),
        "classifier": (
            "c.keras",
            lambda at: scenes.classifier.save_classifier(classifier, at / "c.keras"),
        ),
        "html": ("plot.html", save_html),
        "script": ("plotly.min.js", lambda at: scenes.plots.save_figure(figure, "plot", at)),
    }[request.param]


def test_a_csv_of_runs_keeps_the_other_runs_if_asked_to(tmp_path):
    csv = tmp_path / "runs.csv"
    table = pd.DataFrame({"run": [2, 2, 1], "epoch": [1, 2, 1], "loss": [0.5, 0.25, 1 / 3]})
    scenes.files.write_runs(table, csv)
    assert csv.read_text() == "run,epoch,loss\n1,1,0.3333333\n2,1,0.5\n2,2,0.25\n"
    other = pd.DataFrame({"run": [2], "epoch": [1], "loss": [0.75], "val": [9]})
    scenes.files.write_runs(other, csv, keep=True)
    assert csv.read_text() == "run,epoch,loss,val\n1,1,0.3333333,\n2,1,0.75,9\n"
    scenes.files.write_runs(other, csv)
    assert csv.read_text() == "run,epoch,loss,val\n2,1,0.75,9\n"
    assert not left_behind(tmp_path, "runs.csv", ".runs.csv.lock")


def left_behind(folder: Path, *expected: str) -> set[str]:
    """Return the names of the files in a folder that nobody expects there."""
    return {path.name for path in folder.iterdir()} - {*expected, "plotly.min.js"}


def test_a_file_is_written_and_nothing_else_stays(write, tmp_path):
    name, save = write
    folder = tmp_path / "results"
    folder.mkdir()
    save(folder)
    assert (folder / name).stat().st_size > 50_000
    assert not left_behind(folder, name, "plot.html")


def test_a_full_disk_leaves_the_old_file_and_says_so(write, small_disk):
    folder, _ = small_disk
    name, save = write
    if name != "plotly.min.js":  # the script is written once, and never again
        (folder / name).write_bytes(OLD)
    (folder / "others").write_bytes(bytes(40_000))
    with pytest.raises(OSError, match=r"cannot write .*\(No space left on device\)") as caught:
        save(folder)
    assert str(folder / name) in str(caught.value)
    assert not left_behind(folder, name, "others")
    if name != "plotly.min.js":
        assert (folder / name).read_bytes() == OLD


def test_a_read_only_folder_leaves_the_old_file_and_says_so(write, small_disk):
    folder, make_read_only = small_disk
    name, save = write
    if name != "plotly.min.js":
        (folder / name).write_bytes(OLD)
    if name == "plot.html":
        (folder / "plotly.min.js").touch()
    make_read_only()
    with pytest.raises(OSError, match=r"cannot write .*\(Read-only file system\)") as caught:
        save(folder)
    assert str(folder / name) in str(caught.value)
    assert not left_behind(folder, name)
    if name != "plotly.min.js":
        assert (folder / name).read_bytes() == OLD


def test_features_on_a_full_disk_are_an_error_and_the_next_run_has_a_cache(
    drawn, trunk, count, small_disk
):
    folder, _ = small_disk
    images, cache = read_table(drawn), folder / "cache.npz"
    few = images.iloc[::10]
    first = scenes.features.extract_features(few, drawn, trunk, cache=cache)
    (folder / "others").write_bytes(bytes(80_000))
    count()
    with pytest.raises(OSError, match=r"cannot write .*cache\.npz \(No space left on device\)"):
        scenes.features.extract_features(images, drawn, trunk, cache=cache)
    count()
    np.testing.assert_array_equal(
        scenes.features.extract_features(few, drawn, trunk, cache=cache), first
    )
    assert count() == 0
    (folder / "others").unlink()
    scenes.features.extract_features(images, drawn, trunk, cache=cache)
    assert count() == len(images) - len(few)


@pytest.mark.parametrize("cache", ["cache.npz", "new/cache.npz"])
def test_features_in_a_read_only_folder_are_an_error_that_names_it(drawn, trunk, small_disk, cache):
    folder, make_read_only = small_disk
    make_read_only()
    with pytest.raises(OSError, match=f"Read-only file system: '{folder}"):
        scenes.features.extract_features(read_table(drawn), drawn, trunk, cache=folder / cache)


def test_an_output_folder_that_cannot_be_made_is_an_error_that_names_it(drawn, small_disk):
    folder, make_read_only = small_disk
    make_read_only()
    settings = {**scenes.settings.SETTINGS, "OUTPUT": str(folder / "runs")}
    with pytest.raises(OSError, match=f"Read-only file system: '{folder}/runs'"):
        utils.output_folder(settings, read_table(drawn))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "results.csv"
    path.write_bytes(OLD)

    def write_half() -> None:
        with scenes.files.replacing(path) as beside:
            beside.write_bytes(b"half of the new o")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == OLD
    assert not left_behind(tmp_path, path.name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_while_writing_leaves_a_whole_file_and_the_next_run_works(tmp_path):
    """A child writes two versions in turn; 20 times it is killed at a random moment."""
    path = tmp_path / "arrays.npz"
    rng, delays = np.random.default_rng(0), random.Random(0)
    versions = [rng.integers(0, 256, (60, 1280)).astype("uint8") for _ in range(2)]
    scenes.files.write_arrays(path, {"features": versions[0]})
    killed_in_the_middle = 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            while True:
                for version in versions:
                    scenes.files.write_arrays(path, {"features": version})
        time.sleep(delays.uniform(0.01, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed_in_the_middle += len(left_behind(tmp_path, path.name)) > 0
        found = scenes.files.read_arrays(path, SCHEMA)["features"]
        assert any(np.array_equal(found, version) for version in versions)
    assert killed_in_the_middle > 0
    scenes.files.write_arrays(path, {"features": versions[1]})
    assert not left_behind(tmp_path, path.name)
    np.testing.assert_array_equal(scenes.files.read_arrays(path, SCHEMA)["features"], versions[1])
