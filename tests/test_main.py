"""
The command line says what photos show, names what fails, and writes what it is asked
to.
"""

import codecs
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import nbformat
import numpy as np
import pandas as pd
import papermill
import papermill.cli
import pytest
import sklearn
from conftest import CLASSES, ROOT, draw, small_base_model, small_head
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

import scenes.classifier
from scenes import photos, settings
from scenes.__main__ import main, read_parameters

PICTURES = Path(sklearn.__file__).parent / "datasets" / "images"


@pytest.fixture
def model(classifier, tmp_path):
    """Return the arguments that name a small model."""
    scenes.classifier.save_classifier(classifier, tmp_path / "model.keras")
    return ["--model", str(tmp_path / "model.keras")]


@pytest.fixture
def classify(model):
    """Return a function that classifies with the small model and returns the status."""
    return lambda *arguments: main(["classify", *map(str, arguments), *model])


@pytest.fixture
def album(tmp_path):
    """Return a folder of three photos, one of them in a folder below it."""
    folder = tmp_path / "album"
    (folder / "deep er").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "b.png", "deep er/c.jpg")):
        Image.fromarray(draw(seed)).save(folder / name)
    return folder


def test_the_committed_model_classifies_in_a_new_process(tmp_path):
    """The whole way as a reader takes it, from another folder than the checkout's."""
    command = [sys.executable, "-m", "scenes", "classify"]
    done = subprocess.run(
        [*command, *sorted(PICTURES.glob("*.jpg"))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(ROOT / "results" / "sample_predictions.csv")
    for line, row in zip(done.stdout.splitlines(), table.itertuples(), strict=True):
        shown = f"{row.path:10}  {row.label}  {table[CLASSES].loc[row.Index].max():.1%}"
        assert line == f"{PICTURES}/{shown}" + "  unsure" * row.unsure
    assert "Predicting" in done.stderr


def start(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "scenes", "classify", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


@pytest.mark.skipif(os.name == "nt", reason="Windows closes no stream of a program")
def test_without_standard_streams_the_csv_is_written(model, album, tmp_path):
    csv = tmp_path / "out.csv"
    started = start(
        str(album), "--csv", str(csv), *model, preexec_fn=lambda: os.closerange(0, 3)
    )
    assert started.wait(timeout=300) == 0
    assert len(pd.read_csv(csv)) == 3


@pytest.mark.skipif(
    not hasattr(signal, "SIGPIPE"), reason="this system has no broken pipes"
)
def test_a_reader_that_has_enough_ends_it_without_a_word(model, album):
    started = start(str(album), *model, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.stdout.close()
    assert "rror" not in started.stderr.read()
    assert started.wait(timeout=300) == -signal.SIGPIPE


def test_a_folder_is_walked_and_each_photo_has_a_row(
    classify, album, tmp_path, printed
):
    csv = tmp_path / "out.csv"
    assert classify(album, "--csv", csv) == 0
    table = pd.read_csv(csv)
    names = [Path(path).relative_to(album).as_posix() for path in table["path"]]
    assert names == ["a.jpg", "b.png", "deep er/c.jpg"]
    assert list(table.columns) == ["path", "label", "unsure", "confidence", *CLASSES]
    np.testing.assert_allclose(table[CLASSES].sum(axis=1), 1, atol=1e-4)
    assert len(printed().splitlines()) == 3


def test_what_cannot_be_read_is_named_at_the_end_and_the_rest_is_done(
    classify, album, tmp_path, capsys
):
    (album / "broken.jpg").write_bytes(b"no photo")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    problems = {
        "missing.jpg": "missing.jpg cannot be read",
        str(album): "broken.jpg cannot be read",
        str(tmp_path / "empty"): "there is no photo in it",
        str(tmp_path / "pipe.jpg"): "it is a pipe",
        "": "the name is empty",
        "~nobody at all/x": "~nobody at all/x cannot be read",
    }
    assert classify(*problems) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    end = err[err.index("6 file(s) failed:") :]
    assert [problem for problem in problems.values() if problem not in end] == []


def test_what_is_skipped_in_a_folder_is_said(classify, album, capsys):
    for name in ["b.heic", "d.dng", "i.jpg.download", "j"]:
        (album / name).touch()
    (album / "up").symlink_to("..")
    assert classify(album) == 0
    (line,) = re.findall("^Skipped: .*", capsys.readouterr().err, re.MULTILINE)
    for part in (
        r"b.heic, .*d.dng \(.*convert",
        r"i.jpg.download, .*j \(.*rename",
        r"up \(linked",
    ):
        assert re.search(part, line)


def test_a_name_that_begins_with_a_tilde_is_a_name(
    album, classify, monkeypatch, printed
):
    (album / "a.jpg").rename(album / "~a.jpg")
    (album / "deep er").rename(album / "~home")
    monkeypatch.chdir(album)
    assert classify("~a.jpg", "~home") == 0
    lines = printed().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["~a.jpg", "~home/c.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other users")
@pytest.mark.parametrize(
    "home",
    [
        None,
        "~nobody at all/x",
        *(pytest.param(home, marks=pytest.mark.slow) for home in ("", "/")),
    ],
)
def test_a_user_without_a_home_and_without_an_entry_can_classify(
    home, model, album, tmp_path
):
    """As in containers; Keras then keeps its files below /tmp."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import os, pwd\n"
    code += "pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))\n"
    code += "import scenes.__main__ as m; sys.exit(m.main(sys.argv[2:]))"
    environment = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "KERAS_HOME")
    }
    if home is not None:
        environment["HOME"] = home
    command = [sys.executable, "-c", code, str(ROOT), "classify", str(album), *model]
    options = {"env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, cwd=tmp_path, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_no_name_of_a_class_forges_a_line(album, tmp_path, printed):
    """And none runs as a formula."""
    classes = ["=1+1\x1b[2Ksea", "b\nforged.jpg  sea  99.9%", "c\u2028gpj"]
    base, head = small_base_model(0), small_head(3)
    foreign = scenes.classifier.build_classifier(base, head, classes)
    scenes.classifier.save_classifier(foreign, tmp_path / "foreign.keras")
    given = [album, "--model", tmp_path / "foreign.keras", "--csv", tmp_path / "a.csv"]
    assert main(["classify", *map(str, given)]) == 0
    out = printed()
    assert len(out.splitlines()) == 3
    assert all(character.isprintable() for character in out.replace("\n", ""))
    table = pd.read_csv(tmp_path / "a.csv", encoding="utf-8-sig")
    assert table.columns[4] == "'=1+1\x1b[2Ksea"


NAMES = {
    "bytes that are no text": (os.fsdecode(b"\xff.jpg"), r"\udcff.jpg"),
    "control characters": ("new\nline\x1b[2J\u2028.jpg", r"new\nline\x1b[2J\u2028.jpg"),
    "as long as can be": ("🏔" * 62 + ".jpg", "🏔" * 62 + ".jpg"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_any_bytes_are_shown_and_written(
    kind, classify, album, tmp_path, printed
):
    name, shown = NAMES[kind]
    try:
        (album / "a.jpg").rename(album / name)
    except OSError:
        pytest.skip("this file system takes text alone")
    csv = tmp_path / ("🏔" * 62 + ".csv")
    assert classify(album / name, "--csv", csv) == 0
    (line,) = printed().splitlines()
    assert line.startswith(f"{album / shown}  ")
    assert csv.read_bytes().startswith(codecs.BOM_UTF8)
    table = pd.read_csv(csv, encoding_errors="surrogateescape")
    assert table.loc[0, "path"] == (album / name).as_posix()


def test_nothing_but_unreadable_files_leaves_an_earlier_table(
    classify, album, tmp_path, capsys
):
    (album / "broken.jpg").write_bytes(b"no photo")
    csv = tmp_path / "out.csv"
    csv.write_text(earlier := "path,label,unsure,confidence,sea\na.jpg,sea,0,1,1\n")
    assert classify(album / "broken.jpg", "--csv", csv) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "1 file(s) failed:" in said.err
    assert csv.read_text() == earlier


def test_a_model_that_cannot_be_loaded_is_one_clear_error(album, tmp_path, capsys):
    (tmp_path / "o\x1b.keras").write_text("a letter")
    for name, told in {
        "none.keras": "",
        "o\x1b.keras": " is no saved classifier",
    }.items():
        assert main(["classify", str(album), "--model", str(tmp_path / name)]) == 1
        errors = re.findall("^error: .*", capsys.readouterr().err, re.MULTILINE)
        assert len(errors) == 1
        assert errors[0].isprintable()
        assert photos.printable(name) + told in errors[0]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--csv", "album/a.jpg"), "album/a.jpg must be a .csv file"),
        (
            ("--csv", "no folder/out.csv"),
            "no folder/out.csv must be a .csv file in a folder that exists",
        ),
        (("--csv", "mine.csv"), "mine.csv holds no predictions; choose another name"),
    ],
)
def test_what_would_be_written_over_is_refused_before_the_work(
    option, told, album, tmp_path, monkeypatch, capsys
):
    before = (album / "a.jpg").read_bytes()
    (tmp_path / "mine.csv").write_text("path,label\na.jpg,sea\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["classify", "album/b.png", *option])
    assert told in capsys.readouterr().err
    assert (album / "a.jpg").read_bytes() == before
    assert (tmp_path / "mine.csv").read_text() == "path,label\na.jpg,sea\n"


def test_an_interrupt_is_no_traceback(classify, album, monkeypatch):
    interrupt = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(scenes.classifier, "predict_readable", interrupt)
    assert classify(album) == 130


# --- export ---------------------------------------------------------------------------


def test_a_model_is_exported_and_replaces_no_file(model, tmp_path, capsys):
    whole, small = paths = [tmp_path / "whole.tflite", tmp_path / "small.tflite"]
    for path, option in zip(paths, ([], ["--int8"]), strict=True):
        command = ["export", model[1], str(path), *option]
        assert main(command) == 0
        assert path.with_suffix(".txt").read_text().split() == CLASSES
    assert small.stat().st_size < whole.stat().st_size / 2
    for there in (small, small.with_suffix(".txt")):  # one of the two is enough
        with pytest.raises(SystemExit):
            main(command)
        assert f"{there.name} exists; choose another name" in capsys.readouterr().err
        there.unlink()


# --- train ----------------------------------------------------------------------------


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """
    Work in a folder with a notebook of three cells, of which one fails at 4 epochs.
    """
    parameters = "PHOTOS = None\nOUTPUT = None\nEPOCHS = 25\nDROPOUTS = [0.1]"
    cells = [
        new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell("if EPOCHS == 4:\n    raise ValueError('4 is\\nodd')"),
        new_code_cell(
            "print(f'Model: {PHOTOS}\\n{OUTPUT} \\x1b[2J {EPOCHS!r} {DROPOUTS!r}')",
            id="summary",
        ),
    ]
    notebook = new_notebook(cells=cells)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.kernelspec = kernel
    nbformat.write(notebook, tmp_path / "intel_classification.ipynb")
    (tmp_path / "my classes").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    """Let nothing be executed: what is wrong is said before."""
    monkeypatch.setattr(papermill, "execute_notebook", Mock(side_effect=AssertionError))


def files_of(folder):
    """Return the content of each file of a folder, locks apart."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: path.read_bytes() for path in paths if path.suffix != ".lock"}


def test_train_runs_the_notebook_reports_and_ends_with_the_summary(
    small_project, capsys
):
    """And repeats what has failed, or has been done."""
    command = ["train", "my classes", "-p", "DROPOUTS", "[0.1, 0.2]", "-p", "EPOCHS"]
    assert main([*command, "3"]) == 0
    *_, model, rest = capsys.readouterr().out.splitlines()
    assert model == "Model: my classes"
    assert rest == rf"{Path('runs/my classes')} \x1b[2J 3 [0.1, 0.2]"
    output = small_project / "runs" / "my classes"
    first = files_of(output)
    assert set(first) == {"run.ipynb", "run.html"}
    assert b"Model: my classes" in first["run.html"]

    assert main([*command, "4"]) == 1
    [error] = re.findall("(?m)^error: .*", capsys.readouterr().err)
    failed = Path("runs/my classes/failed.ipynb")
    assert error == f"error: 4 is odd (ValueError in cell 3 of {failed})"
    assert b"4 is" in failed.read_bytes()
    assert files_of(output) == first | {"failed.ipynb": failed.read_bytes()}

    assert main([*command, "5"]) == 0
    assert set(files_of(output)) == {"run.ipynb", "run.html"}
    assert b"EPOCHS = 5" in (output / "run.ipynb").read_bytes()


def test_values_are_taken_as_papermill_takes_them_and_lists_too(monkeypatch):
    monkeypatch.setattr(settings, "check", lambda **values: None)
    for text in ("True", "None", "3", "-1", "0.5", "1e-05", "imagenet", "2 photos"):
        value = read_parameters([["SEED", text]])["SEED"]
        assert repr(value) == repr(papermill.cli._resolve_type(text))
    pairs = [["LEARNING_RATES", "[0.1, 1e-3]"], ["DROPOUTS", "0.1, 0.3"]]
    pairs.append(["OUTPUT", "2024"])
    expected = {"LEARNING_RATES": [0.1, 0.001], "DROPOUTS": [0.1, 0.3]}
    expected["OUTPUT"] = "2024"
    assert read_parameters(pairs) == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["intel_classification.ipynb"], "there is no folder intel_classification"),
        (
            ["my classes", "-p", "EPOCH", "3"],
            "Unknown setting EPOCH; the settings are ",
        ),
        (["my classes", "-p", "epochs", "3"], "Unknown setting epochs; the settings"),
        (["my classes", "-p", "EPOCHS", "0"], "EPOCHS is 0; it must be a whole number"),
        (["my classes", "-p", "OUTPUT", "[]"], "OUTPUT is []; it must be None or the "),
        (["my classes", "-p", "PHOTOS", "other"], "the photos are those of FOLDER: "),
        (["my classes", "-p", "DOWNLOAD", "True"], "the photos are those of FOLDER"),
    ],
)
def test_train_refuses_what_cannot_be_before_any_work(
    arguments, told, small_project, no_kernel, capsys
):
    assert main(["train", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {told}")
    assert len(said.splitlines()) == 1
    assert not (small_project / "runs").exists()


def test_train_starts_in_the_projects_folder(small_project, no_kernel, capsys):
    (small_project / "intel_classification.ipynb").unlink()
    assert main(["train", "my classes"]) == 1
    assert capsys.readouterr().err == "error: start in the project's folder\n"


@pytest.mark.parametrize("name", ["run.ipynb", "failed.ipynb", "run.html"])
def test_train_replaces_no_file_that_no_run_has_written(
    name, small_project, no_kernel, capsys
):
    output = small_project / "out"
    output.mkdir()
    own = new_notebook(cells=[new_code_cell("1")])
    nbformat.write(own, output / name)
    before = files_of(output)
    command = ["train", "my classes", "-p", "OUTPUT", "out"]
    assert main(command) == 1
    assert f"error: {Path('out', name)} " in capsys.readouterr().err
    assert files_of(output) == before


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, 130), (RuntimeError("Kernel died"), 1)]
)
def test_an_interrupted_run_leaves_the_notebook_and_report_of_an_earlier_one(
    error, status, small_project, monkeypatch
):
    assert main(["train", "my classes"]) == 0
    before = files_of(small_project / "runs")

    def interrupt(source, path, parameters):
        Path(path).write_text("half a notebook")
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", interrupt)
    assert main(["train", "my classes"]) == status
    assert files_of(small_project / "runs") == before


