"""
Photos (section 2): the photos of a folder as a table.

A photo is its pixels: one decoder for all modules, and no photo is moved or changed. The
classes are what the folders are called. Knows nothing of networks.
"""

import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from sklearn.model_selection import StratifiedGroupKFold

import scenes
from scenes import files, tasks

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

Image.init()
# Pillow knows these formats by sight, but does not decode them, or by another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
FORMATS = tuple(name for name in Image.ID if name not in _NOT_DECODED)
# MPO: two JPEGs in one file, of which the first counts.
PHOTO_SUFFIXES = {s for s, f in Image.registered_extensions().items() if f in {*FORMATS, "MPO"}}
# Photos to people, though no plugin of Pillow's own opens them.
OTHER_SUFFIXES = {".arw", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".heic", ".heif", ".hif", ".jxl"}
OTHER_SUFFIXES |= {".nef", ".orf", ".pjp", ".pjpeg", ".raf", ".raw", ".rw2", ".svg", ".wmf"}
# The orientation in EXIF, from 2, and what undoes it.
_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))
_SRGB, _LAB = (ImageCms.ImageCmsProfile(ImageCms.createProfile(n)) for n in ("sRGB", "LAB"))
DRAFT_SIZE = 3 * scenes.IMAGE_SIZE  # the network sees next to nothing of what is smaller


# --- Where they are -------------------------------------------------------------------


def printable(name: object) -> str:
    r"""Return a name with `\udcff` in the place of a byte that is no text and no file takes."""
    return str(name).encode("utf-8", "backslashreplace").decode()


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
            raise FileNotFoundError(f"there is no folder {printable(place)}; {LAYOUTS}")
        if not _split_folders(place) and not _holds_classes(place):
            raise FileNotFoundError(f"there are no classes in {printable(place)}; {LAYOUTS}")
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
                f"{printable(folder)} holds {found[split].name} and {entry.name}, which are "
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


def looks_like_photo(path: Path) -> bool:
    """Return whether a person would call the file a photo, be it one for Pillow or not."""
    named = path.suffix.lower() in PHOTO_SUFFIXES | OTHER_SUFFIXES
    return named and not path.name.startswith(".") and not path.is_dir()


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
            f"{printable(folder)} holds {', '.join(p.name for p in splits.values())}, but no train "
            f"(a class must not have the name of a split); {LAYOUTS}"
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
    if names := [printable(p.name) for p in others if any(map(is_photo, walk(p)))]:
        print(f"Passed over, since they are no splits: the folders {', '.join(names)}.")
    return images


def _check_classes(images: pd.DataFrame, classes: list[str], folder: Path) -> None:
    """Raise an error that names the first class that cannot be worked with."""
    if not classes:
        raise FileNotFoundError(f"there is no photo of a class in {printable(folder)}; {LAYOUTS}")
    for name in classes:
        place = printable(folder / name)
        if name in REFUSED_CLASSES or printable(name) != name:
            why = "is not text" if printable(name) != name else "means something else in a table"
            raise ValueError(f"the name of the class {place} {why}; rename its folder")
    alike = {}  # to a Mac, to Windows, or to the eye
    for name in classes:
        twin = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if twin != name:
            raise ValueError(
                f"the classes {twin!a} and {name!a} in {printable(folder)} or beside it are one "
                "name but for the case or the coding of letters; rename or merge their folders"
            )
    if untrained := set(classes) - set(images.loc[images["split"] == "train", "label"]):
        raise FileNotFoundError(
            f"there is no photo in {printable(folder / min(untrained))}, though other splits have "
            "that class; add some for training, or take the class out of the other splits"
        )
    if len(classes) == 1:
        only = f"{printable(folder)} holds only the class {classes[0]}"
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
    if photos := sorted(printable(path.name) for path in left if looks_like_photo(path)):
        more = f" and {len(photos) - 10} more" if len(photos) > 10 else ""
        print(
            f"Passed over, though by name photos: {', '.join(photos[:10])}{more} "
            "(Pillow cannot open them, or they are in no class folder)."
        )
    if len(left) > len(photos):
        print(f"Passed over: {len(left) - len(photos)} other file(s).")


# --- The decoder ----------------------------------------------------------------------


