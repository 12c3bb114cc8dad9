"""
The command line: `python -m scenes classify PHOTO_OR_FOLDER...`, `export MODEL
OUT.tflite`, `report NOTEBOOK` and `train FOLDER`.

Needs neither the photos of the data set nor a network. Writes only what it is asked to.
"""

import ast
import contextlib
import logging
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from scenes import classifier, files, photos, settings

PREDICTIONS = b"path,label,unsure,confidence,"  # so begins their table
MODEL = settings.PROJECT / "classifier.keras"
NOTEBOOK = Path("intel_classification.ipynb")
# The cells whose words `train` repeats.
SAID = ("load", "split", "best", "out-of-fold", "summary")


def classify(options: Namespace) -> int:
    """Print what the model says of each photo; return 1 if one cannot be read, else 0.

    Names of photos and classes are printed with control characters escaped: no name
    forges a line, and none moves the cursor.
    """
    model = classifier.load_classifier(options.model)
    # The bar is no part of the answer.
    with contextlib.redirect_stdout(sys.stderr):
        table, problems = classifier.predict_readable(model, options.photos)
    try:
        if options.csv and len(table):
            files.write_spreadsheet(table, options.csv)
    finally:  # a CSV that cannot be written does not cost the answers
        names = [photos.printable(path) for path in table["path"]]
        width = max(map(len, names), default=0)
        for name, row in zip(names, table.itertuples(), strict=True):
            unsure = "  unsure" if row.unsure else ""
            label = photos.printable(row.label)
            print(f"{name:{width}}  {label}  {row.confidence:.1%}{unsure}")
    if not problems:
        return 0
    print(f"{len(problems)} file(s) failed:", *problems, sep="\n    ", file=sys.stderr)
    return 1


def export(options: Namespace) -> int:
    """Write a model for phones, and the names of its classes beside it; return 0."""
    model = classifier.load_classifier(options.model)
    classifier.export(model, options.out, int8=options.int8)
    print(
        f"Wrote {photos.printable(options.out)} and, beside it, the names of its "
        f"classes."
    )
    return 0


def write_report(options: Namespace) -> int:
    """Write an executed notebook as one HTML page; return 0."""
    from scenes import report  # imports nbconvert, which the others do without

    page = options.output or options.notebook.with_suffix(".html")
    report.write(options.notebook, page)
    print(f"Wrote {photos.printable(page)}.")
    return 0


def train(options: Namespace) -> int:
    """
    Run the notebook on the photos of a folder, and print what it has understood of
    them, and its summary; return 0.

    Notebook and report lie beside the results, in `OUTPUT`. A notebook of which a cell
    has failed is `failed.ipynb` there, and what an earlier run has finished stays.
    """
    import papermill  # which the others do without

    from scenes import report

    folder = Path(options.folder)
    parameters = read_parameters(options.parameters)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if parameters.keys() & {"PHOTOS", "DOWNLOAD"}:
        raise ValueError("the photos are those of FOLDER: leave PHOTOS, DOWNLOAD out")
    if not NOTEBOOK.exists():
        raise ValueError("start in the project's folder")
    output = parameters.get("OUTPUT") or f"runs/{folder.resolve().name}"
    output = files.expand_home(output)
    parameters["PHOTOS"] = str(folder)
    parameters["OUTPUT"] = str(output)
    notebook = output / "run.ipynb"
    failed = output / "failed.ipynb"
    report.check_run(notebook)
    report.check_run(failed)
    page = notebook.with_suffix(".html")
    report.check_page(page)
    # After an interrupt, it prints the tracebacks of tasks that nobody waits for.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with files.locked(notebook), files.unfinished(notebook) as beside:
        try:
            run = papermill.execute_notebook(NOTEBOOK, beside, parameters)
        except papermill.PapermillExecutionError as error:
            report.put(beside, failed)
            place = f"{error.ename} in cell {error.exec_count} of {failed}"
            raise ValueError(f"{error.evalue} ({place})") from error
        report.put(beside, notebook)
    with contextlib.suppress(ValueError):  # its owner has changed it meanwhile
        report.check_run(failed)
        failed.unlink(missing_ok=True)
    report.write(notebook, page)
    print(f"Wrote the report {photos.printable(page)}; beside it lie all results.")
    for cell in run.cells:
        if cell.get("id") in SAID:
            # A kernel sends what a cell prints in one piece or several.
            printed = [out for out in cell.outputs if out.get("name") == "stdout"]
            said = "".join(out.text for out in printed)
            for line in said.splitlines():
                print(photos.printable(line))
    return 0


