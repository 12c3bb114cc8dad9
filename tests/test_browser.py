"""
A person's path, in a real browser: the notebook in JupyterLab, and an exported plot.
"""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, find_browser
from test_notebook import (
    NOTEBOOK,
    PLOTLY,
    ROOT,
    SMALL,
    copy_project,
    environment,
    figures,
    short,
)

import scenes
import scenes.plots
import scenes.report

sync_api = pytest.importorskip("playwright.sync_api")

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
TOKEN = "test"
SETTINGS = {  # JupyterLab else draws only the cells in view, and looks for news
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
}

pytestmark = pytest.mark.browser


@pytest.fixture
def page():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        yield page
        browser.close()


def not_run_yet(cells):
    """Return the cells of `short` with small settings and without outputs."""
    for cell in short(cells):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if cell.id == "parameters":
            cell.source += "".join(
                f"\n{name} = {value!r}" for name, value in SMALL.items()
            )
    return cells


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return copy_project(folder, not_run_yet)


@pytest.fixture
def jupyterlab(project, tmp_path):
    """
    Start JupyterLab on the copy, apart from its user's settings; return its address.
    """
    for name, values in SETTINGS.items():
        path = tmp_path / "JUPYTERLAB_SETTINGS_DIR" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.ip=127.0.0.1",
    ]
    command += [f"--IdentityProvider.token={TOKEN}"]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    variables = {name: str(tmp_path / name) for name in names}
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
def test_all_cells_run_from_the_menu_of_jupyterlab(jupyterlab, project, page):
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(jupyterlab)
    page.wait_for_selector(
        "#jp-main-statusbar >> text=/Python 3.* Idle/", timeout=120_000
    )
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
        assert still.bounding_box()["width"] <= plot.bounding_box()["width"], (
            "it is cut off"
        )
        plot.hover()  # JupyterLab shows the image until the mouse comes
        plot.locator("svg.main-svg").first.wait_for()
    hosts = {re.match(r"\w+:(//[^/:]*)?", address)[0] for address in addresses}
    assert hosts <= {"http://127.0.0.1", "data:", "blob:"}


def outputs_of_kind(kind):
    return f'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{kind}"]'


ALL_RUN_OR_ERROR = f"""() => document.querySelector('{outputs_of_kind("error")}') ||
    [...document.querySelectorAll(
        '.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)'  // a collapsed cell's is empty
    )].every(
        prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())
    )"""


LONG = "buildings <b>whose name is cut</b> beside the axes"


@pytest.fixture(scope="module")
def confusion():
    """Return a confusion matrix of classes, one of them with a long name."""
    labels = pd.Series(pd.Categorical([LONG, *CLASSES[1:]] * 20))
    return scenes.plots.confusion(
        labels, [LONG, "sea", *CLASSES[2:]] * 20, "Test photos"
    )


