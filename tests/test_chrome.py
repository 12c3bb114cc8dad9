"""A Chrome that is missing, broken, slow or killed costs the pictures, one line, and no run."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plotly.graph_objects as go
import pytest
from conftest import find_browser
from PIL import Image

import scenes.chrome

FIGURE = go.Figure(go.Bar(y=[1, 2], marker_color="#0000ff")).update_layout(width=400, height=300)
BROKEN = {
    "ends": 'echo "This program needs its snap package." >&2\nexit 1',
    "lacks a library": "exit 127",
}
WAITS = 'until [ -e "$0.go" ]; do sleep 0.1; done\nexec {} "$@"'


@pytest.fixture
def chrome():
    """Return a Chrome that has not started yet."""
    return scenes.chrome._Chrome()


def write_program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended may wait for its parent to notice."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def ends(pid: int) -> bool:
    """Return whether a process ends within a minute."""
    return any(not is_running(pid) or time.sleep(0.1) for _ in range(600))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_chrome_that_does_not_work_is_named_and_left_alone(chrome, monkeypatch, tmp_path, kind):
    program = write_program(tmp_path / "chromium", BROKEN[kind])
    monkeypatch.setenv("BROWSER_PATH", str(program))
    picture, line = chrome.draw(FIGURE)
    assert picture is None
    assert line.startswith("PNG export disabled: Chrome failed (")
    assert "BROWSER_PATH" in line
    assert chrome.draw(FIGURE) == (None, line)


@pytest.mark.parametrize("starts", [False, pytest.param(True, marks=pytest.mark.browser)])
def test_a_chrome_that_is_slow_to_start_gets_a_second_chance(chrome, monkeypatch, tmp_path, starts):
    program = write_program(tmp_path / "chromium", WAITS.format(find_browser()))
    monkeypatch.setenv("BROWSER_PATH", str(program))
    monkeypatch.setattr(scenes.chrome, "START_PATIENCE", 2)
    late = "Chrome did not start within 2 s; "
    assert chrome.draw(FIGURE) == (
        None,
        f"No PNG of this plot: {late}the next plot waits once more.",
    )
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


@pytest.mark.browser
def test_a_machine_without_room_for_temporary_files_gets_no_pictures(chrome, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    picture, line = chrome.draw(FIGURE)
    assert picture is None
    assert chrome.draw(FIGURE) == (None, line)
    assert line.startswith("PNG export disabled: Chrome failed (")
    assert f"No such file or directory: '{tmp_path}" in line


WITHOUT_CHROME = """
import plotly.graph_objects as go
import scenes.chrome, scenes.plots
scenes.chrome.START_PATIENCE = 1
for name in ("first", "second"):
    scenes.plots.show(go.Figure(go.Bar(y=[1, 2])), name, "plots")
"""


@pytest.mark.parametrize("kind", ["is missing", "hangs"])
def test_a_run_without_a_chrome_ends_well_with_pages_and_advice(tmp_path, kind):
    (tmp_path / "nothing").mkdir()
    program = tmp_path / "nothing" / "chrome"
    if kind == "hangs":
        write_program(program, WAITS)
    environment = os.environ | {
        "PATH": f"{tmp_path}/nothing" + ("" if kind == "is missing" else f":{os.environ['PATH']}"),
        "BROWSER_PATH": str(program),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CHROME],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *late, advice = done.stdout.splitlines()
    assert len(late) == (kind == "hangs")
    assert advice.startswith("PNG export disabled: ")
    assert ("plotly_get_chrome" if kind == "is missing" else "BROWSER_PATH") in advice
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["first.html", "plotly.min.js", "second.html"]


@pytest.mark.browser
def test_a_picture_has_twice_the_size_of_its_figure_and_is_the_same_again(chrome):
    (first, _), (again, _) = chrome.draw(FIGURE), chrome.draw(FIGURE)
    assert first == again
    for png, scale in ((first, 2), (scenes.chrome.halve(first), 1)):
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.format == "PNG"
            assert picture.size == (400 * scale, 300 * scale)
            colours = picture.convert("RGB").getcolors(800 * 600)
        blue = sum(n for n, colour in colours if colour == (0, 0, 255))  # the bars
        assert blue > 5000 * scale**2


@pytest.mark.browser
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups")
@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_chrome_that_dies_or_stalls_between_two_plots_stops_no_run(
    chrome, monkeypatch, capsys, caplog, signal_sent
):
    assert chrome.draw(FIGURE)[0]
    pid = chrome._kaleido.subprocess.pid
    os.killpg(pid, signal_sent)
    monkeypatch.setattr(scenes.chrome, "PATIENCE", 3)
    picture, line = chrome.draw(FIGURE)
    assert picture is None
    assert line.startswith("PNG export disabled: Chrome failed (")
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""
    assert chrome.draw(FIGURE) == (None, line)
    assert ends(pid)
