"""
Folders (section 2): the photos of a folder as a table.

The classes are what the folders are called. No photo is opened, moved or changed.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

import scenes
from scenes import files, photos

# What a folder of a split may be called: test, Testing, seg_test, test_set, test-images
# ...
_SPLIT_NAME = re.compile(
    "(seg_)?(train|val|dev|eval|test|pred)(ing|id|idation|iction)?"
    "([-_ ]?(set|data|images|photos|split))?",
    re.IGNORECASE,
)
_LONG_NAMES = {
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "pred": "prediction",
}
_LIKE_A_SPLIT = re.compile(
    "train|test|valid|(?<![a-z])(val|dev|eval)(?![a-z])", re.IGNORECASE
)
LAYOUTS = """the folder must look like one of these:
    <class>/*.jpg for two classes or more
    train/<class>/*.jpg, and perhaps test/<class>/*.jpg and val/<class>/*.jpg
    seg_train/<class>/*.jpg, seg_test/<class>/*.jpg and perhaps seg_pred/*.jpg"""
KAGGLE_INPUT = Path("/kaggle/input")  # where Kaggle's own machines keep data sets
# Names of the tables' columns, which stand beside a column for each class, and what a
# CSV's reader takes for a missing value.
_REFUSED = (
    "path file label split digest problem model run unsure confidence "
    "NA #NA <NA> NaN nan -NaN -nan NULL null None"
)
REFUSED_CLASSES = {*_REFUSED.split(), "mean of the classes"}

# Folders that programs keep beside photos: macOS in a zip, a NAS, Windows, and this
# project.
_APART = {
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "plotly_plots",
}

_READ = {*photos.FORMATS, "MPO"}  # MPO: two JPEGs in one file; the first counts
PHOTO_SUFFIXES = {
    suffix for suffix, name in Image.registered_extensions().items() if name in _READ
}
# No suffix, .jpg_large, .pjpeg, .jpg~, .jpg.download ...: what apps and browsers call
# photos.
_MISNAMED = re.compile(
    r"^[^.]+$|\.(jpe?g|pjp|png|webp)[^.]*(\.\w*download|\.\d+)?$", re.IGNORECASE
)
# Photos to people, though no plugin of Pillow's own opens them.
_OTHERS = (
    ".arw .cr2 .cr3 .dng .emf .eps .heic .heif .hif .jxl .nef .orf .raf .raw .rw2 .svg "
    ".wmf"
)
OTHER_SUFFIXES = set(_OTHERS.split())


# --- Where they are -------------------------------------------------------------------


def find_photos(folder: str | Path | None = None) -> Path | None:
    """
    Return the folder of the photos, or None where there is none.

    Looked for are `folder`; else the environment variable `INTEL_PHOTOS`; else
    `intel-image-classification/`, `archive/` or the folders of the splits beside the
    notebook; else the Intel photos on Kaggle's machines. `~` is the home folder, unless
    something here is called so.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        `folder` or `INTEL_PHOTOS` is given but is no folder.
    """
    given = folder or os.environ.get("INTEL_PHOTOS")
    if given:
        return _existing(files.expand_home(given))
    for place in map(Path, ("intel-image-classification", "archive", ".")):
        if place.is_dir() and "train" in _split_folders(place):
            return place
    on_kaggle = sorted(KAGGLE_INPUT.glob("**/seg_train/seg_train"))
    if not on_kaggle:
        return None
    place = on_kaggle[0].parents[1]
    print(f"Using the photos in {place}.")
    return place


def _existing(folder):
    """Return a folder that is there; raise an error if it is not, or is a file."""
    here = photos.printable(folder)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"{here} is a file; unpack an archive into a folder")
    beside = _subfolders(folder.parent) if folder.parent.is_dir() else []
    names = [place.name for place in beside]
    near = difflib.get_close_matches(folder.name, names, n=1)
    if near:
        meant = photos.printable(folder.with_name(near[0]))
        raise FileNotFoundError(f"there is no folder {here}; did you mean {meant}?")
    raise FileNotFoundError(f"there is no folder {here}; {LAYOUTS}")


