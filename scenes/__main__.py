"""
The command line: `python -m scenes classify PHOTO_OR_FOLDER...`, `export MODEL
OUT.tflite` and `report NOTEBOOK`.

Needs neither the photos of the data set nor a network. Writes only what it is asked to.
"""

import contextlib
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from scenes import classifier, files, photos, settings

MODEL = settings.PROJECT / "classifier.keras"


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


def new_csv(name: str) -> Path:
    """Return the path of a table to be written; say before the work if none can be."""
    path = Path(name)
    if path.suffix.lower() != ".csv" or path.is_dir() or not path.parent.is_dir():
        raise ArgumentTypeError(f"{name} must be a .csv file in a folder that exists")
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
        description="Classify photos, export a model, report a run.",
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
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may be any bytes
    try:
        options = parser.parse_args(arguments)
        return options.run(options)
    except (OSError, ValueError) as error:
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
