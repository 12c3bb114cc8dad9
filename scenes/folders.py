"""
Folders (section 2): the photos of a folder as a table.

The classes are what the folders are called. No photo is opened, moved or changed.
"""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

import scenes
from scenes import photos

# What a folder of a split may be called: test, Testing, seg_test, test_set, test-images
# ...
_WORDS = "(seg_)?(train|val|dev|eval|test|pred)(ing|id|idation|iction)?"
_SPLIT_NAME = re.compile(
    _WORDS + "([-_ ]?(set|data|images|photos|split))?", re.IGNORECASE
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
REFUSED_CLASSES = (
    "path",
    "file",
    "label",
    "split",
    "digest",
    "problem",
    "model",
    "run",
    "unsure",
    "confidence",
)
REFUSED_CLASSES += (
    "NA",
    "#NA",
    "<NA>",
    "NaN",
    "nan",
    "-NaN",
    "-nan",
    "NULL",
    "null",
    "None",
)

# Folders that programs keep beside photos: macOS in a zip, a NAS, Windows, and this
# project.
_APART = {"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "plotly_plots"}
_APART |= {"system volume information", "lost+found"}

_READ = {
    *photos.FORMATS,
    "MPO",
}  # the latter: two JPEGs in one file, of which the first counts
PHOTO_SUFFIXES = {
    suffix for suffix, f in Image.registered_extensions().items() if f in _READ
}
# No suffix, .jpg_large, .pjpeg, .jpg~, .jpg.download ...: what apps and browsers call
# photos.
_MISNAMED = re.compile(
    r"^[^.]+$|\.(jpe?g|pjp|png|webp)[^.]*(\.\w*download|\.\d+)?$", re.IGNORECASE
)
# Photos to people, though no plugin of Pillow's own opens them.
OTHER_SUFFIXES = {
    ".arw",
    ".cr2",
    ".cr3",
    ".dng",
    ".emf",
    ".eps",
    ".heic",
    ".heif",
    ".hif",
    ".jxl",
}
OTHER_SUFFIXES |= {".nef", ".orf", ".raf", ".raw", ".rw2", ".svg", ".wmf"}


# --- Where they are -------------------------------------------------------------------


def find_photos(folder: str | Path | None = None) -> Path | None:
    """
    Return the folder of the photos, or None where there is none.

    Looked for are `folder`; else the environment variable `INTEL_PHOTOS`; else
    `intel-image-classification/`, `archive/` or the folders of the splits beside the
    notebook; else a data set on Kaggle's machines. `~` is the home folder.

    Raises
    ------
    FileNotFoundError
        `folder` or `INTEL_PHOTOS` is given but is no folder.
    ValueError
        Several data sets on Kaggle's machines look right.
    """
    given = folder or os.environ.get("INTEL_PHOTOS")
    if given:
        place = Path(given).expanduser()
        if not place.is_dir():
            raise FileNotFoundError(
                f"there is no folder {photos.printable(place)}; {LAYOUTS}"
            )
        return place
    for place in (Path("intel-image-classification"), Path("archive"), Path(".")):
        if place.is_dir() and "train" in _split_folders(place):
            return place
    return _find_on_kaggle()


def _find_on_kaggle():
    """
    Return the one data set on Kaggle's machines that looks right, the Intel photos
    first.
    """
    found = []
    for place in (
        place for depth in ("*", "*/*", "*/*/*") for place in KAGGLE_INPUT.glob(depth)
    ):
        found += (
            [place]
            if _looks_right(place) and not set(found) & set(place.parents)
            else []
        )
    intel = [place for place in found if (place / "seg_train").is_dir()]
    found = intel if len(intel) == 1 else found
    if len(found) > 1:
        names = photos.some(sorted(map(str, found)))
        raise ValueError(f"several folders look right: set PHOTOS to one of {names}")
    if found:
        print(f"Using the photos in {found[0]}.")
    return next(iter(found), None)


def _looks_right(folder):
    """
    Return whether a folder holds photos for training, or two folders with photos in
    them.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        direct = [any(map(is_photo, place.iterdir())) for place in _subfolders(folder)]
        return sum(direct) > 1 or _holds_photos(_split_folders(folder)["train"])
    return False


def _hint(folder):
    """
    Return a folder nearby that looks right, or else the layouts, as the end of an
    error.
    """
    below = _subfolders(folder)
    near = [
        *below,
        *(p for place in below for p in _subfolders(place)),
        folder.resolve().parent,
    ]
    right = next(filter(_looks_right, near), None)
    return f"did you mean {photos.printable(right)}?" if right else LAYOUTS


def check_output(output: str | Path | None, folder: str | Path) -> None:
    """
    Raise an error if OUTPUT lies in a folder of a class or a split, whose photos are
    read.
    """
    place, folder = Path(output or "/").resolve(), Path(folder).expanduser().resolve()
    inside = [p for p in _subfolders(folder) if place.is_relative_to(p)]
    if any(_split_of(p) or _holds_photos(p) for p in inside):
        raise ValueError(
            f"OUTPUT is {output}, inside a class or split folder; choose another one"
        )


def _subfolders(folder):
    return sorted(e for e in folder.iterdir() if e.is_dir() and not _is_apart(e))


def _is_apart(folder):
    """
    Return whether a folder is hidden, or holds what programs, this one too, keep in it.
    """
    marked = (folder / ".scenes-maps").exists()  # by an earlier version, for its maps
    if marked or folder.name.startswith(".") or folder.name.lower() in _APART:
        return True
    made = folder / "settings.json"
    return made.is_file() and b'"VALIDATION_RATIO"' in made.read_bytes()


def _holds_photos(folder):
    return any(map(is_photo, walk(folder)))


def _split_of(folder):
    """Return the split that a folder is named after, or None."""
    found = _SPLIT_NAME.fullmatch(folder.name)
    return found and _LONG_NAMES.get(found[2].lower(), found[2].lower())


def _split_folders(folder):
    """Return the folder of each split that there is; Kaggle's archive doubles them."""
    found = {}
    for entry in filter(_split_of, _subfolders(folder)):
        if (split := _split_of(entry)) in found:
            what = (
                f"{photos.printable(folder)} holds {found[split].name} and {entry.name}"
            )
            raise ValueError(f"{what}, both names of one split; keep one of them there")
        inner = _subfolders(entry)
        found[split] = inner[0] if [p.name for p in inner] == [entry.name] else entry
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
        entered = [name for name in folders if not _is_apart(Path(root, name))]
        entered = sorted(name for name in entered if not Path(root, name).is_symlink())
        yield from (
            Path(root, name) for name in sorted({*names, *folders} - {*entered})
        )
        folders[:] = entered


def is_photo(path: Path) -> bool:
    """
    Return whether Pillow knows the file by its suffix; reading a pipe would never end.
    """
    named = path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
    return named and not path.is_dir() and not path.is_fifo()


def sort_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the photos below a folder, and what is skipped there."""
    inside = sorted(walk(folder), key=Path.as_posix)
    found = list(filter(is_photo, inside))
    return found, sorted(set(inside) - set(found))


def describe_skipped(paths: Iterable[Path]) -> str:
    """
    Return one line that names what is skipped of a folder, and why; empty if nothing
    is.
    """
    groups = {}
    for path in sorted(p for p in paths if not (p.is_dir() and p.name.startswith("."))):
        groups.setdefault(_why_skipped(path), []).append("/".join(path.parts[-2:]))
    others = len(groups.pop("", []))
    parts = [f"{photos.some(names)} ({reason})" for reason, names in groups.items()]
    parts += [f"{others} other file(s)"] * (others > 0)
    return f"Skipped: {'; '.join(parts)}." if parts else ""


def _why_skipped(path):
    """
    Return why a path that people may take for a photo is skipped, empty for other
    files.
    """
    is_folder, is_hidden = path.is_dir(), path.name.startswith(".") or path.is_fifo()
    reasons = {
        "of other programs or earlier results": is_folder and _is_apart(path),
        "linked folders are not followed": is_folder and path.is_symlink(),
        "not a split folder": is_folder,
        "": is_hidden,
        "outside a class folder; move them into one, or "
        "if unlabeled into pred/": is_photo(path),
        "HEIC, raw and similar formats: convert to JPEG": path.suffix.lower()
        in OTHER_SUFFIXES,
        "if they are photos, rename them to end in .jpg": _MISNAMED.search(path.name),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


# --- The table ------------------------------------------------------------------------


def list_images(folder: str | Path) -> pd.DataFrame:
    """
    List the photos of the data set.

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
        the categories are the sorted names of the classes) and `split` (categorical:
        'train', 'validation', 'test' or 'prediction'); and `file` (where the photo
        lies: the absolute path as str).

    Raises
    ------
    FileNotFoundError
        There are no two classes, or a class of another split has no photo for training.
    ValueError
        A class has a name that leads to confusion, or splits look like classes.
    """
    folder = Path(folder).expanduser()
    root = folder.resolve()
    splits = _split_folders(folder)
    _check_layout(folder, splits)
    rows, skipped, below, empty = [], _loose(folder), set(), []
    for split, base in (splits or {"train": folder}).items():
        labelled = split != "prediction"
        for place in _subfolders(base) if labelled else [base]:
            found, others = sort_files(place)
            for path in found:
                name = path.relative_to(folder)
                label = place.name if labelled else None
                rows.append((name.as_posix(), label, split, str(root / name)))
            skipped += others
            below |= {path.parent for path in found if labelled} - {place}
            if labelled and not found:
                heic = any(path.suffix.lower() in OTHER_SUFFIXES for path in others)
                empty.append(
                    f"{base.name}/{place.name}" + " (convert HEIC etc. to JPEG)" * heic
                )
        skipped += _loose(base) if splits and labelled else []
    skipped += [
        place for place in _subfolders(folder) if splits and not _split_of(place)
    ]
    if line := describe_skipped(skipped):
        print(line)
    if empty:
        print(f"No photo was found in {photos.some(empty)}.")
    if below:
        print(
            f"Photos in {len(below)} folders below class folders "
            f"count as photos of the class."
        )
    images = pd.DataFrame(rows, columns=["path", "label", "split", "file"])
    classes = sorted(set(images["label"].dropna()))
    _check_classes(images, classes, splits.get("train", folder), folder)
    if {"validation", "test"} & set(images["split"]) == {"validation"}:
        print(
            f"No test split found; using {splits['validation'].name}/ "
            f"as the test split."
        )
        images["split"] = images["split"].replace("validation", "test")
    images["label"] = pd.Categorical(images["label"], categories=classes)
    images["split"] = pd.Categorical(images["split"], categories=scenes.SPLITS)
    _describe(images, folder, splits)
    return images


def _loose(folder):
    """Return what lies beside the folders that are read."""
    return list({*folder.iterdir()} - {*_subfolders(folder)})


def _check_layout(folder, splits):
    """Raise an error if splits look like classes."""
    here, tops = (
        photos.printable(folder),
        list(filter(_holds_photos, _subfolders(folder))),
    )
    classes = photos.some(place.name for place in tops if not _split_of(place))
    if splits and not ("train" in splits and _subfolders(splits["train"])):
        names = photos.some(place.name for place in splits.values())
        what = (
            f"{here} holds {names}, the name of a split, beside {classes or 'no class'}"
        )
        what += ", and no train/ with class folders: rename it if it is a class"
        raise ValueError(f"{what}, else put the class folders into train/; {LAYOUTS}")
    inner = [{p.name for p in _subfolders(place) if _holds_photos(p)} for place in tops]
    alike = _LIKE_A_SPLIT.search(classes) and set.intersection(*inner)
    nested = any(len(_split_folders(place)) > 1 for place in tops)
    if len(tops) > 1 and not splits and (alike or nested):
        what = (
            f"{here} holds {classes}, and these "
            f"{photos.some(sorted(set.union(*inner)))}; call "
        )
        what += (
            "splits train, val or test, with the class folders "
            "in them, use no such word in "
        )
        raise ValueError(
            f"{what}a class's name, or, if these are data sets, set PHOTOS to one"
        )


def _check_classes(images, classes, base, folder):
    """Raise an error that names the first class that cannot be worked with."""
    here = photos.printable(base)
    if len(classes) < 2:
        only = photos.some(classes) or "none"
        raise FileNotFoundError(
            f"two classes are needed, {here} holds {only}; {_hint(folder)}"
        )
    alike = {}  # to a Mac, to Windows, or to the eye
    for name in classes:
        if name in REFUSED_CLASSES or photos.printable(name) != name:
            why = (
                "means something else in a table"
                if name in REFUSED_CLASSES
                else "is not text"
            )
            shown = photos.printable(base / name)
            raise ValueError(f"the name of the class {shown} {why}; rename its folder")
        twin = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if twin != name:
            what = (
                f"the classes {twin!a} and {name!a} in {here} or beside it are one name"
            )
            raise ValueError(
                f"{what} but for case or coding; rename or merge their folders"
            )
    if untrained := set(classes) - set(images.loc[images["split"] == "train", "label"]):
        what = (
            f"there is no photo in {photos.printable(base / min(untrained))}, "
            f"though other"
        )
        raise FileNotFoundError(f"{what} splits have that class; add some for training")


def _describe(images, folder, splits):
    """Print what a folder was understood to hold."""
    counts, classes = images["split"].value_counts(), images["label"].cat.categories
    purposes = ("photos for training", "for validation", "for testing", "to predict")
    uses = zip(scenes.SPLITS, purposes, strict=True)
    parts = [f"{counts[split]:,} {purpose}" for split, purpose in uses if counts[split]]
    place = folder.resolve()
    print(
        f"Found {len(classes)} classes in {photos.printable(place.name)}: "
        f"{', '.join(parts)}."
    )
    for split in sorted({"test", "validation"} & set(images["split"])):
        lacking = classes.difference(images.loc[images["split"] == split, "label"])
        if len(lacking):
            print(f"The {split} split has no photo of: {photos.some(lacking)}.")
    if not splits and _split_of(place) and len(_split_folders(place.parent)) > 1:
        print(
            f"{place.name} is a split of {place.parent.name}: "
            f"set PHOTOS to that to use all."
        )
