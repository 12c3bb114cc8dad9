"""
The data set (section 2): what needs more than plain pandas on the table of photos.

Digests and unreadable photos, look-alikes and groups, corrections. No file is moved or
changed.
"""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse
from scipy.sparse import csgraph
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from scenes import files, photos, progress, settings

SIDE = 16  # of a thumbnail, in pixels
MEASURES = ["brightness", "height", "width", "bytes"]  # of a photo, not of its content
NEAR_DUPLICATE = 0.99  # the least correlation of the thumbnails of near-duplicates


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
        the smaller decode of `read_photo`, which only its copies as a file share. And
        what `find_shortcut` sees, NaN for an unreadable file: `brightness` (the mean of
        all pixels, 0 to 255), `height` and `width` (in pixels, as decoded) and `bytes`
        (of the file).
    thumbnails : ndarray of float32, shape (n, 256)
        The `thumbnail` of each photo, zeros for an unreadable one, in the order of the
        table. They are pixels: for memory only.
    """
    rows = []
    with progress.bar(len(images), "Reading the photos", "photo") as bar:
        for batch in progress.read_ahead(_look_at, list(images["file"]), 32):
            rows += batch
            bar.update(len(batch))
    columns = ["digest", "problem", "thumbnail", *MEASURES]
    digests = pd.DataFrame(rows, columns=columns, index=images.index)
    return digests, np.stack(digests.pop("thumbnail"))


def _look_at(file):
    """Return digest, problem, thumbnail and measures of a photo."""
    try:
        photo = photos.read_photo(file)
    except photos.UnreadablePhotoError as error:
        return "", error.reason, np.zeros(SIDE**2, "float32"), *[np.nan] * 4
    height, width, _ = photo.shape
    measures = photo.mean(), height, width, os.path.getsize(file)
    return photos.photo_digest(photo), "", thumbnail(photo), *measures


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


def group_near_duplicates(images: pd.DataFrame, thumbnails: np.ndarray) -> pd.Series:
    """
    Return the group of each photo: near-duplicates, at any size, are one group.

    Photos with the same pixels are near-duplicates, and photos whose thumbnails
    correlate by 0.99 or more; so are the near-duplicates of these. (Features find less
    than half of them; now and then, two horizons or sunsets are taken for one photo.)

    Parameters
    ----------
    images : DataFrame
        Readable photos, with digests.
    thumbnails : ndarray of float32, shape (n, 256)
        Those of a whole table, in whose order the index of `images` counts.

    Returns
    -------
    Series of str
        With the index of `images`: the least digest of the photos in the group.
    """
    digests = images["digest"].to_numpy(dtype=str)
    names, groups = np.unique(digests, return_inverse=True)
    levels = thumbnails[images.index]
    for start in range(0, len(levels), 256):  # all at once would take gigabytes
        block = levels[start : start + 256]
        rest = groups[start:]
        alike = block @ levels[start:].T >= NEAR_DUPLICATE
        for row in np.flatnonzero(alike.sum(axis=1) > 1):
            joined = np.unique(rest[alike[row]])
            if len(joined) > 1:
                groups[np.isin(groups, joined)] = joined[0]
    return pd.Series(names[groups], images.index, name="group")


def group_images(
    images: pd.DataFrame, thumbnails: np.ndarray | None, groups: str | None = None
) -> pd.Series:
    """
    Return the group of each photo; a split or fold that is drawn divides no group.

    Photos are a group if they have the same pixels, look alike
    (`group_near_duplicates`) or, as those of one patient, belong together by GROUPS.
    Look-alikes that are more than ten photos and more than a tenth of a class are no
    group, since a fold could not hold its share of the class; a line says so.

    Parameters
    ----------
    images : DataFrame
        The labelled, readable photos, with digests.
    thumbnails : ndarray of float32, shape (n, 256), or None
        As for `group_near_duplicates`. Without them, the look-alikes are those of the
        column `group` of `images`, as the bundled features have it.
    groups : str or None
        GROUPS, see `read_groups`.

    Returns
    -------
    Series of str
        With the index of `images`: the least digest of the photos in the group.
    """
    if thumbnails is None:
        alike = images["group"]
    else:
        alike = _divide_large(images, group_near_duplicates(images, thumbnails))
    if groups is None:
        return alike
    # Groups of either kind are nodes of a graph, and each photo joins two of them.
    first, names = pd.factorize(alike)
    second, others = pd.factorize(read_groups(images, groups))
    print(
        f"GROUPS joins {len(images):,} photos into {len(others):,} groups; the largest "
        f"holds {np.bincount(second).max():,}."
    )
    size = len(names) + len(others)
    edges = np.ones(len(images)), (first, len(names) + second)
    graph = sparse.coo_array(edges, shape=(size, size))
    _, component = csgraph.connected_components(graph, directed=False)
    return images["digest"].groupby(component[first]).transform("min").rename("group")


def _divide_large(images, alike):
    """Return the groups of look-alikes; of large ones, only of equal pixels."""
    labels = images["label"].astype(str)
    different = images["digest"].groupby([alike, labels]).transform("nunique")
    of_class = images["digest"].groupby(labels).transform("nunique")
    is_large = different > np.maximum(10, of_class / 10)
    is_divided = alike.isin(alike[is_large])
    if is_divided.any():
        print(
            f"{is_divided.sum():,} photos look alike in groups of more than a tenth of "
            f"a class; these are divided among splits and folds: accuracies may be "
            f"too high (GROUPS keeps together what belongs together)."
        )
    return alike.mask(is_divided, images["digest"])


def read_groups(images: pd.DataFrame, groups: str) -> pd.Series:
    """
    Return the group that GROUPS gives each photo, as str.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images`.
    groups : str
        A regular expression with one group that is found in each `path`, as
        `patient(\\d+)`; or the path of a CSV file as spreadsheets write it, with the
        columns `path` and `group`, that names each photo once.

    Raises
    ------
    ValueError
        A photo has no group, or several.
    """
    if settings.is_csv(groups):
        names = set(images["path"])
        found = images["path"].map(_read_column("GROUPS", groups, "group", names))
    else:
        # As objects: pandas's own text has no place for a group that took no part.
        found = images["path"].astype(object).str.extract(groups, expand=False)
    without = images["path"][found.isna() | (found == "")]
    if len(without):
        raise ValueError(
            f"GROUPS is {groups!r}, which gives no group to {photos.some(without)}; "
            f"each photo needs one"
        )
    return found


def list_divided_groups(images: pd.DataFrame) -> pd.DataFrame:
    """
    Return the photos of groups that lie in several splits, group by group.

    If there are any, a line says how many, and that accuracies may be too high.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with `group`.

    Returns
    -------
    DataFrame
        `path`, `split` and `group` (from 1) of all photos of these groups.
    """
    splits = images.groupby("group")["split"].transform("nunique")
    divided = images.loc[splits > 1, ["path", "split", "group"]]
    numbers, names = pd.factorize(divided["group"])
    divided["group"] = numbers + 1
    if len(divided):
        print(
            f"{len(divided)} photos, in {len(names)} group(s), look like "
            f"near-duplicates of photos in another split, or are of one group with "
            f"them: accuracies may be too high."
        )
    return divided.sort_values(["group", "path"])


def find_shortcut(
    images: pd.DataFrame,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    head_accuracy: float,
    *,
    class_weight: str | None = None,
) -> float:
    """
    Return the cross-validated accuracy of a random forest that sees no content.

    It sees of each photo the mean brightness, the size in pixels and in bytes, the
    aspect ratio and the file type. If it is above chance, which is to guess the largest
    class, and gains more than half of what the head gains, a line says so: the
    classes may be recognized by how their photos were made (shortcut learning; Geirhos
    et al., 2020).

    Parameters
    ----------
    images : DataFrame
        Readable photos, with the columns of `digest_photos`. Without these, as the
        bundled features are, the accuracy is NaN.
    splits : sequence of (training rows, validation rows)
        The folds in which the head was cross-validated: numbers of rows of the table.
    head_accuracy : float
        That of the head in these folds.
    class_weight : {None, 'balanced'}
        With 'balanced', all accuracies are balanced accuracies.
    """
    if "brightness" not in images:
        return np.nan
    seen = images[MEASURES].assign(ratio=images["width"] / images["height"])
    suffixes = images["path"].str.lower().str.rpartition(".")[2]
    seen["type"], _ = suffixes.factorize()
    y = images["label"].cat.codes.to_numpy()
    forest = RandomForestClassifier(
        min_samples_leaf=5, class_weight=class_weight, random_state=0
    )
    scoring = "balanced_accuracy" if class_weight else "accuracy"
    guess = DummyClassifier()
    accuracy = cross_val_score(forest, seen, y, cv=splits, scoring=scoring).mean()
    chance = cross_val_score(guess, seen, y, cv=splits, scoring=scoring).mean()
    if accuracy - chance > max(0, head_accuracy - chance) / 2:
        print(
            f"Brightness, size, aspect ratio and file type alone reach {accuracy:.1%} "
            f"(chance: {chance:.1%}, head: {head_accuracy:.1%}): the classes may be "
            f"recognized by how their photos were made, not by what they show."
        )
    return accuracy


def apply_corrections(
    images: pd.DataFrame, path: str | Path | None, found: pd.DataFrame
) -> pd.DataFrame:
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
        Empty rows, spaces around a name and an apostrophe before it mean nothing, and
        the backslashes of Windows are slashes.
    found : DataFrame
        The table from which `images` was taken: the file may name others of its photos,
        too, which are counted.

    Returns
    -------
    DataFrame
        The rows that stay, with their index, and `corrected`: whether the label has
        changed.

    Raises
    ------
    ValueError
        The file is no such CSV, or names a photo that the table does not have, an
        unknown class, or a photo with different labels. Or it leaves no photo in a
        split, or none of a class for training.
    """
    images = images.assign(corrected=False)
    if path is None:
        return images
    read = _read_corrections(path, found)
    labels = images["path"].map(read)  # missing where there is none
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
            f", {in_test} of them test photos, which flatters a model that has flagged "
            f"them"
        )
    print(f"{photos.printable(path)}: {said}.")
    elsewhere = (~read.index.isin(images["path"])).sum()
    if elsewhere:
        print(f"{elsewhere} photo(s) that it names are not in this run.")
    kept = images[~left_out]
    trained = kept.loc[kept["split"] == "train", "label"]
    untrained = set(trained.cat.categories).difference(trained)
    lost = [f"{split} photo" for split in set(images["split"]) - set(kept["split"])]
    lost += [f"train photo of {name}" for name in untrained]
    if lost:
        raise ValueError(f"{photos.printable(path)} leaves no {min(lost)}; keep some")
    return kept


def _read_corrections(path, images):
    """Return the label of each path in a corrections file, all of the table."""
    names = set(images["path"][images["label"].notna()])
    allowed = ["", *images["label"].cat.categories]
    labels = _read_column("CORRECTIONS", path, "label", names)
    labels = labels.map(lambda cell: _meant(cell, allowed))
    here = photos.printable(path)
    unknown = labels.index[~labels.index.isin(names)]
    if len(unknown):
        raise ValueError(
            f"{here} names {photos.some(unknown)}, which is the path of no labelled "
            f"photo of this run; correct it (from PHOTOS on, with /; saved as CSV "
            f"UTF-8) or delete the line (also of photos that SHRINK_FACTOR leaves out)"
        )
    unallowed = labels[~labels.isin(allowed)]
    if len(unallowed):
        raise ValueError(
            f"{here} labels {photos.printable(unallowed.index[0])} as "
            f"{photos.printable(unallowed.iloc[0])}; it must be one of "
            f"{photos.some(allowed[1:])}, or empty (left out)"
        )
    return labels


def _read_column(setting, path, column, names):
    """Return a column of the CSV file of a setting, by the photos' names in `path`."""
    here = photos.printable(path)
    try:
        table = files.read_spreadsheet(path, ["path", column])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{here} is no CSV file with the columns path and {column} ({error}); save "
            f"it as CSV UTF-8, or set {setting} = None"
        ) from error
    table["path"] = table["path"].map(lambda cell: _meant(cell, names))
    table[column] = table[column].str.strip()
    table = table.drop_duplicates()
    twice = table["path"][table["path"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{here} gives {photos.some(twice)} different {column}s; keep one of them"
        )
    return table.set_index("path")[column]


def _meant(cell, names):
    """Return the name that the cell of a spreadsheet means, or else the cell."""
    plain = cell.strip()
    forms = [unicodedata.normalize(form, plain) for form in ("NFC", "NFD")]
    of_windows = plain.replace("\\", "/")
    for name in (cell, plain, plain.removeprefix("'"), of_windows, *forms):
        if name in names:
            return name
    return cell