def read_photo(path: str | Path) -> np.ndarray:
    """
    Decode one photo: the only decoder, for the audit, the features and the predictions.

    The orientation in EXIF and a colour profile are applied, transparent pixels are laid
    over white, gray of more than 8 bits is scaled to 8, and of an animation the first frame
    counts. A large JPEG is decoded at a half, a quarter or an eighth of its size, as long as
    its shorter side stays at `DRAFT_SIZE` or above: four times as fast for 12 megapixels,
    where nine tenths of the rounded features stay the same or move by one step of 255.

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
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # Pillow only warns of up to twice as many. None stands for no limit.
            if width * height > (Image.MAX_IMAGE_PIXELS or np.inf):
                raise Image.DecompressionBombError(f"{width} x {height} pixels are too many")
            image.draft(None, (DRAFT_SIZE, DRAFT_SIZE))  # does nothing if it is no JPEG
            image.load()
            return np.array(_flatten(_turn(image)))
    except Exception as error:  # Pillow's plugins raise a dozen kinds for damaged bytes
        reason = _reason(error)
        raise ValueError(f"{printable(path)} cannot be read as a photo: {reason}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    if isinstance(error, (OSError, ValueError, SyntaxError)) and str(error):
        return getattr(error, "strerror", None) or str(error)
    return f"its decoder fails ({type(error).__name__}: {error})"


def _turn(image: Image.Image) -> Image.Image:
    """Apply the orientation in EXIF, and leave the rest of EXIF alone, which may be odd."""
    try:
        method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a damaged EXIF block does not make the photo a bad one
        method = None
    return image if method is None else image.transpose(method)


def _flatten(image: Image.Image) -> Image.Image:
    """Return the photo as RGB, what is transparent laid over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _gray(image).convert("RGB")
    if not image.has_transparency_data:
        return _to_srgb(image)
    if image.mode == "La":
        image = image.convert("LA")  # the only way out of this mode
    clear = image.convert("RGBA")
    photo = _to_srgb(image.convert("L") if image.mode == "LA" else clear.convert("RGB"))
    photo.putalpha(clear.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return the photo as RGB, seen through its colour profile."""
    if image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        profile = _LAB
        if image.mode != "LAB":
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        space = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK", "LAB": "Lab "}[image.mode]
        same = "sRGB" in (profile.profile.profile_description or "")
        if profile.profile.xcolor_space == space and not same:
            return ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
    except (KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        pass  # none or a damaged one: viewers show the photo without it
    return image.convert("RGB")


def _gray(image: Image.Image) -> Image.Image:
    """
    Scale gray of more than 8 bits to 8.

    What is white follows from the largest number where only one answer makes a photo of it.
    In between lie files that would be all but black or all but white, and are refused.
    """
    numbers, tags = np.asarray(image), getattr(image, "tag_v2", {})
    low, high = numbers.min(), numbers.max()
    if tags.get(ExifTags.Base.BitsPerSample) == (12,):
        white = 4095
    elif image.mode == "F":
        white = 1 if high <= 1 else 255 if 64 <= high <= 255 else None
    else:
        white = 255 if high <= 255 else 65535 if 4096 <= high <= 65535 else None
    if white is None or not low >= 0:
        raise ValueError(
            f"its pixels go from {low:g} to {high:g}, which does not say what is white; "
            "save it with 8 bits"
        )
    gray = numbers.astype("float64") * (255 / white)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # Pillow turns 8 bits alone
        gray = 255 - gray
    if isinstance(clear := image.info.get("transparency"), int):
        gray[numbers == clear] = 255
    return Image.fromarray(gray.round().astype("uint8"))


def shrink_photo(photo: np.ndarray) -> np.ndarray:
    """Return a photo at the network's size if it is larger, so that it takes little memory."""
    return resize_photos([photo])[0].numpy() if max(photo.shape) > scenes.IMAGE_SIZE else photo


def resize_photos(batch: Sequence[np.ndarray]) -> tf.Tensor:
    """
    Return photos at the network's size, float32 (n, 224, 224, 3), still 0 to 255.

    As the saved classifier resizes. Antialiasing changes nothing where a photo grows, as those
    of this data set do, but takes 1.5 ms; where it shrinks, it keeps fine patterns from
    turning into noise.
    """
    shape, *others = {photo.shape for photo in batch}
    if others:
        return tf.concat([resize_photos([photo]) for photo in batch], axis=0)
    shrinks, size = max(shape[:2]) > scenes.IMAGE_SIZE, (scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)
    return tf.image.resize(np.stack(batch), size, antialias=shrinks)  # faster than one by one


# --- The audit, and the folds ---------------------------------------------------------


def refuse(failed: Sequence[str], what: str = "failed") -> None:
    """Raise one error that lists all photos at fault, if there are any."""
    if failed:
        listed = "".join(f"\n    {printable(line)}" for line in failed)
        raise ValueError(f"{len(failed)} photo(s) {what}:{listed}")


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
        the same digest; but the digest of a large JPEG is that of the smaller decode of
        `read_photo`, which only its copies as a file share.
    """

    def look(path: str) -> tuple[str, str]:
        try:
            return photo_digest(read_photo(Path(folder, path))), ""
        except ValueError as error:
            return "", str(error).rpartition(" as a photo: ")[2]

    found = []
    with tasks.progress(len(images), "Reading the photos", "photo") as bar:
        for batch in tasks.run_ahead(look, list(images["path"]), 32, []):
            found += [row for _, row in batch]
            bar.update(len(batch))
    return pd.DataFrame(found, columns=["digest", "problem"], index=images.index)


def make_folds(
    labels: np.ndarray, groups: Sequence | None, *, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Return the (training rows, validation rows) of each fold; groups stay together.

    `labels` are names or numbers of classes, and the error for a class that is too small
    calls it as they do. Names in the order of the numbers give the same folds.
    """
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(
            f"groups have the shape {groups.shape}; it must be {labels.shape}, one a photo"
        )
    sizes = pd.DataFrame({"label": labels, "of": groups}).drop_duplicates()["label"].value_counts()
    if folds > sizes.min():
        raise ValueError(
            f"folds is {folds}, but a class has only {sizes.min()} different photo(s): "
            f"{sizes.idxmin()}; add photos of it, or take fewer folds (a ratio is 1 / folds)"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def refuse_unreadable(images: pd.DataFrame) -> None:
    unreadable = images[images["digest"] == ""]
    what = "cannot be read; replace them, or leave them out: found = found[found['digest'] != '']"
    refuse([f"{row.path}: {row.problem}" for row in unreadable.itertuples()], what)