def test_exported_plot_draws_and_hovers_without_network(page, confusion, tmp_path):
    scenes.plots.show(confusion, "confusion", tmp_path)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text))
    page.goto((tmp_path / "confusion.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    plot = page.locator(".nsewdrag").bounding_box()
    page.mouse.move(plot["x"] + plot["width"] / 12, plot["y"] + plot["height"] / 12)
    tooltip = page.wait_for_selector(".hoverlayer .hovertext")
    assert re.search(f"predicted.*{LONG}.*true.*{LONG}", tooltip.text_content())
    assert f"{LONG[:23]}…" in page.locator(".xtick text").all_text_contents()
    assert complaints == []
    assert {url.split(":")[0] for url in requests} == {"file"}


OVERLAPS = """() => {
    const texts = [...document.querySelectorAll('.js-plotly-plot text')].filter(
        text => text.textContent.trim() && getComputedStyle(text).opacity > 0
    );
    const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
    const pairs = boxes.flatMap((one, i) => boxes.slice(i + 1).map(two => [one, two]));
    return pairs.filter(([[, a], [, b]]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1
    ).map(pair => pair.map(([text]) => text));
}"""


def test_no_labels_of_a_plot_of_many_classes_overlap(page, tmp_path):
    rng, number = np.random.default_rng(0), 100
    codes = np.arange(400) % number
    guesses = np.where(rng.random(400) < 0.6, codes, rng.integers(0, number, 400))
    names = [f"class {i:03} {'of a long name' * (i % 3)}" for i in range(number)]
    labels = pd.Series(pd.Categorical.from_codes(codes, names))
    predictions = np.array(names, dtype=object)[guesses]
    splits = rng.choice(["train", "test"], 400)
    features = np.eye(number)[codes] + rng.normal(0, 0.1, (400, number))
    images = pd.DataFrame({"label": labels, "split": splits})
    plots = [
        scenes.plots.counts(images),
        scenes.plots.feature_map(features, labels, predictions != labels.astype(str)),
        scenes.plots.confusion(labels, predictions),
    ]
    for figure in plots:
        figure.write_html(tmp_path / "plot.html", include_plotlyjs=True)
        page.goto((tmp_path / "plot.html").as_uri())
        page.wait_for_selector(".js-plotly-plot .xtitle")
        assert page.locator("text").count() > 5
        assert page.evaluate(OVERLAPS) == []


def test_a_page_made_of_the_html_forms_shows_each_plot_without_network(
    page, confusion, shown, monkeypatch, tmp_path
):
    """As nbconvert puts them into a page, which is then moved."""
    monkeypatch.setattr(scenes.plots, "_first", {})
    for name in ("first", "second"):
        scenes.plots.show(confusion, name, tmp_path / "plots")
    forms = "".join(data["text/html"] for data in shown)
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><meta charset='utf-8'>{forms}")
    page.route(re.compile("^http"), lambda route: route.abort())
    page.goto((tmp_path / "page.html").as_uri())
    for name in ("first", "second"):
        page.wait_for_selector(f"#{name} .xtick text")


PLACE = """plot => {
    const trace = plot._fullData.find(data => data.hoverinfo !== 'skip');
    const point = trace.type === 'heatmap' ? 0 : Math.floor(trace.x.length / 2);
    const axis = name => plot._fullLayout[`${name[0]}axis${name.slice(1)}`];
    const [x, y] = [axis(trace.xaxis), axis(trace.yaxis)];
    const box = plot.getBoundingClientRect();
    return [
        box.left + x._offset + x.d2p(trace.x[point]),
        box.top + y._offset + y.d2p(trace.y[point]),
    ];
}"""


def open_without_network(page, path):
    """Open a file; return what was to be sent over the network, and what was said."""
    sent, complaints = [], []

    def refuse(route):
        sent.append(route.request.url)
        route.abort()

    page.route(re.compile("^(http|ws)"), refuse)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .xtick text")
    return sent, complaints


def test_the_report_of_the_committed_notebook_is_alive_without_network(page, tmp_path):
    report = tmp_path / "à côté" / "report.html"
    report.parent.mkdir()
    scenes.report.write(ROOT / NOTEBOOK, report)
    sent, complaints = open_without_network(page, report)
    drawn = figures(nbformat.read(ROOT / NOTEBOOK, as_version=4))
    plots = page.locator(".js-plotly-plot")
    assert plots.count() == len(drawn) > 8
    for plot, data in zip(plots.all(), drawn.values(), strict=True):
        plot.scroll_into_view_if_needed()
        assert plot.evaluate("plot => plot._fullData.length") == len(
            data[PLOTLY]["data"]
        )
        assert plot.locator(".hovertext").count() == 0
        page.mouse.move(*plot.evaluate(PLACE))
        assert plot.locator(".hovertext").first.text_content()
        page.mouse.move(0, 0)
    assert page.locator("img").evaluate_all("all => all.every(i => i.naturalWidth)")
    assert (sent, complaints) == ([], [])


def test_a_report_shows_names_as_they_are_and_fetches_nothing(
    page, confusion, tmp_path
):
    """Not even a picture that a cell of its user shows."""
    image = "<img src='http://example.com/x.png'><link rel=stylesheet href=//a.b/c.css>"
    forms = [
        {PLOTLY: json.loads(confusion.to_json())},
        {"text/html": pd.DataFrame({LONG: [1]}).to_html()},
        {"text/html": f"{image}<script>fetch('http://example.com')</script>"},
    ]
    new = nbformat.v4
    outputs = [new.new_output("display_data", data) for data in forms]
    outputs.append(new.new_output("stream", name="stdout", text=f"Found {LONG}"))
    cell = new.new_code_cell("show()", execution_count=1, outputs=outputs)
    nbformat.write(new.new_notebook(cells=[cell]), tmp_path / "<b>run.ipynb")
    scenes.report.write(tmp_path / "<b>run.ipynb", tmp_path / "run.html")
    sent, complaints = open_without_network(page, tmp_path / "run.html")
    assert page.title() == "<b>run"
    assert page.locator("th", has_text=LONG).count() == 1
    assert page.locator("pre", has_text=f"Found {LONG}").count() == 1
    assert page.locator("b").count() == 0
    assert sum("Content Security Policy" in said for said in complaints) >= 3
    assert sent == []