def read_parameters(pairs: list[list[str]]) -> dict[str, object]:
    """
    Return the settings of the notebook that `-p NAME VALUE` gives, each checked.

    A value that Python reads as one, as 4, 0.1, None or [0.1, 0.3], is that; any other
    is text, and a path is, though it be 2024.
    """
    parameters = {}
    for name, value in pairs:
        if name not in map(str.upper, settings.RULES):
            known = ", ".join(settings.RULES).upper()
            raise ValueError(f"Unknown setting {name}; the settings are {known}")
        parameters[name] = value
        with contextlib.suppress(SyntaxError, ValueError):
            parameters[name] = ast.literal_eval(value)
        if isinstance(parameters[name], tuple):  # 0.1, 0.3 without brackets
            parameters[name] = list(parameters[name])
        if name in ("CACHE", "OUTPUT") and value.isdigit():
            parameters[name] = value
    settings.check(**parameters)
    return parameters


def new_csv(name: str) -> Path:
    """Return the path of a table to be written; say before the work if none can be."""
    path = Path(name)
    is_csv = path.suffix.lower() == ".csv" and not path.is_dir()
    if not is_csv or not path.parent.is_dir():
        raise ArgumentTypeError(f"{name} must be a .csv file in a folder that exists")
    if path.exists() and not files.begins_with(path, PREDICTIONS):
        raise ArgumentTypeError(f"{name} holds no predictions; choose another name")
    return path


def new_tflite(name: str) -> Path:
    """Return the path of an exported model, if neither it nor its .txt exists."""
    path = Path(name)
    if path.suffix != ".tflite" or not path.parent.is_dir():
        raise ArgumentTypeError(f"{name} must end in .tflite, in a folder that exists")
    for file in (path, path.with_suffix(".txt")):
        if file.exists():
            raise ArgumentTypeError(f"{file} exists; choose another name")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status of a command line; without one, of this process's."""
    parser = ArgumentParser(
        "python -m scenes",
        description="Train on photos, classify photos, export a model, report a run.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("classify", help="say what photos show")
    command.add_argument(
        "photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="folders are walked"
    )
    command.add_argument(
        "--csv",
        type=new_csv,
        metavar="FILE",
        help="write all probabilities, for spreadsheets (UTF-8 with BOM; text that "
        "begins with = + - @, tab or carriage return gets an apostrophe before it)",
    )
    command.add_argument(
        "--model", type=Path, default=MODEL, metavar="FILE", help="another model"
    )
    command.set_defaults(run=classify)
    command = commands.add_parser("export", help="write a model for phones (LiteRT)")
    command.add_argument("model", type=Path, metavar="MODEL", help="a .keras file")
    command.add_argument(
        "out", type=new_tflite, metavar="OUT.tflite", help="OUT.txt: its classes"
    )
    command.add_argument(
        "--int8", action="store_true", help="weights of 8 bits: a smaller file"
    )
    command.set_defaults(run=export)
    command = commands.add_parser("report", help="write an executed notebook as HTML")
    command.add_argument("notebook", type=Path, metavar="NOTEBOOK", help="an .ipynb")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="not beside the notebook"
    )
    command.set_defaults(run=write_report)
    command = commands.add_parser(
        "train", help="train on a folder of photos, and report"
    )
    command.add_argument("folder", metavar="FOLDER", help="a subfolder for each class")
    command.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        dest="parameters",
        metavar=("NAME", "VALUE"),
        help="a setting of the notebook, such as -p EPOCHS 50",
    )
    command.set_defaults(run=train)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may be any bytes
    try:
        options = parser.parse_args(arguments)
        return options.run(options)
    except (OSError, RuntimeError, ValueError) as error:
        # One line, whatever a damaged file says of itself.
        reason = " ".join(str(error).splitlines())
        print(f"error: {photos.printable(reason)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells have it


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        # `| head -1` ends it without a word.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
