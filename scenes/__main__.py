"""
The command line: `python -m scenes classify PHOTO_OR_FOLDER...` and `export MODEL OUT.tflite`.

Needs neither the photos of the data set nor a network. Writes only what it is asked to.
"""

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from scenes import classifier, files, folders, photos

MODEL = Path(__file__).parents[1] / "classifier.keras"
CSV_HELP = """write all probabilities, for spreadsheets (UTF-8 with BOM; text that begins with
= + - @, tab or carriage return gets an apostrophe before it, so that it is no formula)"""


def classify(options: argparse.Namespace) -> int:
    """Print what the model says of each photo; return 1 where files cannot be read, else 0."""
    model, failed = classifier.load_classifier(options.model), []
    with contextlib.redirect_stdout(sys.stderr):  # the bar, which is no part of the answer
        table = classifier.predict(model, options.photos, failed=failed)
    try:
        if options.csv and len(table):
            files.write_spreadsheet(table, options.csv)
    finally:  # a CSV that cannot be written does not cost the answers
        best = table[classifier.classes_of(model)].max(axis=1)
        names = [photos.printable(path) for path in table["path"]]
        width = max(map(len, names), default=0)
        for name, row, probability in zip(names, table.itertuples(), best, strict=True):
            print(f"{name:{width}}  {row.label}  {probability:.1%}" + "  unsure" * row.unsure)
    if options.maps and len(table):
        write_maps(model, table, options.maps)
    if failed:
        print(f"{len(failed)} file(s) failed:", *failed, sep="\n    ", file=sys.stderr)
    return int(bool(failed))


def write_maps(model, table, folder: Path) -> None:
    """Write a picture for each photo that shows where its label's score comes from."""
    from scenes import drawings  # only here: it takes a second

    folder.mkdir(parents=True, exist_ok=True)
    (folder / folders.MAPS).touch()
    numbers = table["label"].cat.codes
    for row, number in zip(table.itertuples(), numbers, strict=True):
        scores = classifier.activation_maps(model, [row.path])[0].mean(axis=0)[..., number]
        figure = drawings.maps([photos.read_photo(row.path)], [scores], [row.label])
        name = f"{row.Index + 1:04}_{Path(row.path).stem[:60]}.png"  # at most 255 bytes
        with files.replacing(folder / name) as beside:
            figure.savefig(beside)


def export(options: argparse.Namespace) -> int:
    """Write a model for phones, and the names of its classes beside it; return 0."""
    classifier.export(classifier.load_classifier(options.model), options.out, int8=options.int8)
    print(f"Wrote {photos.printable(options.out)} and, beside it, the names of its classes.")
    return 0


def new_csv(name: str) -> Path:
    """Return the path of a table to be written, or say before the work why there can be none."""
    path = Path(name)
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{name} must end in .csv, so that no photo is replaced")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def new_tflite(name: str) -> Path:
    """Return the path of an exported model, if neither it nor the file of its classes exists."""
    path = Path(name)
    if path.suffix != ".tflite" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{name} must end in .tflite, in a folder that exists")
    for file in (path, path.with_suffix(".txt")):
        if file.exists():
            raise argparse.ArgumentTypeError(f"{file} exists; choose another name")
    return path


def new_folder(name: str) -> Path:
    """Return the path of a folder in which nothing can be written over."""
    path = Path(name)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise argparse.ArgumentTypeError(f"{name} is no new or empty folder")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m scenes", description="Classify photos of scenes, or export a model."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("classify", help="say what photos show")
    command.add_argument("photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="folders are walked")
    command.add_argument("--csv", type=new_csv, metavar="FILE", help=CSV_HELP)
    command.add_argument("--maps", type=new_folder, metavar="FOLDER", help="write what it looks at")
    command.add_argument("--model", type=Path, default=MODEL, metavar="FILE", help="another model")
    command.set_defaults(run=classify)
    command = commands.add_parser("export", help="write a model for phones (LiteRT)")
    command.add_argument("model", type=Path, metavar="MODEL", help="a .keras file")
    command.add_argument("out", type=new_tflite, metavar="OUT.tflite", help="OUT.txt: its classes")
    command.add_argument("--int8", action="store_true", help="weights of 8 bits: a smaller file")
    command.set_defaults(run=export)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may be any bytes
    try:
        options = parser.parse_args(arguments)
        return options.run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells have it


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head -1` ends it without a word
    sys.exit(main())