def check_output(output: str | Path | None, folder: str | Path) -> None:
    """
    Raise an error if OUTPUT lies in a folder of a class or a split, whose photos are
    read.
    """
    if output is None:
        return
    place = Path(output).resolve()
    for inside in _subfolders(files.expand_home(folder).resolve()):
        is_read = _split_of(inside) or _holds_photos(inside)
        if place.is_relative_to(inside) and is_read:
            raise ValueError(
                f"OUTPUT is {output}, inside a class or split folder; choose another"
            )


def _subfolders(folder):
    subfolders = filter(Path.is_dir, folder.iterdir())
    return sorted(place for place in subfolders if not _is_apart(place))


def _is_apart(folder):
    """
    Return whether a folder is hidden, or holds what programs, this one too, keep in it.
    """
    name = folder.name.lower()
    if name.startswith(".") or name in _APART:
        return True
    recorded = folder / "settings.json"
    return recorded.is_file() and b'"VALIDATION_RATIO"' in recorded.read_bytes()


def _holds_photos(folder):
    return any(map(is_photo, walk(folder)))


def _split_of(folder):
    """Return the split that a folder is named after, or None."""
    found = _SPLIT_NAME.fullmatch(folder.name)
    if not found:
        return None
    word = found[2].lower()
    return _LONG_NAMES.get(word, word)


def _split_folders(folder):
    """Return the folder of each split that there is; Kaggle's archive doubles them."""
    found = {}
    for entry in _subfolders(folder):
        split = _split_of(entry)
        if split is None:
            continue
        if split in found:
            raise ValueError(
                f"{photos.printable(folder)} holds {found[split].name} and "
                f"{entry.name}, both names of one split; keep one of them there"
            )
        inner = _subfolders(entry)
        is_doubled = [place.name for place in inner] == [entry.name]
        found[split] = inner[0] if is_doubled else entry
    return {split: found[split] for split in scenes.SPLITS if split in found}


def walk(folder: str | Path) -> Iterator[Path]:
    """
    Yield the files below a folder, in a fixed order.

    Hidden folders, those of other programs or earlier results, and links to folders,
    which may lead back, are yielded, not entered. A folder that cannot be listed is an
    error, not an empty one.
    """

    def stop(error):
        raise error

    for root, folders, names in os.walk(folder, onerror=stop):
        here = Path(root)
        entered = [name for name in folders if not (here / name).is_symlink()]
        entered = sorted(name for name in entered if not _is_apart(here / name))
        for name in sorted(set(names + folders) - set(entered)):
            yield here / name
        folders[:] = entered


def is_photo(path: Path) -> bool:
    """
    Return whether Pillow knows the file by its suffix; reading a pipe would never end.
    """
    is_hidden = path.name.startswith(".")
    if is_hidden or path.suffix.lower() not in PHOTO_SUFFIXES:
        return False
    return not path.is_dir() and not path.is_fifo()


