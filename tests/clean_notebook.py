"""Make an executed notebook ready for a commit: `python tests/clean_notebook.py NOTEBOOK`."""

import copy
import os
import sys
from pathlib import Path

import nbformat

TIMES = ("papermill", "execution", "ExecuteTime")  # metadata that differ in each run


def as_on_a_terminal(text: str) -> str:
    """Return what a terminal shows: after a carriage return, the line is written over."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip() if "\r" in line else line)
    return "\n".join(lines)


def clean_outputs(outputs: list) -> list:
    """Return the outputs without what progress bars have left in the streams."""
    cleaned = []
    for output in outputs:
        before = cleaned[-1] if cleaned else {}
        if output["output_type"] == "stream" and output["name"] == before.get("name"):
            before["text"] += output["text"]  # a bar's updates may come in pieces
        else:
            cleaned.append(output)
    for output in cleaned:
        if output["output_type"] == "stream":
            output["text"] = as_on_a_terminal(output["text"])
    return [o for o in cleaned if o["output_type"] != "stream" or o["text"].strip()]


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """
    Return a copy without photos, remains of progress bars and times of execution.

    Cells tagged `photos` lose their outputs, so that no photo is committed, and keep their
    execution count.
    """
    notebook = copy.deepcopy(notebook)
    for owner in (notebook, *notebook.cells):
        for name in TIMES:
            owner.metadata.pop(name, None)
    for cell in notebook.cells:
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill gives each cell an empty list
        if cell.cell_type == "code":
            photos = "photos" in cell.metadata.get("tags", ())
            cell.outputs = [] if photos else clean_outputs(cell.outputs)
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
