"""
Report: an executed notebook as one HTML page with live plots.

The page opens without Jupyter and network, and holds all that the notebook shows,
photos included. Runs nothing.
"""

from pathlib import Path

import nbformat
import plotly.io
from nbconvert import HTMLExporter

from scenes import files, settings

PLOTLY = "application/vnd.plotly.v1+json"
MARK = "python -m scenes report"  # in the first lines of each page
# nbconvert's page without the scripts that it would fetch; and no browser fetches
# anything, whatever the notebook shows.
TEMPLATE = f"""{{% extends "lab/index.html.j2" %}}
{{% block html_head %}}
<meta name="generator" content="{MARK}" />
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:" />
{{{{ super() }}}}
{{% endblock %}}
{{% block html_head_js %}}{{% endblock %}}
{{% block jupyter_widgets %}}{{% endblock %}}
{{% block html_head_js_mathjax %}}{{% endblock %}}
{{% block html_head_js_mermaidjs %}}{{% endblock %}}
"""


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook; raise a ValueError if the file is none."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except Exception as error:  # nbformat raises a dozen kinds
        kind = type(error).__name__
        raise ValueError(f"{path} cannot be read as a notebook ({kind})") from error


def check_run(path: Path) -> None:
    """
    Raise a ValueError if a notebook is there whose cells are not those of a run that
    `put` has put there.
    """
    if not path.exists():
        return
    notebook = read(path)
    if notebook.metadata.get("sources_of_run") != _hash_sources(notebook):
        what = f"{path} is not as a run has left it"
        raise ValueError(f"{what}; move it, or choose another OUTPUT")


def put(beside: Path, path: Path) -> None:
    """Put the notebook of a run in `path`'s place; raise what `check_run` raises."""
    notebook = read(beside)
    notebook.metadata["sources_of_run"] = _hash_sources(notebook)
    nbformat.write(notebook, beside)
    check_run(path)  # its owner may have changed it while this one ran
    files.move(beside, path)


def _hash_sources(notebook):
    return files.fingerprint([cell.source for cell in notebook.cells])


def check_page(page: Path) -> None:
    """Raise a ValueError if a file is there that is no report, and so a user's own."""
    is_report = files.begins_with(page, MARK.encode())
    if page.exists() and not is_report:
        raise ValueError(f"{page} exists and is no report; choose another place")


def write(path: Path, page: Path) -> None:
    """
    Return nothing; write the executed notebook of a path as an HTML page.

    Each plot is a live one, of plotly's script, which the page holds once. Pictures
    that the text names are those of the project. An earlier report is replaced.

    Raises
    ------
    ValueError
        The file is no notebook or was not executed, or a file that is no report lies in
        the page's place.
    OSError
        The page cannot be written.
    """
    notebook = read(path)
    if not any(cell.get("execution_count") for cell in notebook.cells):
        raise ValueError(f"{path} was not executed; run it first")
    check_page(page)
    plots = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        # What is left of progress bars is empty.
        cell.outputs = [shown for shown in cell.outputs if shown.get("data") != {}]
        plots += [shown for shown in cell.outputs if PLOTLY in shown.get("data", {})]
    for number, plot in enumerate(plots):
        live = plotly.io.to_html(
            plot.data[PLOTLY],
            include_plotlyjs=number == 0,
            full_html=False,
            validate=False,  # it was valid in the plotly that drew it
            div_id=f"plot-{number}",
        )
        plot.data = {"text/html": live}
    exporter = HTMLExporter(raw_template=TEMPLATE, embed_images=True)
    metadata = {"name": path.stem, "path": str(settings.PROJECT)}
    html, _ = exporter.from_notebook_node(notebook, {"metadata": metadata})
    with files.replacing(page) as beside:
        beside.write_text(html, encoding="utf-8")
