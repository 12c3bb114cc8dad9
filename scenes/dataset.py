"""
The data set (section 2): what needs more than plain pandas on the table of photos.

Digests and unreadable photos, near-duplicates, sizes, corrections. No file is moved or
changed.
"""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from scenes import files, photos, progress

SIDE = 16  # of a thumbnail, in pixels
COPIES = 0.99  # the correlation of two thumbnails from which on photos are copies


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """
    Return 16 x 16 gray levels of a photo, scaled so that a product of two is a
    correlation.

    Parameters
    ----------
    photo : ndarray of uint8, shape (height, width, 3)

    Returns
    -------
    ndarray of float32, shape (256,)
        Of mean 0 and length 1; all 0 if the photo has one gray level.
    """
    gray = Image.fromarray(photo).convert("L")
    small = gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    levels = np.asarray(small, "float32").ravel()
    levels = levels - levels.mean()
    length = np.linalg.norm(levels)
    return levels / max(length, 1e-6)


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
    rows = []
    with progress.bar(len(images), "Reading the photos", "photo") as bar:
        for batch in progress.read_ahead(_look_at, list(images["file"]), 32):
            rows += batch
            bar.update(len(batch))
    columns = ["digest", "problem", "thumbnail"]
    digests = pd.DataFrame(rows, columns=columns, index=images.index)
    return digests, np.stack(digests.pop("thumbnail"))


def _look_at(file):
    """Return digest, problem and thumbnail of a photo."""
    try:
        photo = photos.read_photo(file)
    except photos.UnreadablePhotoError as error:
        return "", error.reason, np.zeros(SIDE**2, "float32")
    return photos.photo_digest(photo), "", thumbnail(photo)


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
    sizes = images["label"].value_counts()[lost.index]
    is_too_many = lost > np.maximum(2, sizes / 20)
    is_refused = unreadable["label"].isin(lost.index[is_too_many])
    photos.refuse_unreadable(unreadable[is_refused])
    if len(unreadable):
        problems = [f"{row.path} ({row.problem})" for row in unreadable.itertuples()]
        said = photos.some(problems)
        print(f"Skipped {len(unreadable)} unreadable photo(s): {said}.")
    return images.drop(unreadable.index)


def group_copies(images: pd.DataFrame, thumbnails: np.ndarray | None) -> pd.Series:
    """
    Return the group of each photo: copies of each other, at any size, are one group.

    Photos with the same pixels are copies, and photos whose thumbnails correlate by
    0.99 or more; so are the copies of copies. (Features find less than half of them;
    now and then, two horizons or sunsets are taken for copies.)

    Parameters
    ----------
    images : DataFrame
        Readable photos, with digests.
    thumbnails : ndarray of float32, shape (n, 256), or None
        Those of a whole table, in whose order the index of `images` counts. Without
        them, only photos with the same pixels are a group.

    Returns
    -------
    Series of str
        With the index of `images`: the least digest of the photos in the group.
    """
    digests = images["digest"].to_numpy(dtype=str)
    names, groups = np.unique(digests, return_inverse=True)
    if thumbnails is not None:
        levels = thumbnails[images.index]
        for start in range(0, len(levels), 256):  # all at once would take gigabytes
            block = levels[start : start + 256]
            rest = groups[start:]
            alike = block @ levels[start:].T >= COPIES
            for row in np.flatnonzero(alike.sum(axis=1) > 1):
                joined = np.unique(rest[alike[row]])
                if len(joined) > 1:
                    groups[np.isin(groups, joined)] = joined[0]
    return pd.Series(names[groups], images.index, name="group")


