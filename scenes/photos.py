"""
Photos (section 2): the photos of a folder as a table.

A photo is its pixels: one decoder for all rooms, and no photo is moved or changed.
Knows nothing of networks.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.model_selection import StratifiedGroupKFold

import scenes
from scenes import files, tasks

SPLIT_FOLDERS = {"train": "seg_train", "test": "seg_test", "prediction": "seg_pred"}
PHOTO_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
LAYOUT = """the folder must look like this (as Kaggle's archive does, or without the doubling):
    seg_train/seg_train/{buildings,forest,glacier,mountain,sea,street}/*.jpg
    seg_test/seg_test/{buildings,forest,glacier,mountain,sea,street}/*.jpg
    seg_pred/seg_pred/*.jpg (may be missing)"""


def find_photos(folder: str | Path | None = None) -> Path | None:
    """
    Return the folder of the extracted Kaggle data set, or None where there is none.

    Looked for are `folder`; else the environment variable `INTEL_PHOTOS`; else
    `intel-image-classification/`, `archive/` or the `seg_*` folders beside the notebook.

    Raises
    ------
    FileNotFoundError
        `folder` or `INTEL_PHOTOS` is given but holds no `seg_train` folder.
    """
    told = folder or os.environ.get("INTEL_PHOTOS")
    candidates = [told] if told else ["intel-image-classification", "archive", "."]
    for candidate in map(Path, candidates):
        if (candidate / SPLIT_FOLDERS["train"]).is_dir():
            return candidate
    if told:
        raise FileNotFoundError(f"no folder seg_train in {told}; {LAYOUT}")
    return None


def list_images(folder: str | Path) -> pd.DataFrame:
    """
    List the photos of the data set.

    Parameters
    ----------
    folder : path
        The folder that holds `seg_train`, `seg_test` and perhaps `seg_pred`.

    Returns
    -------
    DataFrame
        One row for each photo, sorted by split, label and path: `path` (relative to
        `folder`, with slashes), `label` (categorical, missing for prediction photos) and
        `split` ('train', 'test' or 'prediction'). `attrs["passed_over"]` counts the files
        and folders that are no photos.

    Raises
    ------
    FileNotFoundError
        A split or a class has no folder or no photos.
    """
    folder = Path(folder)
    rows, passed_over = [], 0
    for split, name in SPLIT_FOLDERS.items():
        base = folder / name
        base = base / name if (base / name).is_dir() else base
        if split == "prediction":
            folders = {None: base} if base.is_dir() else {}
        else:
            folders = {label: base / label for label in scenes.CLASSES}
            if base.is_dir():
                passed_over += sum(entry.name not in scenes.CLASSES for entry in base.iterdir())
        for label, place in folders.items():
            if not place.is_dir():
                raise FileNotFoundError(f"there is no folder {place}; {LAYOUT}")
            entries = [entry.name for entry in place.iterdir()]
            names = sorted(n for n in entries if is_photo(place / n))
            if not names and label:
                raise FileNotFoundError(f"there is no photo in {place}; {LAYOUT}")
            passed_over += len(entries) - len(names)
            relative = place.relative_to(folder).as_posix()
            rows += [(f"{relative}/{n}", label, split) for n in names]
    images = pd.DataFrame(rows, columns=["path", "label", "split"])
    images["label"] = pd.Categorical(images["label"], categories=scenes.CLASSES)
    images["split"] = pd.Categorical(images["split"], categories=scenes.SPLITS)
    images.attrs["passed_over"] = passed_over
    return images


def is_photo(path: Path) -> bool:
    hidden = path.name.startswith(".")
    named = path.suffix.lower() in PHOTO_SUFFIXES and not hidden
    return named and not path.is_dir() and not path.is_fifo()  # reading a pipe never ends


def read_photo(path: str | Path) -> np.ndarray:
    """
    Decode one photo: the only decoder, for the audit, the features and the predictions.

    The orientation in EXIF is applied, transparent pixels are laid over white, 16-bit
    gray is scaled to 8 bits, and of an animation the first frame counts.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB, 0 to 255.

    Raises
    ------
    ValueError
        The file cannot be read as a photo; the message names it and says why.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                gray = np.clip(np.asarray(image) / 257, 0, 255)
                image = Image.fromarray(gray.round().astype("uint8"))
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no known format" if unknown else getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read as a photo: {reason}") from error


def refuse(failed: list[str]) -> None:
    """Raise one error that lists all photos at fault, if there are any."""
    if failed:
        raise ValueError(f"{len(failed)} photo(s) failed:\n    " + "\n    ".join(failed))


def photo_digest(photo: np.ndarray) -> str:
    return files.digest(str(photo.shape).encode(), photo.tobytes())


def digest_photos(images: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """
    Decode each photo once, to know it by its pixels and to find the unreadable ones.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images`.
    folder : path
        The folder that the table's paths are relative to.

    Returns
    -------
    DataFrame
        With the index of `images`: `digest` (32 hexadecimal digits of BLAKE2b over shape
        and pixels, empty for an unreadable file) and `problem` (why it is unreadable, else
        empty). The same photo saved under another name or in another lossless format has
        the same digest.
    """

    def look(path: str) -> tuple[str, str]:
        try:
            return photo_digest(read_photo(Path(folder, path))), ""
        except ValueError as error:
            return "", str(error).rpartition(" as a photo: ")[2]

    with (
        tasks.progress(len(images), "Reading the photos", "photo") as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        found = []
        for row in pool.map(look, images["path"]):
            found.append(row)
            bar.update()
    return pd.DataFrame(found, columns=["digest", "problem"], index=images.index)


def make_folds(
    labels: np.ndarray, groups: Sequence | None, *, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the (training rows, validation rows) of each fold; groups stay together."""
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(
            f"groups have the shape {groups.shape}; it must be {labels.shape}, one a photo"
        )
    members = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()["label"]
    sizes = members.value_counts()
    if folds > sizes.min():
        raise ValueError(
            f"folds is {folds}, but a class has only {sizes.min()} different photo(s): "
            f"{scenes.CLASSES[sizes.idxmin()]}; it must be from 2 to the size of the smallest class"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def refuse_unreadable(images: pd.DataFrame) -> None:
    unreadable = images[images["digest"] == ""]
    if len(unreadable):
        listed = "".join(f"\n    {row.path}: {row.problem}" for row in unreadable.itertuples())
        raise ValueError(
            f"{len(unreadable)} photo(s) cannot be read; replace them or leave them out "
            f"with images[images.digest != '']:{listed}"
        )
