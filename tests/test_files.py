"""
What is written is whole, or what was there before; what is read is checked, and not
run.
"""

import csv
import errno
import os
import pickle
import random
import re
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from unittest.mock import Mock

import filelock
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from conftest import Payload, damage, zip_edges
from numpy.random import default_rng

import scenes.classifier
from scenes import features, files, plots

OLD = b"what was there before"
SCHEMA = {"features": (np.uint8, (60, 1280))}


@pytest.fixture(params=["f.npz", "c.keras", "plot.html", "plotly.min.js"])
def write(request, table, base, classifier, shown, monkeypatch):
    """
    Return the name of each file that the helpers write, and a function that writes it.
    """
    figure = go.Figure(go.Scatter(y=np.arange(20_000)))  # too large for the small disk
    many = pd.concat([table] * 9, ignore_index=True)
    X = default_rng(0).uniform(0, 6, (len(many), 1280))
    if request.param == "plot.html":
        monkeypatch.setattr(plots, "get_plotlyjs", str)  # an empty script has room

    def save(folder: Path) -> None:
        if request.param == "f.npz":
            features.save_features(folder / "f.npz", many, X, base)
        elif request.param == "c.keras":
            scenes.classifier.save_classifier(classifier, folder / "c.keras")
        else:
            plots.show(figure, "plot", folder)

    return request.param, save