def find_copies(images: pd.DataFrame, thumbnails: np.ndarray | None) -> pd.DataFrame:
    """
    Return the photos that are copies of photos in another split, group by group.

    If there are any, a line says how many, and that accuracies may be too high. Without
    thumbnails, a line says that only photos with the same pixels were looked for.

    Parameters
    ----------
    images, thumbnails
        As for `group_copies`.

    Returns
    -------
    DataFrame
        `path`, `split` and `group` (from 1) of all photos of these groups.
    """
    if thumbnails is None:
        print("Not checked: copies of another size or quality (it needs the photos).")
    groups = group_copies(images, thumbnails)
    splits = images["split"].groupby(groups).transform("nunique")
    copies = images.loc[splits > 1, ["path", "split"]]
    numbers, names = pd.factorize(groups[copies.index])
    copies["group"] = numbers + 1
    if len(copies):
        print(
            f"{len(copies)} photos, in {len(names)} group(s), look like copies of "
            f"photos in another split: accuracies may be too high."
        )
    return copies.sort_values(["group", "path"])


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
    parts = {}  # into which different photos of each class are divided
    given = set(images["split"])
    for name, value in ratios.items():
        split = name.removesuffix("_RATIO").lower()
        if split not in given:
            parts[name] = value if name == "FOLDS" else round(1 / value)
    tests = parts.get("TEST_RATIO")
    needed = max(n for name, n in parts.items() if name != "TEST_RATIO")
    if tests:  # a part of them, rounded up, is gone before the others are divided
        needed = max(tests, -(-needed * tests // (tests - 1)))
    train = images[images["split"] == "train"]
    classes = train.groupby("label", observed=False)
    sizes = classes["digest"].nunique()
    size = int(sizes.min())
    if size >= needed:
        return
    rest = size - -(-size // tests) if tests else size
    most = {"TEST_RATIO": size, "VALIDATION_RATIO": rest, "FOLDS": rest}
    fitting = {}
    for name in parts:
        if most[name] < parts[name] and rest > 1:
            fitting[name] = rest if name == "FOLDS" else 1 / most[name]
    advice = f"add photos, or set {_listed(fitting)}" if fitting else "add photos"
    used = _listed({name: ratios[name] for name in parts})
    raise ValueError(
        f"{sizes.idxmin()} has {size} photos; with {used} a class needs {needed}: "
        f"{advice}"
    )


def _listed(values):
    """Return 'A 1 and B 2'."""
    return " and ".join(f"{name} {value:.2g}" for name, value in values.items())


def apply_corrections(images: pd.DataFrame, path: str | Path | None) -> pd.DataFrame:
    """
    Return the table with the labels of a corrections file; no photo is moved.

    What is corrected is printed. Without a file (None), no label changes.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images`.
    path : path or None
        A CSV file as spreadsheets write it (UTF-8, or "Unicode text"; with commas,
        semicolons or tabs) with the columns `path` and `label`; others are ignored, as
        those of `evaluation.list_flagged_labels`. An empty label leaves the photo out.
        Empty rows, spaces around a name and an apostrophe before it mean nothing.

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
    labels = images["path"].map(_read_corrections(path, images))  # else missing
    left_out = labels == ""
    is_other = labels != images["label"].astype(str)
    corrected = labels.notna() & ~left_out & is_other
    images.loc[corrected, "label"] = labels[corrected]
    images["corrected"] = corrected
    said = (
        f"{corrected.sum()} label(s) corrected and {left_out.sum()} photo(s) left out"
    )
    concerned = images["split"][corrected | left_out]
    in_test = (concerned == "test").sum()
    if in_test:
        said += (
            f", {in_test} of them test photos; corrections of test photos flatter the "
            f"model"
        )
    print(f"{photos.printable(path)}: {said}.")
    return images[~left_out]


def _read_corrections(path, images):
    """Return the label of each path in a corrections file, all of the table."""
    here = photos.printable(path)
    names = set(images["path"][images["label"].notna()])
    allowed = ["", *images["label"].cat.categories]
    try:
        table = files.read_spreadsheet(path, ["path", "label"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{here} is no CSV file with the columns path and label; save it as CSV "
            f"UTF-8, or set CORRECTIONS = None"
        ) from error
    table["path"] = table["path"].map(lambda cell: _meant(cell, names))
    table["label"] = table["label"].map(lambda cell: _meant(cell, allowed))
    table = table.drop_duplicates()
    unknown = table["path"][~table["path"].isin(names)]
    if len(unknown):
        raise ValueError(
            f"{here} names {photos.some(unknown)}, which is the path of no labelled "
            f"photo; correct it (from PHOTOS on, with /; saved as CSV UTF-8) or delete "
            f"the line"
        )
    unallowed = table[~table["label"].isin(allowed)]
    if len(unallowed):
        first = unallowed.iloc[0]
        raise ValueError(
            f"{here} labels {photos.printable(first['path'])} as "
            f"{photos.printable(first['label'])}; it must be one of "
            f"{photos.some(allowed[1:])}, or empty (left out)"
        )
    twice = table["path"][table["path"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{here} gives {photos.some(twice)} different labels; keep one of them"
        )
    return table.set_index("path")["label"]


def _meant(cell, names):
    """Return the name that the cell of a spreadsheet means, or else the cell."""
    plain = cell.strip()
    forms = [unicodedata.normalize(form, plain) for form in ("NFC", "NFD")]
    for name in (cell, plain, plain.removeprefix("'"), *forms):
        if name in names:
            return name
    return cell