def test_train_says_what_was_understood_and_the_summary_however_it_was_cut(
    small_project, monkeypatch, printed
):
    pieces = [new_output("stream", text=text) for text in ("Mo", "del\n1")]
    table = new_output("execute_result", {"text/plain": "1"})
    understood = [new_output("stream", text="Found 2\n"), table]
    new = functools.partial(new_code_cell, execution_count=1)
    cells = [new(id="split", outputs=understood), new(id="summary", outputs=pieces)]

    def execute(source, path, parameters):
        run = new_notebook(cells=cells)
        nbformat.write(run, path)
        return run

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    assert main(["train", "my classes"]) == 0
    assert printed().splitlines()[1:] == ["Found 2", "Model", "1"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends other signals")
def test_an_interrupt_of_train_ends_the_kernel_without_a_traceback(small_project):
    notebook = nbformat.read("intel_classification.ipynb", as_version=4)
    source = (
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))"
    )
    notebook.cells[1].source = f"{source}\ntime.sleep(100)"
    nbformat.write(notebook, "intel_classification.ipynb")
    code = "import sys, scenes.__main__ as m; sys.exit(m.main(sys.argv[1:]))"
    # Started in the background, a process would ignore the signal.
    code = f"import signal; signal.signal(2, signal.default_int_handler); {code}"
    started = subprocess.Popen(
        [sys.executable, "-c", code, "train", "my classes"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    pid, end = small_project / "pid", time.monotonic() + 100
    while started.poll() is None and time.monotonic() < end:
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=100)
    assert started.returncode == 130
    assert "Traceback" not in said
    assert set(files_of(small_project / "runs")) == set()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
