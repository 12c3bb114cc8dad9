"""
Make an executed notebook ready for a commit: `python tools/clean_notebook.py NOTEBOOK`.
"""

import copy
import os
import sys
from pathlib import Path

import nbformat

WITHOUT_PHOTOS = (  # said in place of the outputs of cells that show photos
    "Photos appear here when this cell runs; their terms do not allow us to commit "
    "them.\n"
)
TIMES = ("papermill", "execution", "ExecuteTime")  # metadata that differ in each run


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """
    Return a copy without photos, remains of progress bars and traces of how it was run.

    Cells tagged `photos` get a line in place of their outputs, so that no photo is
    committed, and keep their execution count. The cell in which papermill sets OUTPUT
    goes, and the others count on. What a cell prints is one output, however the kernel
    has cut it.
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
            shows_photos = "photos" in cell.metadata.get("tags", ())
            line = nbformat.v4.new_output("stream", text=WITHOUT_PHOTOS)
            cell.outputs = [line] if shows_photos else tidy(cell.outputs)
            number += cell.execution_count is not None
            cell.execution_count = cell.execution_count and number
            for output in cell.outputs:
                # It bears its cell's number, too.
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    return notebook


def tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """
    Return the outputs of a cell without remains of bars, its printed text in one piece.

    A kernel sends what is printed in pieces, cut wherever it likes.
    """
    found, stream = [], None  # the name of the last output, if it is a stream
    for output in outputs:
        if output.get("data") == {}:
            continue  # a progress bar that has ended
        name = output.name if output.output_type == "stream" else None
        if name is not None and name == stream:
            found[-1].text += output.text
        else:
            found.append(output)
        stream = name
    return found


def main(path: str | Path) -> None:
    """Clean a notebook in place; the file is replaced as a whole."""
    path = Path(path)
    cleaned = clean(nbformat.read(path, as_version=4))
    beside = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    nbformat.write(cleaned, beside)
    os.replace(beside, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
