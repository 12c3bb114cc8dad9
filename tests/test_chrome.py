"""
A Chrome that is missing, broken, slow or killed costs the pictures, one line, and no
run.
"""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from conftest import ROOT, find_browser
from PIL import Image

import scenes.chrome

FIGURE = go.Figure(go.Bar(y=[1, 2], marker_color="#0000ff")).update_layout(
    width=400, height=300
)
WAITS = 'until [ -e "$0.go" ]; do /bin/sleep 0.1; done\nexec {} "$@"'


@pytest.fixture
def chrome():
    """Return a Chrome that has not started yet."""
    return scenes.chrome._Chrome()


def write_program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def is_running(pid: int) -> bool:
    """
    Return whether a process runs; one that has ended may wait for its parent to notice.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (
        FileNotFoundError,
        ProcessLookupError,
    ):  # it ended before it was read, or while
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def ends(pid: int) -> bool:
    """Return whether a process ends within a minute."""
    return any(not is_running(pid) or time.sleep(0.1) for _ in range(600))


@pytest.mark.parametrize("kind", ["ends at once", "has no room for temporary files"])
def test_a_chrome_that_does_not_work_is_named_and_left_alone(
    chrome, monkeypatch, tmp_path, kind
):
    script = 'echo "This program needs its snap package." >&2\nexit 1'
    program = write_program(tmp_path / "chromium", script)
    monkeypatch.setenv("BROWSER_PATH", str(program))
    if kind != "ends at once":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    picture, line = chrome.draw(FIGURE)
    assert picture is None
    assert line.startswith("PNG export disabled: Chrome failed (")
    assert (
        "No such file or directory" if kind != "ends at once" else "BROWSER_PATH"
    ) in line
    assert chrome.draw(FIGURE) == (None, line)


@pytest.mark.parametrize(
    "starts", [False, pytest.param(True, marks=pytest.mark.browser)]
)
def test_a_chrome_that_is_slow_to_start_gets_a_second_chance(
    chrome, monkeypatch, tmp_path, starts
):
    program = write_program(tmp_path / "chromium", WAITS.format(find_browser()))
    monkeypatch.setenv("BROWSER_PATH", str(program))
    monkeypatch.setattr(scenes.chrome, "START_PATIENCE", 1)
    late = "Chrome did not start within 1 s; "
    assert chrome.draw(FIGURE)[1].startswith(f"No PNG of this plot: {late}")
    if starts:
        Path(f"{program}.go").touch()
        monkeypatch.setattr(scenes.chrome, "START_PATIENCE", 180)
        assert chrome.draw(FIGURE)[0]
    else:
        picture, line = chrome.draw(FIGURE)
        assert picture is None
        assert line.startswith(f"PNG export disabled: {late}")
        assert chrome.draw(FIGURE) == (None, line)
        assert ends(chrome._kaleido.subprocess.pid)


WITHOUT_CHROME = """
import plotly.graph_objects as go
import scenes.chrome, scenes.plots
scenes.chrome.START_PATIENCE = 1
for name in ("first", "second"):
    scenes.plots.show(go.Figure(go.Bar(y=[1, 2])), name, "plots")
"""


@pytest.mark.parametrize("kind", ["is missing", "hangs"])
def test_a_run_without_a_chrome_ends_well_with_pages_and_advice(tmp_path, kind):
    program = tmp_path / "bin" / "chrome"
    program.parent.mkdir()
    if kind == "hangs":
        write_program(program, WAITS)
    variables = {"PATH": str(program.parent), "BROWSER_PATH": str(program)}
    variables |= {"PYTHONPATH": str(ROOT)}
    options = {
        "cwd": tmp_path,
        "env": os.environ | variables,
        "timeout": 100,
        "check": False,
    }
    command = [sys.executable, "-c", WITHOUT_CHROME]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert (done.returncode, done.stderr) == (0, "")
    *late, advice = done.stdout.splitlines()
    assert len(late) == (kind == "hangs")
    assert advice.startswith("PNG export disabled: ")
    assert ("plotly_get_chrome" if kind == "is missing" else "BROWSER_PATH") in advice
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["README.md", "first.html", "plotly.min.js", "second.html"]


@pytest.mark.browser
def test_a_picture_has_twice_the_size_of_its_figure_and_is_the_same_again(chrome):
    (first, _), (again, _) = chrome.draw(FIGURE), chrome.draw(FIGURE)
    assert first == again
    for png, scale in ((first, 2), (scenes.chrome.halve(first), 1)):
        with Image.open(io.BytesIO(png)) as picture:
            assert (picture.format, picture.size) == ("PNG", (400 * scale, 300 * scale))
            blue = (np.array(picture.convert("RGB")) == (0, 0, 255)).all(
                axis=2
            )  # the bars
        assert blue.sum() > 5000 * scale**2


@pytest.mark.browser
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups")
@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_chrome_that_dies_or_stalls_between_two_plots_stops_no_run(
    chrome, monkeypatch, capsys, caplog, signal_sent
):
    assert chrome.draw(FIGURE)[0]
    pid = chrome._kaleido.subprocess.pid
    os.killpg(pid, signal_sent)
    monkeypatch.setattr(scenes.chrome, "PATIENCE", 1)
    picture, line = chrome.draw(FIGURE)
    assert picture is None
    assert line.startswith("PNG export disabled: Chrome failed (")
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""
    assert chrome.draw(FIGURE) == (None, line)
    assert ends(pid)
