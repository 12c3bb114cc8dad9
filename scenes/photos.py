"""
Photos (section 2): their pixels, and their size for the network.

A photo is its pixels: one decoder for all modules, and no photo is moved or changed. Of the
base model, only its image size is known here.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from scenes import base_model, files, progress

Image.init()
# Pillow knows these formats by sight, but does not decode them, or by another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
FORMATS = tuple(name for name in Image.ID if name not in _NOT_DECODED)
# The orientation in EXIF, from 2, and what undoes it.
_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
DRAFT_SIZE = 3 * base_model.IMAGE_SIZE  # the network sees next to nothing of what is smaller


def printable(name: object) -> str:
    r"""Return a name with control characters and undecodable bytes escaped, as `\n` or `\udcff`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))


def some(names: Iterable[object]) -> str:
    """Return up to ten names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(printable, names[:10])) + more


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
        reason = _reason(path, error)
        raise ValueError(f"{printable(path)} cannot be read as a photo: {reason}") from error


def _reason(path, error):
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            head = file.read(64)
        is_heic = head[4:8] == b"ftyp" and (b"hei" in head or b"hevc" in head)
        return "it is a HEIC photo; convert it to JPEG" if is_heic else "no known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    if isinstance(error, (OSError, ValueError, SyntaxError)) and str(error):
        return getattr(error, "strerror", None) or str(error)
    return f"its decoder fails ({type(error).__name__}: {error})"


def _turn(image):
    """Apply the orientation in EXIF, and leave the rest of EXIF alone, which may be odd."""
    try:
        method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a damaged EXIF block does not make the photo a bad one
        method = None
    return image if method is None else image.transpose(method)


def _flatten(image):
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


def _to_srgb(image):
    """Return the photo as RGB, seen through its colour profile."""
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        space = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}[image.mode]
        same = "sRGB" in (profile.profile.profile_description or "")
        if profile.profile.xcolor_space == space and not same:
            return ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
    except (KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        pass  # none or a damaged one: viewers show the photo without it
    return image.convert("RGB")


def _gray(image):
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
        what = f"its pixels go from {low:g} to {high:g}, which does not say what is white"
        raise ValueError(f"{what}; save it with 8 bits")
    gray = numbers.astype("float64") * (255 / white)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # Pillow turns 8 bits alone
        gray = 255 - gray
    if isinstance(clear := image.info.get("transparency"), int):
        gray[numbers == clear] = 255
    return Image.fromarray(gray.round().astype("uint8"))


def shrink_photo(photo: np.ndarray) -> np.ndarray:
    """Return a photo at the network's size if it is larger, so that it takes little memory."""
    return resize_photos([photo])[0].numpy() if max(photo.shape) > base_model.IMAGE_SIZE else photo


def resize_photos(batch: Sequence[np.ndarray]) -> tf.Tensor:
    """
    Return photos at the network's size, float32, still 0 to 255.

    As the saved classifier resizes. Antialiasing changes nothing where a photo grows, as those
    of this data set do, but takes 1.5 ms; where it shrinks, it keeps fine patterns from
    turning into noise.
    """
    shape, *others = {photo.shape for photo in batch}
    shrinks, size = max(shape[:2]) > base_model.IMAGE_SIZE, (base_model.IMAGE_SIZE,) * 2
    with tf.device("CPU"):  # GPUs have no kernel for bytes, nor for antialiasing
        if others:
            return tf.concat([resize_photos([photo]) for photo in batch], axis=0)
        return tf.image.resize(np.stack(batch), size, antialias=shrinks)  # faster than one by one


# --- The audit, and the folds ---------------------------------------------------------


def refuse(failed: Sequence[str], what: str = "failed") -> None:
    """Raise one error that lists all photos at fault, if there are any."""
    if failed:
        listed = "".join(f"\n    {printable(line)}" for line in failed)
        raise ValueError(f"{len(failed)} photo(s) {what}:{listed}")


def photo_digest(photo: np.ndarray) -> str:
    return files.digest(str(photo.shape).encode(), photo.tobytes())


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """Return 16 x 16 gray levels of a photo, scaled so that a product of two is a correlation."""
    small = Image.fromarray(photo).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    gray = np.asarray(small, "float32").ravel()
    gray = gray - gray.mean()
    return gray / max(np.linalg.norm(gray), 1e-6)


def digest_photos(
    images: pd.DataFrame, folder: str | Path, *, thumbnails: list[np.ndarray] | None = None
) -> pd.DataFrame:
    """
    Decode each photo once, to know it by its pixels and to find the unreadable ones.

    Parameters
    ----------
    images : DataFrame
        The table of `list_images`.
    folder : path
        The folder that the table's paths are relative to.
    thumbnails : list, optional
        Collects the `thumbnail` of each photo, zeros for an unreadable one. They are pixels:
        for memory only.

    Returns
    -------
    DataFrame
        With the index of `images`: `digest` (32 hexadecimal digits of BLAKE2b over shape
        and pixels, empty for an unreadable file) and `problem` (why it is unreadable, else
        empty). The same photo saved under another name or in another lossless format has
        the same digest; but the digest of a large JPEG is that of the smaller decode of
        `read_photo`, which only its copies as a file share.
    """

    def look(path):
        try:
            photo = read_photo(Path(folder, path))
            return photo_digest(photo), "", thumbnail(photo)
        except ValueError as error:
            return "", str(error).rpartition(" as a photo: ")[2], np.zeros(256, "float32")

    found = []
    with progress.bar(len(images), "Reading the photos", "photo") as bar:
        for batch in progress.run_ahead(look, list(images["path"]), 32, []):
            found += [row[:2] for _, row in batch]
            if thumbnails is not None:
                thumbnails += [row[2] for _, row in batch]
            bar.update(len(batch))
    return pd.DataFrame(found, columns=["digest", "problem"], index=images.index)


def find_copies(images: pd.DataFrame, thumbnails: np.ndarray | None) -> pd.DataFrame:
    """
    Return the pairs of photos in different splits that are copies at another size or quality.

    Their thumbnails correlate by 0.99 or more; features find less than half of them. Now and
    then, two horizons or sunsets are taken for copies. If there are any, a line says that
    accuracies may be too high. None are found without thumbnails (None), which are
    those of a whole table, in whose order the index of `images` counts.
    """
    thumbnails = np.zeros((len(images), 1)) if thumbnails is None else thumbnails[images.index]
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


def refuse_unreadable(images: pd.DataFrame) -> None:
    unreadable = images[images["digest"] == ""]
    what = "cannot be read; replace or remove them"
    refuse([f"{row.path}: {row.problem}" for row in unreadable.itertuples()], what)


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
    too_many = lost.index[lost > np.maximum(2, images["label"].value_counts()[lost.index] / 20)]
    refuse_unreadable(unreadable[unreadable["label"].isin(too_many)])
    if len(unreadable):
        said = some(f"{row.path} ({row.problem})" for row in unreadable.itertuples())
        print(f"Skipped {len(unreadable)} unreadable photo(s): {said}.")
    return images.drop(unreadable.index)
