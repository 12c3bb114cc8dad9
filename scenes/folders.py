"""
Folders (section 2): the photos of a folder as a table.

The classes are what the folders are called. No photo is opened, moved or changed.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

import scenes
from scenes import photos

# What a folder of a split may be called, in letters of any case.
SPLIT_FOLDERS = dict.fromkeys(("train", "training", "seg_train"), "train")
SPLIT_FOLDERS |= dict.fromkeys(("val", "valid", "validation"), "validation")
SPLIT_FOLDERS |= dict.fromkeys(("test", "testing", "seg_test"), "test")
SPLIT_FOLDERS |= dict.fromkeys(("pred", "prediction", "seg_pred"), "prediction")
LAYOUTS = """the folder must look like one of these:
    <class>/*.jpg for two classes or more
    train/<class>/*.jpg, and perhaps test/<class>/*.jpg and val/<class>/*.jpg
    seg_train/<class>/*.jpg, seg_test/<class>/*.jpg and perhaps seg_pred/*.jpg"""
KAGGLE_INPUT = Path("/kaggle/input")  # where Kaggle's own machines keep data sets
# Names of the tables' columns, which stand beside a column for each class, and what a CSV's
# reader takes for a missing value.
REFUSED_CLASSES = ("path", "label", "split", "digest", "problem", "run", "unsure")
REFUSED_CLASSES += ("NA", "#NA", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None")

_HIDDEN = (".", "__MACOSX")  # the latter is what macOS adds to a zip

# MPO: two JPEGs in one file, of which the first counts.
PHOTO_SUFFIXES = {
    s for s, f in Image.registered_extensions().items() if f in {*photos.FORMATS, "MPO"}
}
# .jpg_large, .pjpeg, .jpg~, .jpg.download ...: what apps, browsers and editors make of photos.
_MISNAMED = re.compile(r"\.(jpe?g|pjp|png|webp)[^.]*(\.\w*download|\.\d+)?$", re.IGNORECASE)
# Photos to people, though no plugin of Pillow's own opens them.
OTHER_SUFFIXES = {".arw", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".heic", ".heif", ".hif", ".jxl"}
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
        `folder` or `INTEL_PHOTOS` is given but is no folder, or one of no known layout.
    """
    given = folder or os.environ.get("INTEL_PHOTOS")
    if given:
        place = Path(given).expanduser()
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {photos.printable(place)}; {LAYOUTS}")
        if not _split_folders(place) and not _holds_classes(place):
            raise FileNotFoundError(f"there are no classes in {photos.printable(place)}; {LAYOUTS}")
        return place
    for place in (Path("intel-image-classification"), Path("archive"), Path(".")):
        if place.is_dir() and "train" in _split_folders(place):
            return place
    inputs = [place for depth in ("*", "*/*", "*/*/*") for place in KAGGLE_INPUT.glob(depth)]
    inputs = sorted(filter(Path.is_dir, inputs), key=lambda place: (len(place.parts), place))
    with_splits = (place for place in inputs if "train" in _split_folders(place))
    return next(with_splits, None) or next(filter(_holds_classes, inputs), None)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith(_HIDDEN))


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split that there is; Kaggle's archive doubles them."""
    found = {}
    for entry in (e for e in _subfolders(folder) if e.name.lower() in SPLIT_FOLDERS):
        split = SPLIT_FOLDERS[entry.name.lower()]
        if split in found:
            raise ValueError(
                f"{photos.printable(folder)} holds {found[split].name} and {entry.name}, which are "
                "both names of one split; keep one of them there"
            )
        inner = _subfolders(entry)
        found[split] = inner[0] if [p.name for p in inner] == [entry.name] else entry
    return {split: found[split] for split in scenes.SPLITS if split in found}


def _holds_classes(folder: Path) -> bool:
    """Return whether two of its folders hold photos, at any depth."""
    found = (place for place in _subfolders(folder) if any(map(is_photo, walk(place))))
    return next(found, None) is not None and next(found, None) is not None


def walk(folder: str | Path) -> Iterator[Path]:
    """
    Yield the files below a folder, in a fixed order.

    Hidden folders are left out. Links to folders are yielded, not followed, since they may
    lead back. A folder that cannot be listed is an error, not an empty one.
    """

    def stop(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=stop):
        links = [name for name in folders if Path(root, name).is_symlink()]
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
        yield from (Path(root, name) for name in sorted(names + links))


def is_photo(path: Path) -> bool:
    """Return whether Pillow knows the file by its suffix; reading a pipe would never end."""
    named = path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
    return named and not path.is_dir() and not path.is_fifo()


def describe_skipped(paths: Iterable[Path]) -> str:
    """Return one line that names what is skipped of a folder, and why; empty if nothing is."""
    groups = {}
    for path in sorted(paths):
        groups.setdefault(_why_skipped(path), []).append("/".join(path.parts[-2:]))
    others = len(groups.pop("", []))
    parts = [f"{_some(names)} ({reason})" for reason, names in groups.items()]
    parts += [f"{others} other file(s)"] * (others > 0)
    return f"Skipped: {'; '.join(parts)}." if parts else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(photos.printable, names[:10])) + more


def _why_skipped(path: Path) -> str:
    """Return why a path that people may take for a photo is skipped, empty for other files."""
    if path.is_dir():
        return "linked folders are not followed"
    if path.name.startswith(".") or path.is_fifo():
        return ""
    if is_photo(path):
        return "outside a class folder"
    if path.suffix.lower() in OTHER_SUFFIXES:
        return "HEIC, raw and similar formats: convert to JPEG"
    if not path.suffix or _MISNAMED.search(path.name):
        return "if they are photos, rename them to end in .jpg"
    return ""


# --- The table ------------------------------------------------------------------------


def list_images(folder: str | Path) -> pd.DataFrame:
    """
    List the photos of the data set.

    A photo counts at any depth below the folder of its class. Without a test split the
    validation split stands as one; without both, all photos are for training, and
    `utils.create_test` sets some apart. This, and what is passed over, is said in a line.

    Parameters
    ----------
    folder : path
        A folder of class folders; or one of split folders (`train`, `test`, `val`, or
        Kaggle's `seg_train`, `seg_test`, `seg_pred`) that hold class folders.

    Returns
    -------
    DataFrame
        One row for each photo, sorted by split, label and path: `path` (relative to
        `folder`, with slashes), `label` (categorical, missing for prediction photos; the
        categories are the sorted names of the classes) and `split` (categorical: 'train',
        'validation', 'test' or 'prediction').

    Raises
    ------
    FileNotFoundError
        There are no photos, or a class of another split has none for training.
    ValueError
        There is only one class, or a class has a name that leads to confusion.
    """
    folder = Path(folder).expanduser()
    splits = _split_folders(folder)
    if splits and "train" not in splits:
        raise FileNotFoundError(
            f"{photos.printable(folder)} holds {', '.join(p.name for p in splits.values())}, but "
            f"no train (a class must not have the name of a split); {LAYOUTS}"
        )
    rows, left = [], []
    for split, base in (splits or {"train": folder}).items():
        labelled = split != "prediction"
        for place in _subfolders(base) if labelled else [base]:
            found = {path.relative_to(folder).as_posix(): path for path in walk(place)}
            good = sorted(name for name, path in found.items() if is_photo(path))
            rows += [(name, place.name if labelled else None, split) for name in good]
            left += [found[name] for name in found.keys() - set(good)]
        left += [entry for entry in base.iterdir() if labelled and not entry.is_dir()]
    images = pd.DataFrame(rows, columns=["path", "label", "split"])
    classes = sorted(set(images["label"].dropna()))
    _check_classes(images, classes, splits.get("train", folder))
    if {"validation", "test"} & set(images["split"]) == {"validation"}:
        print(f"{splits['validation'].name} stands as the test split, since there is no other.")
        images["split"] = images["split"].replace("validation", "test")
    images["label"] = pd.Categorical(images["label"], categories=classes)
    images["split"] = pd.Categorical(images["split"], categories=scenes.SPLITS)
    _say_what_is_missing(images, splits, left)
    others = [p for p in _subfolders(folder) if splits and p.name.lower() not in SPLIT_FOLDERS]
    if names := [photos.printable(p.name) for p in others if any(map(is_photo, walk(p)))]:
        print(f"Passed over, since they are no splits: the folders {', '.join(names)}.")
    return images


def _check_classes(images: pd.DataFrame, classes: list[str], folder: Path) -> None:
    """Raise an error that names the first class that cannot be worked with."""
    if not classes:
        raise FileNotFoundError(
            f"there is no photo of a class in {photos.printable(folder)}; {LAYOUTS}"
        )
    for name in classes:
        place = photos.printable(folder / name)
        if name in REFUSED_CLASSES or photos.printable(name) != name:
            why = (
                "is not text"
                if photos.printable(name) != name
                else "means something else in a table"
            )
            raise ValueError(f"the name of the class {place} {why}; rename its folder")
    alike = {}  # to a Mac, to Windows, or to the eye
    for name in classes:
        twin = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if twin != name:
            raise ValueError(
                f"the classes {twin!a} and {name!a} in {photos.printable(folder)} or beside it are "
                "one name but for the case or the coding of letters; rename or merge their folders"
            )
    if untrained := set(classes) - set(images.loc[images["split"] == "train", "label"]):
        raise FileNotFoundError(
            f"there is no photo in {photos.printable(folder / min(untrained))}, though other "
            "splits have that class; add some for training, or take it out of the other splits"
        )
    if len(classes) == 1:
        only = f"{photos.printable(folder)} holds only the class {classes[0]}"
        raise ValueError(f"{only}; two are needed; {LAYOUTS}")


def _say_what_is_missing(images: pd.DataFrame, splits: dict[str, Path], left: list[Path]) -> None:
    if "test" not in set(images["split"]):
        print("There is no test split: one is to be made of training photos.")
    for split in sorted({"test", "validation"} & set(images["split"])):
        classes = set(images.loc[images["split"] == split, "label"])
        if lacking := [name for name in images["label"].cat.categories if name not in classes]:
            print(f"The {split} split has no photo of: {', '.join(lacking)}.")
    if splits and "prediction" not in set(images["split"]):
        print("There are no photos without a label to predict.")
    if line := describe_skipped(left):
        print(line)
