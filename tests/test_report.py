"""A report is one page that holds all that a notebook shows, and replaces no other."""

import base64
import functools
import io
import json
import re

import nbformat
import pandas as pd
import pytest
from conftest import CLASSES, ROOT, draw
from PIL import Image
from plotly.offline import get_plotlyjs

from scenes import plots, report
from scenes.__main__ import main

ODD = "<b>déjà</b> & sea"


def png(seed):
    """Return a drawn photo as a PNG in base64."""
    Image.fromarray(draw(seed)).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def executed():
    """Return a notebook with text, two plots, a table, a photo and an empty output."""
    new = nbformat.v4
    labels = pd.Series(pd.Categorical([ODD, *CLASSES[1:]] * 20))
    figure = plots.confusion(labels, [ODD, "sea", *CLASSES[2:]] * 20)
    plot = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    plot["image/png"] = png(0)
    table = {"text/html": pd.DataFrame({ODD: [0.942]}).to_html()}
    photo = {"image/png": png(1), "text/plain": "<Figure>"}
    shown = [
        new.new_output("display_data", data)
        for data in (plot, {}, table, photo, plot | {"text/html": "older form"})
    ]
    shown.append(new.new_output("stream", name="stdout", text=f"Found {ODD}\n"))
    cells = [
        new.new_markdown_cell("# A run\n\n![The idea](docs/idea.svg)"),
        new.new_code_cell("show()", execution_count=1, outputs=shown),
    ]
    return new.new_notebook(cells=cells)


@pytest.fixture
def run(executed, tmp_path):
    """Return the path of the executed notebook, in a folder of an odd name."""
    path = tmp_path / "à côté" / "<i>my run.ipynb"
    path.parent.mkdir()
    nbformat.write(executed, path)
    return path


def test_a_page_holds_text_tables_photos_and_each_plot_with_the_script_once(run):
    assert main(["report", str(run)]) == 0
    page = run.with_suffix(".html").read_text("utf-8")
    assert page.count(get_plotlyjs()[:200]) == 1
    assert page.count("Plotly.newPlot(") - get_plotlyjs().count("Plotly.newPlot(") == 2
    assert "older form" not in page
    assert png(0) not in page, "the plots are live"
    assert png(1) in page, "a photo of the owner stays in the report"
    assert "<td>0.942</td>" in page
    svg = (ROOT / "docs" / "idea.svg").read_bytes()
    assert base64.b64encode(svg).decode() in page


def test_a_page_names_no_address_and_shows_names_as_they_are(run):
    report.write(run, run.with_suffix(".html"))
    page = run.with_suffix(".html").read_text("utf-8").replace(get_plotlyjs(), "")
    assert set(re.findall(r"(?:src|href)=\"([^\"]{,5})", page)) <= {"data:", "#A-ru"}
    assert re.findall(r"(?:url\(|import\b)[\"'( ]*https?:", page) == []
    assert "default-src 'none'" in page[: page.index("<title>&lt;i&gt;my run")]
    assert page.count("&lt;b&gt;déjà&lt;/b&gt; &amp; sea") == 2, "printed, in a table"
    assert "<b>" not in page


def test_an_earlier_report_is_replaced_and_no_other_file(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    command = ["report", str(run), "--output", str(page)]
    for text in ("a user's own", "", f"{'x' * 2000}{report.MARK}"):
        page.write_text(text)
        assert main(command) == 1
        told = f"error: {page} exists and is no report; choose another place\n"
        assert capsys.readouterr().err == told
        assert page.read_text() == text
    page.unlink()
    for _ in range(2):
        assert main(command) == 0
        assert capsys.readouterr().out == f"Wrote {page}.\n"
    assert not run.with_suffix(".html").exists()


NO_NOTEBOOKS = {
    "text.ipynb": b"a letter",
    "bytes.ipynb": b"\xff\xfe\x00",
    "list.ipynb": b"[]",
    "object.ipynb": b"{}",
    "odd.ipynb": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": '
    b'[{"id": "a", "cell_type": "code", "execution_count": 1, "metadata": {}, '
    b'"source": ""}]}',
}


@pytest.mark.parametrize("name", [*NO_NOTEBOOKS, "missing.ipynb"])
def test_what_is_no_notebook_ends_in_one_sentence(name, tmp_path, capsys):
    path = tmp_path / name
    if content := NO_NOTEBOOKS.get(name):
        path.write_bytes(content)
    assert main(["report", str(path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {path} cannot be read as a notebook (")
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert not path.with_suffix(".html").exists()


def test_a_notebook_that_was_not_executed_ends_in_one_sentence(run, executed, capsys):
    executed.cells[1].execution_count = None
    nbformat.write(executed, run)
    assert main(["report", str(run)]) == 1
    told = f"error: {run} was not executed; run it first\n"
    assert capsys.readouterr().err == told
    assert not run.with_suffix(".html").exists()


def test_the_notebook_of_a_run_is_replaced_until_a_cell_is_changed(run, executed):
    check, put = report.check_run, report.put
    newer, place = run.with_name("newer.ipynb"), run.with_name("place.ipynb")
    told = "is not as a run has left it; move it, or choose another OUTPUT"
    with pytest.raises(ValueError, match=told):
        check(run)  # of another program
    for count in (1, 2):
        executed.cells[1].execution_count = count
        nbformat.write(executed, newer)
        put(newer, place)
        assert nbformat.read(place, 4).cells[1].execution_count == count
    notebook = nbformat.read(place, 4)
    notebook.cells[1].execution_count = 3  # run again in Jupyter
    nbformat.write(notebook, place)
    check(place)
    notebook.cells[0].source += ", and what I think of it"
    nbformat.write(notebook, place)
    nbformat.write(executed, newer)
    for of_owner in (check, functools.partial(put, newer)):
        with pytest.raises(ValueError, match=told):
            of_owner(place)
    assert nbformat.read(place, 4) == notebook
