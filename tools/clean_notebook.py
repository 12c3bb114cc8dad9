"""
Make an executed notebook ready for a commit: `python tools/clean_notebook.py NOTEBOOK`.
"""

import copy
import os
import sys
from pathlib import Path

import nbformat

TIMES = ("papermill", "execution", "ExecuteTime")  # metadata that differ in each run


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """
    Return a copy without photos, remains of progress bars and traces of how it was run.

    Cells tagged `photos` lose their outputs, so that no photo is committed, and keep
    their execution count. The cell in which papermill sets OUTPUT goes, and the others
    count on.
    """
    notebook = copy.deepcopy(notebook)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", ())
    ]
    for owner in (notebook, *notebook.cells):
        for name in TIMES:
            owner.metadata.pop(name, None)
    number = 0
    for cell in notebook.cells:
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill gives each cell an empty list
        if cell.cell_type == "code":
            photos = "photos" in cell.metadata.get("tags", ())
            # A progress bar that has ended leaves an output without a form.
            cell.outputs = [
                o for o in cell.outputs if o.get("data") != {} and not photos
            ]
            number += cell.execution_count is not None
            cell.execution_count = cell.execution_count and number
            for output in cell.outputs:
                if (
                    output.output_type == "execute_result"
                ):  # it bears its cell's number, too
                    output.execution_count = cell.execution_count
    return notebook


def main(path: str | Path) -> None:
    """Clean a notebook in place; the file is replaced as a whole."""
    path = Path(path)
    cleaned = clean(nbformat.read(path, as_version=4))
    beside = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    nbformat.write(cleaned, beside)
    os.replace(beside, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