def sort_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the photos below a folder, and what is skipped there."""
    inside = sorted(walk(folder), key=Path.as_posix)
    found = list(filter(is_photo, inside))
    return found, sorted(set(inside) - set(found))


def describe_skipped(paths: Iterable[Path], folder: Path | None = None) -> str:
    """
    Return one line that names what is skipped, and why; empty if nothing is.

    Of a `folder`, the names are the paths in it; else, they are two parts long.
    """
    groups = {}
    for path in sorted(paths):
        if path.name.startswith(".") and path.is_dir():
            continue
        names = groups.setdefault(_why_skipped(path), [])
        parts = path.relative_to(folder).parts if folder else path.parts[-2:]
        names.append("/".join(parts))
    others = groups.pop("", [])
    said = [f"{photos.some(names)} ({reason})" for reason, names in groups.items()]
    if others:
        said.append(f"{len(others)} other file(s)")
    return f"Skipped: {'; '.join(said)}." if said else ""


def _why_skipped(path):
    """
    Return why a path that people may take for a photo is skipped, empty for other
    files.
    """
    if path.is_dir():
        if _is_apart(path):
            return "of other programs or earlier results"
        return "linked folders are not followed"
    if path.name.startswith(".") or path.is_fifo():
        return ""
    if is_photo(path):
        return (
            "in no class folder of train, val or test; move them into one, or if "
            "unlabeled into pred/"
        )
    if path.suffix.lower() in OTHER_SUFFIXES:
        return "HEIC, raw and similar formats: convert to JPEG"
    if _MISNAMED.search(path.name):
        return "if they are photos, rename them to end in .jpg"
    return ""


# --- The table ------------------------------------------------------------------------


def list_images(folder: str | Path) -> pd.DataFrame:
    """
    Return the table of the photos of a data set.

    A photo counts at any depth below the folder of its class. Without a test split the
    validation split is used as one; without both, all photos are for training, and
    `utils.create_test` sets some apart. What was found and what is skipped is printed.

    Parameters
    ----------
    folder : path
        A folder of class folders; or one of split folders (`train`, `test`, `val` or
        another name, as `Testing` or `test_images`) that hold class folders.

    Returns
    -------
    DataFrame
        One row for each photo, sorted by split, label and path: `path` (relative to
        `folder`, with slashes), `label` (categorical, missing for prediction photos;
        the categories are the sorted names of the classes), `split` (categorical:
        'train', 'validation', 'test' or 'prediction') and `file` (where the photo lies:
        the absolute path as str).

    Raises
    ------
    FileNotFoundError
        There are no two classes, or a class of another split has no photo for training.
    ValueError
        A class has a name that leads to confusion, or splits look like classes.
    """
    folder = files.expand_home(folder)
    root = folder.resolve()
    splits = _split_folders(folder)
    _check_layout(folder, splits)
    skipped = set(walk(folder))
    rows, nested, empty = [], {}, []
    for split, place in _places(folder, splits):
        found, _ = sort_files(place)
        skipped.difference_update(found)
        skipped.discard(place)  # a link to a folder
        label = None
        if split != "prediction":
            label = place.name
            for inner in {path.parent for path in found} - {place}:
                below = inner.relative_to(folder)
                beside = place.with_name(inner.name).relative_to(folder)
                nested[below.as_posix()] = beside.as_posix()
            if not found:
                empty.append(f"{place.parent.name}/{place.name}")
        for path in found:
            name = path.relative_to(folder)
            file = str(root / name)
            rows.append((name.as_posix(), label, split, file))
    images = pd.DataFrame(rows, columns=["path", "label", "split", "file"])
    if line := describe_skipped(skipped, folder):
        print(line)
    _describe_rest(images["path"], nested, empty)
    classes = sorted(set(images["label"].dropna()))
    _check_classes(images, classes, splits.get("train", folder))
    used = set(images["split"])
    if "validation" in used and "test" not in used:
        name = splits["validation"].name
        print(f"No test split found; using {name}/ as the test split.")
        images["split"] = images["split"].replace("validation", "test")
    images["label"] = pd.Categorical(images["label"], classes)
    images["split"] = pd.Categorical(images["split"], scenes.SPLITS)
    _describe(images, folder)
    return images


def _places(folder, splits):
    """Yield (split, folder) of each class and of the prediction photos."""
    bases = splits or {"train": folder}
    for split, base in bases.items():
        places = [base] if split == "prediction" else _subfolders(base)
        for place in places:
            yield split, place


def _describe_rest(paths, nested, empty):
    """Print what may be meant otherwise than it is read."""
    if empty:
        print(f"No photo was found in {photos.some(empty)}.")
    if nested:
        below, beside = map(photos.printable, min(nested.items()))
        print(
            f"Photos in {len(nested)} folders below class folders count as photos of "
            f"the class; to make classes of these, move each up beside the class "
            f"folders, as {below} to {beside}."
        )
    stems = paths.str.replace(r"\.[^.]*$", "", regex=True)
    twice = paths[stems.duplicated()]
    if len(twice):
        print(
            f"Names that stand twice, with two suffixes: {photos.some(twice)}; "
            f"remove what is no photo of its own, as masks."
        )


def _check_layout(folder, splits):
    """Raise an error if splits look like classes."""
    here = photos.printable(folder)
    tops = list(filter(_holds_photos, _subfolders(folder)))
    names = [place.name for place in tops if not _split_of(place)]
    classes = photos.some(names)
    if splits:
        if "train" in splits and _subfolders(splits["train"]):
            return
        split_names = photos.some(place.name for place in splits.values())
        raise ValueError(
            f"{here} holds {split_names}, the name of a split, beside "
            f"{classes or 'no class'}, and no train/ with class folders: rename it if "
            f"it is a class, else put the class folders into train/; {LAYOUTS}"
        )
    if len(tops) < 2:
        return
    inner = []
    for place in tops:
        below = filter(_holds_photos, _subfolders(place))
        inner.append({subfolder.name for subfolder in below})
    shared = set.intersection(*inner)
    are_alike = len(shared) > 1 or (shared and _LIKE_A_SPLIT.search(classes))
    if are_alike or any(len(_split_folders(place)) > 1 for place in tops):
        raise ValueError(
            f"{here} holds {classes}, and these "
            f"{photos.some(sorted(set.union(*inner)))}; rename the folders of "
            f"splits to train, val and test (no class may be called so); if these are "
            f"data sets, set PHOTOS to one of them"
        )


def _check_classes(images, classes, base):
    """Raise an error that names the first class that cannot be worked with."""
    here = photos.printable(base)
    if len(classes) < 2:
        only = photos.some(classes) or "none"
        raise FileNotFoundError(
            f"two classes are needed, {here} holds {only}; {LAYOUTS}"
        )
    same = {}  # to a Mac, to Windows, or to the eye
    for name in classes:
        shown = f"the name of the class {photos.printable(base / name)}"
        if name in REFUSED_CLASSES:
            raise ValueError(
                f"{shown} means something else in a table; rename its folder"
            )
        if photos.printable(name) != name:
            raise ValueError(f"{shown} is not text; rename its folder")
        normalized = unicodedata.normalize("NFKC", name)
        twin = same.setdefault(normalized.casefold(), name)
        if twin != name:
            raise ValueError(
                f"the classes {twin!a} and {name!a} in {here} or beside it are one "
                f"name but for case or coding; rename or merge their folders"
            )
    trained = images.loc[images["split"] == "train", "label"]
    untrained = set(classes).difference(trained)
    if untrained:
        raise FileNotFoundError(
            f"there is no photo in {photos.printable(base / min(untrained))}, though "
            f"other splits have that class; add some for training"
        )


def _describe(images, folder):
    """Print what a folder was understood to hold."""
    counts = images["split"].value_counts()
    classes = images["label"].cat.categories
    purposes = ("photos for training", "for validation", "for testing", "unlabeled")
    parts = []
    for split, purpose in zip(scenes.SPLITS, purposes, strict=True):
        if counts[split]:
            parts.append(f"{counts[split]:,} {purpose}")
    here = photos.printable(folder.resolve().name)
    print(f"Found {len(classes)} classes in {here}: {', '.join(parts)}.")
    for split in ("test", "validation"):
        present = images.loc[images["split"] == split, "label"]
        lacking = classes.difference(present)
        if counts[split] and len(lacking):
            print(f"The {split} split has no photo of: {photos.some(lacking)}.")