def test_a_spreadsheet_runs_no_text_as_a_formula(tmp_path):
    texts = [
        *(f"{sign}1+1" for sign in "=+-@\t\r"),
        "a=1",
        "冰",
        "two\rlines",
        "two\nlines",
    ]
    table = pd.DataFrame({"path": texts, "label": pd.Categorical(texts), "-1": -0.5})
    files.write_spreadsheet(table, tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", "'-1"]
    inert = [f"'{text}" for text in texts[:6]] + texts[6:]
    assert rows == [[text, text, "-0.5"] for text in inert]


def left_behind(folder: Path, *expected: str) -> set[str]:
    """Return the names of the files in a folder that nobody expects there."""
    return {path.name for path in folder.iterdir()} - {*expected, "plotly.min.js"}


def test_a_file_reaches_the_disk_before_it_takes_its_place(
    write, tmp_path, monkeypatch
):
    """Else a power cut could leave an empty file under its final name."""
    (name, save), folder = write, tmp_path / "results"
    folder.mkdir()
    flushed, fsync, replace = [], os.fsync, os.replace

    def flush(number: int) -> None:
        flushed.append(os.fstat(number).st_ino)
        fsync(number)

    def put(source: Path, target: Path) -> None:
        assert flushed[-1] == source.stat().st_ino
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", put)
    save(folder)
    assert flushed[-1] == folder.stat().st_ino
    assert (folder / name).stat().st_size > 50_000
    assert not left_behind(folder, name, "plot.html", "README.md")


def test_a_full_disk_leaves_the_old_file_and_says_so(write, small_disk):
    folder, _ = small_disk
    name, save = write
    (folder / name).write_bytes(OLD)
    (folder / "others").write_bytes(bytes(40_000))
    with pytest.raises(
        OSError, match=rf"cannot write {folder / name} \(No space left on device\)"
    ):
        save(folder)
    assert not left_behind(folder, name, "others")
    assert (folder / name).read_bytes() == OLD


def test_a_read_only_folder_leaves_the_old_file_and_says_so(write, small_disk):
    folder, make_read_only = small_disk
    name, save = write
    (folder / name).write_bytes(OLD)
    if name == "plot.html":
        (folder / "plotly.min.js").touch()
    make_read_only()
    with pytest.raises(
        OSError, match=rf"cannot write {folder / name} \(Read-only file system\)"
    ):
        save(folder)
    assert not left_behind(folder, name)
    assert (folder / name).read_bytes() == OLD


def test_a_table_in_a_folder_that_is_not_there_is_an_error_with_a_number(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*none/a\.csv \(") as caught:
        files.write_csv(pd.DataFrame(), tmp_path / "none" / "a.csv")
    assert caught.value.errno == errno.EIO  # pandas gives none


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "results.csv"
    path.write_bytes(OLD)
    with pytest.raises(error), files.replacing(path) as beside:  # noqa: PT012
        beside.write_bytes(b"half of the new o")
        raise error
    assert path.read_bytes() == OLD
    assert not left_behind(tmp_path, path.name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_while_writing_leaves_a_whole_file_and_the_next_run_works(tmp_path):
    """A child writes two versions in turn; 20 times it is killed at a random moment."""
    path = tmp_path / "arrays.npz"
    rng, delays = default_rng(0), random.Random(0)
    versions = [rng.integers(0, 256, (60, 1280)).astype("uint8") for _ in range(2)]
    files.write_arrays(path, {"features": versions[0]})
    killed_in_the_middle = 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            while True:
                for version in versions:
                    files.write_arrays(path, {"features": version})
        time.sleep(delays.uniform(0.01, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed_in_the_middle += len(left_behind(tmp_path, path.name)) > 0
        found = files.read_arrays(path, SCHEMA)["features"]
        assert any(np.array_equal(found, version) for version in versions)
    assert killed_in_the_middle > 0
    with files.locked(path):
        files.write_arrays(path, {"features": versions[1]})
    assert not left_behind(tmp_path, path.name, ".arrays.npz.lock")


def test_only_what_a_killed_process_left_unfinished_is_cleared_away(tmp_path):
    """Of the locked file at once, of others once nothing is written for an hour."""
    others = {
        ".a.unfinished-1-notes.csv",
        ".a.unfinished-.csv",
        "a.unfinished-1.csv",
    }
    young = {".b.unfinished-1.csv", ".a.unfinished-1.npz", ".a.b.unfinished-1.csv"}
    old = {".c.unfinished-1.csv", ".d.unfinished-2"}
    for name in others | young | old | {".a.unfinished-123.csv"}:
        (tmp_path / name).touch()
    for name in others | old:
        os.utime(tmp_path / name, (0, 0))
    an_hour_ago = time.time() - 3500
    os.utime(tmp_path / ".b.unfinished-1.csv", (an_hour_ago, an_hour_ago))
    with files.locked(tmp_path / "a.csv"):
        assert left_behind(tmp_path, ".a.csv.lock") == others | young
    files.clear_unfinished(tmp_path / "none")


def test_a_second_writer_waits_with_a_word_and_then_stops(
    tmp_path, monkeypatch, printed
):
    path = tmp_path / "a.csv"
    first = files.locked(path)
    first.__enter__()
    release = threading.Timer(0.3, first.__exit__, (None, None, None))
    release.start()
    with files.locked(path):
        release.join()
        told = f"Another run is writing {path}; waiting up to 60 s for its end.\n"
        assert printed() == told
        monkeypatch.setattr(files, "WAIT", 0.1)
        with (
            pytest.raises(RuntimeError, match=r"another run is writing .*a\.csv; wait"),
            files.locked(path),
        ):
            pass
    assert len(printed().splitlines()) == 1
    with files.locked(path):
        assert printed() == ""


def test_two_processes_that_write_one_file_do_not_mix(tmp_path, monkeypatch):
    """The second begins when the first is half done, and ends after it."""
    path = tmp_path / "results.csv"
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with files.replacing(path) as first:
        first.write_text("first, half")
        monkeypatch.setattr(os, "getpid", lambda: 2)
        second = files.replacing(path)
        second.__enter__().write_text("second, half")
        first.write_text("first, whole")
    assert path.read_text() == "first, whole"
    second.__exit__(None, None, None)
    assert path.read_text() == "second, half"
    assert not left_behind(tmp_path, path.name)


# --- What is read ---------------------------------------------------------------------

KINDS = {
    "format": ("i", ()),
    "names": ("U", ("n",)),
    "labels": (np.int16, ("n",)),
    "features": (np.uint8, ("n", 3)),
    "losses": (np.float32, (2, "k")),
}
GOOD = {
    "format": np.array(2),
    "names": np.array(["a", "bc", "d", "é"]),
    "labels": np.array([0, 1, 2, 300], "int16"),
    "features": np.arange(12, dtype="uint8").reshape(4, 3),
    "losses": np.array([[1, 0.5], [0.25, np.nan]], "float32"),
}


@pytest.fixture
def arrays(tmp_path):
    """Return the path of a file of arrays."""
    files.write_arrays(tmp_path / "arrays.npz", GOOD)
    return tmp_path / "arrays.npz"


def check_same(found: dict[str, np.ndarray]) -> None:
    for name, array in GOOD.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def refused(path: Path, word: str = "") -> None:
    told = (
        rf"^{re.escape(str(path))} cannot be read: (?s:.*){word}.*\. "
        rf"Delete it or fetch it again"
    )
    with pytest.raises(ValueError, match=told):
        files.read_arrays(path, KINDS)


def test_arrays_are_read_as_they_were_written(arrays):
    check_same(files.read_arrays(arrays, KINDS))
    few = {"format": ("i", ()), "losses": ("f", ("m", 2))}  # others are passed over
    assert set(files.read_arrays(arrays, few)) == set(few)
    files.write_arrays(arrays, {"labels": np.zeros(0, "int16")})
    assert len(files.read_arrays(arrays, {"labels": KINDS["labels"]})["labels"]) == 0
    arrays.unlink()
    with pytest.raises(FileNotFoundError):
        files.read_arrays(arrays, KINDS)


# What can be wrong with an array in a file whose checksums are right.
WRONG = {
    "cut": lambda array: array[:-1] if array.ndim else array[None],
    "longer": lambda array: (
        np.concatenate([array, array]) if array.ndim else array[None]
    ),
    "another axis": lambda array: array[..., None],
    "no rows": lambda array: array.reshape(-1)[:0],
    "wider": lambda array: np.zeros(array.shape, "float64"),
    "bytes": lambda array: np.zeros(array.shape, "S8"),
    "other bytes first": lambda array: np.zeros(array.shape, ">f8"),
    "structured": lambda array: np.zeros(array.shape, [("a", "i4"), ("b", "f4")]),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("harm", WRONG)
def test_an_array_of_another_type_or_shape_is_refused_by_name(arrays, name, harm):
    np.savez(arrays, **GOOD | {name: WRONG[harm](GOOD[name])})
    refused(arrays, "" if harm in ("cut", "longer", "no rows") else name)


def test_an_array_that_is_missing_or_is_no_array_is_refused(arrays):
    np.savez(arrays, **{name: array for name, array in GOOD.items() if name != "names"})
    refused(arrays, "names")
    with zipfile.ZipFile(arrays, "a") as archive:
        archive.writestr("names.npy", b"no array")
    refused(arrays, "names is ")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_refused_or_read_right(arrays, seed):
    """1,500 cases: cut off somewhere, or with one to eight bytes changed."""
    good = arrays.read_bytes()
    rng, edges, found = default_rng(seed), zip_edges(good), 0
    for _ in range(500):
        arrays.write_bytes(damage(good, rng, edges))
        try:
            check_same(files.read_arrays(arrays, KINDS))
        except ValueError as error:
            assert str(error).startswith(f"{arrays} cannot be read: ")  # noqa: PT017
            found += 1
    assert found > 350


@pytest.mark.parametrize("in_an_array", [True, False])
def test_a_pickle_in_a_file_of_arrays_is_not_run(arrays, tmp_path, in_an_array):
    proof = tmp_path / "proof"
    if in_an_array:
        np.savez(arrays, **GOOD | {"names": np.array([Payload(proof)] * 4)})
    else:
        arrays.write_bytes(pickle.dumps(Payload(proof)))
    refused(arrays)
    assert not proof.exists()
    loaded = np.load(arrays, allow_pickle=True)
    assert loaded is None or loaded["names"].size == 4
    assert proof.exists(), "where pickles are allowed, it runs"


@pytest.mark.skipif(
    os.name == "nt" or sys.platform == "darwin", reason="names are text there"
)
def test_names_of_any_bytes_are_written_and_read(tmp_path):
    name = os.fsdecode(b"sea-\xff.jpg")
    table = pd.DataFrame({"path": [name, "straße 北.jpg"], "n": [1, 2]})
    csv = tmp_path / os.fsdecode(b"\xfe.csv")
    files.write_csv(table, csv)
    assert (
        csv.read_bytes() == b"path,n\nsea-\xff.jpg,1\n" + "straße 北.jpg,2\n".encode()
    )
    assert files.read_csv(csv)["path"].tolist() == table["path"].tolist()
    files.write_arrays(tmp_path / "a.npz", {"path": np.array([name])})
    found = files.read_arrays(tmp_path / "a.npz", {"path": ("U", ("n",))})
    assert found["path"].tolist() == [name]
    assert len(files.fingerprint(table)) == 16


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_and_used(
    number, tmp_path, monkeypatch, printed
):
    fcntl = pytest.importorskip("fcntl", reason="Windows has other locks")
    monkeypatch.setattr(
        fcntl, "flock", Mock(side_effect=OSError(number, "no locks here"))
    )
    path, others = tmp_path / "new" / "a.csv", tmp_path / "new" / ".a.unfinished-1.csv"
    for _ in range(2):  # nothing stays that would keep a later run out
        with files.locked(path):
            others.touch()
            assert not files.is_locked(path)
        assert "No file can be locked in" in printed()
        assert others.exists(), "another run may be writing it"


def test_a_file_is_locked_while_a_run_writes_it(tmp_path, monkeypatch):
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    with files.locked(path):
        assert files.is_locked(path)
        assert not files.is_locked(other)
    assert not files.is_locked(path)
    monkeypatch.setattr(os, "open", Mock(side_effect=OSError(errno.EIO, "no disk")))
    with pytest.raises(OSError, match="no disk"):
        files.is_locked(path)


# --- Fingerprints ---------------------------------------------------------------------


def test_a_fingerprint_is_of_values_and_the_same_everywhere():
    """
    The digits themselves are the test: they stand in file names and settings.json.
    """
    table = pd.DataFrame({"label": pd.Categorical(["sea", "forest"]), "n": [1, 2]})
    rows = np.arange(6, dtype="int32").reshape(2, 3)
    parts = [{"b": [1, 0.1], "a": ("x", None, True)}, rows, table, "é"]
    assert files.fingerprint(*parts) == "14babb64ab86d4ed"
    same = [
        {"a": ["x", None, np.bool_(True)], "b": (np.int64(1), np.float64(0.1))},
        np.asfortranarray(rows),
        table.astype({"label": str}),
        "é",
    ]
    assert files.fingerprint(*same) == files.fingerprint(*parts)
    for part, other in zip(same, (0, rows.T, table.iloc[::-1], "e"), strict=True):
        others = [other if p is part else p for p in same]
        assert files.fingerprint(*others) != files.fingerprint(*parts)


def test_fingerprints_tell_types_and_shapes_apart():
    zeros, texts = np.zeros((2, 6), "float32"), np.array(["a", "b"])
    kinds = [
        zeros,
        zeros.reshape(3, 4),
        zeros.astype("int32"),
        zeros[:1],
        zeros[0],
        zeros.tolist(),
    ]
    kinds += [["ab", "c"], ["a", "bc"], ["abc"], [["a", "b"], []]]
    assert len({files.fingerprint(kind) for kind in kinds}) == len(kinds)
    for part, same in (
        (Path("a"), "a"),
        (texts, ["a", "b"]),
        (pd.Series(texts), ["a", "b"]),
    ):
        assert files.fingerprint(part) == files.fingerprint(same)
    with pytest.raises(TypeError, match="not object"):
        files.fingerprint(object())


def test_a_lock_ends_with_the_writing_and_not_with_its_object(tmp_path, monkeypatch):
    monkeypatch.delattr(filelock.BaseFileLock, "__del__")  # which Python may call later
    with files.locked(tmp_path / "a.csv"):
        pass
    assert not files.is_locked(tmp_path / "a.csv")


def test_a_table_keeps_7_digits_and_names_that_look_like_numbers(tmp_path):
    names = {"path": ["1.50"], "digest": ["0e1"], "label": ["01"]}
    files.write_csv(pd.DataFrame(names | {"n": [1 / 3]}), tmp_path / "a.csv")
    read = files.read_csv(tmp_path / "a.csv")
    assert read.to_dict("list") == names | {"n": [0.3333333]}


@pytest.mark.parametrize(
    ("sep", "coding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")]
)
def test_a_spreadsheet_is_read_as_text_in_each_of_its_forms(sep, coding, tmp_path):
    rows = [["note", " Path", "LABEL", ""], ["1,5;", "01", "NA", "", ""]]
    rows += [["", " ", "", ""], ["x", "2.50"]]
    text = "".join(sep.join(row) + "\r\n" for row in [["sep=" + sep], *rows])
    text = text.replace("1,5;", '"1,5;"')
    (tmp_path / "a.csv").write_bytes(text.encode(coding))
    table = files.read_spreadsheet(tmp_path / "a.csv", ["label", "path"])
    assert table.to_dict("split") == {
        "index": [0, 2],
        "columns": ["label", "path"],
        "data": [["NA", "01"], ["", "2.50"]],
    }


def test_digits_and_bytes_of_another_coding_are_kept_in_a_spreadsheet(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"path,label\ncaf\xe9.jpg,01\n")
    table = files.read_spreadsheet(tmp_path / "a.csv", ["path", "label"])
    assert table.to_numpy().tolist() == [["caf\udce9.jpg", "01"]]


def test_what_cannot_be_read_is_not_taken_for_our_own(tmp_path):
    assert not files.begins_with(tmp_path, b"")
