"""
The data set (section 2): what needs more than plain pandas on the table of photos.

Digests and unreadable photos, sizes, corrections, near-duplicates. No file is moved or
changed.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from scenes import photos, progress


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """
    Return 16 x 16 gray levels of a photo, scaled so that a product of two is a
    correlation.
    """
    small = (
        Image.fromarray(photo).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    )
    gray = np.asarray(small, "float32").ravel()
    gray = gray - gray.mean()
    return gray / max(np.linalg.norm(gray), 1e-6)


def digest_photos(images: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """
    Return what each photo is known by, its pixels, or why it is unreadable.

    Each photo is decoded once.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images`, with the column `file`.

    Returns
    -------
    digests : DataFrame
        With the index of `images`: `digest` (32 hexadecimal digits of BLAKE2b over
        shape and pixels, empty for an unreadable file) and `problem` (why it is
        unreadable, else empty). The same photo saved under another name or in another
        lossless format has the same digest; but the digest of a large JPEG is that of
        the smaller decode of `read_photo`, which only its copies as a file share.
    thumbnails : ndarray of float32, shape (n, 256)
        The `thumbnail` of each photo, zeros for an unreadable one, in the order of the
        table. They are pixels: for memory only.
    """

    def look(file):
        try:
            photo = photos.read_photo(file)
            return photos.photo_digest(photo), "", thumbnail(photo)
        except photos.UnreadablePhotoError as error:
            return "", error.reason, np.zeros(256, "float32")

    found, thumbnails = [], [np.zeros((0, 256), "float32")]
    with progress.bar(len(images), "Reading the photos", "photo") as bar:
        for batch in progress.read_ahead(look, list(images["file"]), 32):
            found += [(digest, problem) for digest, problem, _ in batch]
            thumbnails.append(np.stack([small for _, _, small in batch]))
            bar.update(len(batch))
    digests = pd.DataFrame(found, columns=["digest", "problem"], index=images.index)
    return digests, np.concatenate(thumbnails)


def find_copies(images: pd.DataFrame, thumbnails: np.ndarray | None) -> pd.DataFrame:
    """
    Return the pairs of photos in different splits that are copies at another size or
    quality.

    Their thumbnails correlate by 0.99 or more; features find less than half of them.
    Now and then, two horizons or sunsets are taken for copies. If there are any, a line
    says that accuracies may be too high. None are found without thumbnails (None),
    which are those of a whole table, in whose order the index of `images` counts.
    """
    thumbnails = (
        np.zeros((len(images), 1)) if thumbnails is None else thumbnails[images.index]
    )
    splits, pairs = images["split"].astype(str).to_numpy(), [np.zeros((0, 2), int)]
    for start in range(0, len(images), 256):  # all at once would take gigabytes
        alike = thumbnails[start : start + 256] @ thumbnails[start:].T >= 0.99
        pairs.append(np.argwhere(np.triu(alike, 1)) + start)
    first, second = np.concatenate(pairs).T
    crossing = splits[first] != splits[second]
    sides = [images[["path", "split"]].iloc[rows[crossing]] for rows in (first, second)]
    photo, copy = (side.reset_index(drop=True) for side in sides)
    copies = photo.join(copy.add_suffix("_copy"))
    if len(copies):
        what = "pair(s) of photos in different splits look like copies of each other"
        print(f"{len(copies)} {what}: accuracies may be too high.")
    return copies


def drop_unreadable(images: pd.DataFrame) -> pd.DataFrame:
    """
    Return the photos that can be read; the others are named in one line.

    Raises
    ------
    ValueError
        More than two photos, and more than a twentieth, of a class cannot be read.
    """
    unreadable = images[images["digest"] == ""]
    lost = unreadable["label"].value_counts()
    too_many = lost.index[
        lost > np.maximum(2, images["label"].value_counts()[lost.index] / 20)
    ]
    photos.refuse_unreadable(unreadable[unreadable["label"].isin(too_many)])
    if len(unreadable):
        said = photos.some(
            f"{row.path} ({row.problem})" for row in unreadable.itertuples()
        )
        print(f"Skipped {len(unreadable)} unreadable photo(s): {said}.")
    return images.drop(unreadable.index)


def check_sizes(images: pd.DataFrame, **ratios: float) -> None:
    """
    Raise an error if a class has too few photos to be split, which says what settings
    fit.

    Parameters
    ----------
    images : DataFrame
        The labelled photos, with digests; splits that it has need no photos of others.
    **ratios : float
        `TEST_RATIO`, `VALIDATION_RATIO` and `FOLDS`.
    """
    given = {f"{split.upper()}_RATIO" for split in images["split"].unique()}
    ratios = {name: value for name, value in ratios.items() if name not in given}
    folds = {
        name: value if name == "FOLDS" else round(1 / value)
        for name, value in ratios.items()
    }
    tests = folds.get("TEST_RATIO")
    most = max(n for name, n in folds.items() if name != "TEST_RATIO")

    def without_test(n):
        return n - -(-n // tests) if tests else n

    needed = next(n for n in itertools.count(tests or 1) if without_test(n) >= most)
    train = images[images["split"] == "train"]
    sizes = train.groupby("label", observed=False)["digest"].nunique()
    if (size := int(sizes.min())) < needed:
        advice = "add photos"
        if (rest := without_test(size)) > 1:
            fit = {"TEST_RATIO": size, "VALIDATION_RATIO": rest, "FOLDS": rest}
            fit = {name: fit[name] for name in folds if fit[name] < folds[name]}
            fit = {name: n if name == "FOLDS" else 1 / n for name, n in fit.items()}
            advice += f", or set {_listed(fit)}"
        needs = f"with {_listed(ratios)} a class needs {needed}"
        raise ValueError(f"{sizes.idxmin()} has {size} photos; {needs}: {advice}")


def _listed(values):
    """Return 'A 1, B 2 and C 3'."""
    return " and ".join(
        ", ".join(f"{name} {n:.2g}" for name, n in values.items()).rsplit(", ", 1)
    )


def apply_corrections(images: pd.DataFrame, path: str | Path | None) -> pd.DataFrame:
    """
    Return the table with the labels of a corrections file; no photo is moved.

    What is corrected is printed. Without a file (None), no label changes.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images`.
    path : path or None
        A CSV file (UTF-8, with commas or semicolons) with the columns `path` and
        `label`; others are ignored, as those of `evaluation.list_flagged_labels`. An
        empty label leaves the photo out.

    Returns
    -------
    DataFrame
        The rows that stay, with their index, and `corrected`: whether the label has
        changed.

    Raises
    ------
    ValueError
        The file is no such CSV, or names a photo that the table does not have, an
        unknown class, or a photo with different labels.
    """
    images = images.assign(corrected=False)
    if path is None:
        return images
    labels = images["path"].map(
        _read_corrections(path, images)
    )  # missing for other photos
    left_out = labels == ""
    corrected = labels.notna() & ~left_out & (labels != images["label"].astype(str))
    images.loc[corrected, "label"] = labels[corrected]
    images["corrected"] = corrected
    in_test = sum((corrected | left_out) & (images["split"] == "test"))
    line = (
        f"{corrected.sum()} label(s) corrected and {left_out.sum()} photo(s) left out"
    )
    if in_test:
        line += (
            f", {in_test} of them test photos; corrections of "
            f"test photos flatter the model"
        )
    print(f"{photos.printable(path)}: {line}.")
    return images[~left_out]


def _read_corrections(path, images):
    """Return the label of each path in a corrections file, all of the table."""
    here = photos.printable(path)
    with open(path, "rb") as file:
        first = file.readline()
    options = {
        "sep": ";" if first.count(b";") > first.count(b",") else ",",
        "dtype": str,
    }
    options |= {"keep_default_na": False, "encoding": "utf-8-sig"}
    try:
        table = pd.read_csv(path, **options, encoding_errors="surrogateescape")
        table = table[["path", "label"]].drop_duplicates()
    except (KeyError, ValueError) as error:
        what = f"{here} is no CSV file with the columns path and label ({error})"
        raise ValueError(f"{what}; correct it, or set CORRECTIONS = None") from error
    known, classes = (
        images["path"][images["label"].notna()],
        images["label"].cat.categories,
    )
    if len(unknown := table["path"][~table["path"].isin(known)]):
        what = (
            f"{here} names {photos.some(unknown)}, which is "
            f"the path of no labelled photo"
        )
        raise ValueError(
            f"{what}; correct it (from PHOTOS on, with /) or delete the line"
        )
    for row in table[~table["label"].isin(["", *classes])].itertuples():
        what = (
            f"{here} labels {photos.printable(row.path)} as "
            f"{photos.printable(row.label)}"
        )
        raise ValueError(
            f"{what}; it must be one of {photos.some(classes)}, or empty (left out)"
        )
    if len(twice := table["path"][table["path"].duplicated()]):
        raise ValueError(
            f"{here} gives {photos.some(twice)} different labels; keep one of them"
        )
    return table.set_index("path")["label"]
