"""A person's path, in a real browser: the notebook in JupyterLab, and an exported plot."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, find_browser
from test_notebook import NOTEBOOK, SMALL, code_cells, copy_project, environment, figures

import scenes
import scenes.plots

sync_api = pytest.importorskip("playwright.sync_api")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TOKEN = "test"
SETTINGS = {  # JupyterLab else draws only the cells in view, and looks for news
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

pytestmark = pytest.mark.browser


@pytest.fixture
def page():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        yield page
        browser.close()


@pytest.fixture
def screenshots(tmp_path):
    """Return the folder for screenshots; set SCREENSHOTS to look at them."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def project(tmp_path):
    """Return a copy of the project with small settings in the notebook's settings cell."""
    folder = tmp_path / "project"
    folder.mkdir()
    notebook = nbformat.read(copy_project(folder) / NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in SMALL.items())
    nbformat.write(notebook, folder / NOTEBOOK)
    return folder


@pytest.fixture
def jupyterlab(project, tmp_path):
    """Start JupyterLab on the copy, apart from its user's settings; return its address."""
    for name, values in SETTINGS.items():
        path = tmp_path / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={TOKEN}"]
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    variables = {name: str(tmp_path / folder) for name, folder in folders.items()}
    address = f"http://127.0.0.1:{port}"
    with open(tmp_path / "jupyterlab.log", "w") as log:
        server = subprocess.Popen(
            command, cwd=project, env=environment(**variables), stdout=log, stderr=log
        )
        try:
            wait_for_server(server, f"{address}/api/status?token={TOKEN}")
            yield f"{address}/lab/tree/{NOTEBOOK}?token={TOKEN}"
        finally:
            server.terminate()  # it ends its kernels, too
            server.wait(60)


def wait_for_server(server, address, seconds=120):
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("JupyterLab did not start")


@pytest.mark.slow
def test_all_cells_run_from_the_menu_of_jupyterlab(jupyterlab, project, page, screenshots):
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(jupyterlab)
    page.wait_for_selector("#jp-main-statusbar >> text=/Python 3.* Idle/", timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.mouse.move(0, 0)
    page.wait_for_function(ALL_RUN_OR_ERROR, timeout=600_000)

    assert page.locator(outputs_of_kind("error")).all_inner_texts() == []
    assert page.locator(outputs_of_kind("stderr")).all_inner_texts() == []
    plots = page.locator(".jp-RenderedPlotly").all()
    assert len(plots) == len(figures(nbformat.read(project / NOTEBOOK, as_version=4)))
    for plot in plots:
        still = plot.locator("img.plot-img")
        assert still.bounding_box()["width"] <= plot.bounding_box()["width"], "it is cut off"
        plot.hover()  # JupyterLab shows the image until the mouse comes
        plot.locator("svg.main-svg").first.wait_for()
    page.mouse.move(0, 0)
    photograph(page, screenshots)
    assert {re.match(r"\w+:(//[^/:]*)?", address)[0] for address in addresses} <= {
        "http://127.0.0.1",
        "data:",
        "blob:",
    }


def outputs_of_kind(kind):
    return f'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{kind}"]'


ALL_RUN_OR_ERROR = f"""() => document.querySelector('{outputs_of_kind("error")}') ||
    [...document.querySelectorAll(
        '.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)'  // a collapsed cell's is empty
    )].every(
        prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())
    )"""


def photograph(page, folder):
    """Save the whole notebook, page by page."""
    view = page.locator(".jp-NotebookPanel-notebook .jp-WindowedPanel-outer")
    height, shown = view.evaluate("view => [view.scrollHeight, view.clientHeight]")
    for number, top in enumerate(range(0, height, shown), start=1):
        view.evaluate("(view, top) => view.scrollTo(0, top)", top)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"notebook-{number:02}.png")


def test_exported_plot_draws_and_hovers_without_network(page, screenshots, tmp_path):
    rng = np.random.default_rng(0)
    long = "buildings <b>whose name is cut</b> beside the axes"
    classes = [long, *CLASSES[1:]]
    labels = pd.Series(pd.Categorical(rng.choice(classes, 300), categories=classes))
    predictions = np.where(rng.random(300) < 0.9, labels, rng.choice(classes, 300))
    figure = scenes.plots.confusion(labels, predictions, "Test photos")
    scenes.plots.show(figure, "confusion", tmp_path)

    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: said.type in ("error", "warning") and complaints.append(said.text),
    )
    page.goto((tmp_path / "confusion.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    plot = page.locator(".nsewdrag").bounding_box()
    page.mouse.move(plot["x"] + plot["width"] / 12, plot["y"] + plot["height"] / 12)
    tooltip = page.wait_for_selector(".hoverlayer .hovertext")
    page.screenshot(path=screenshots / "exported.png")
    assert re.search(f"predicted.*{long}.*true.*{long}", tooltip.text_content())
    assert f"{long[:23]}…" in page.locator(".xtick text").all_text_contents()
    assert complaints == []
    assert {url.split(":")[0] for url in requests} == {"file"}
