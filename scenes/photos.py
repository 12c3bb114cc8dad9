"""
Photos (section 2): their pixels, and their size for the network.

A photo is its pixels: one decoder for all modules, and no photo is moved or changed. Of
the base model, only its image size is known here.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from scenes import base_model, files

Image.init()
# Pillow knows these formats by sight, but does not decode them, or by another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
FORMATS = tuple(name for name in Image.ID if name not in _NOT_DECODED)
# The orientation in EXIF, from 2, and what undoes it.
_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# Among them the marks that turn the direction of text round: gpj.exe for exe.jpg.
_CONTROL = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
DRAFT_SIZE = (
    3 * base_model.IMAGE_SIZE
)  # the network sees next to nothing of what is smaller


def printable(name: object) -> str:
    r"""
    Return a name with control characters and undecodable bytes escaped, as `\n` or
    `\udcff`; marks of the direction of text are among them.
    """
    return _CONTROL.sub(
        lambda found: found[0].encode("unicode_escape").decode(), str(name)
    )


def some(names: Iterable[object]) -> str:
    """Return up to ten names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(printable, names[:10])) + more


# --- The decoder ----------------------------------------------------------------------


def read_photo(path: str | Path) -> np.ndarray:
    """
    Decode one photo: the only decoder, for the audit, the features and the predictions.

    The orientation in EXIF and a colour profile are applied, transparent pixels are
    laid over white, gray of more than 8 bits is scaled to 8, and of an animation the
    first frame counts. A large JPEG is decoded at a half, a quarter or an eighth of its
    size, as long as its shorter side stays at `DRAFT_SIZE` or above: four times as fast
    for 12 megapixels, where nine tenths of the rounded features stay the same or move
    by one step of 255.

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
                raise Image.DecompressionBombError(
                    f"{width} x {height} pixels are too many"
                )
            image.draft(None, (DRAFT_SIZE, DRAFT_SIZE))  # does nothing if it is no JPEG
            image.load()
            return np.array(_flatten(_turn(image)))
    except Exception as error:  # Pillow's plugins raise a dozen kinds for damaged bytes
        reason = _reason(path, error)
        raise ValueError(
            f"{printable(path)} cannot be read as a photo: {reason}"
        ) from error


def _reason(path, error):
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            head = file.read(64)
        is_heic = head[4:8] == b"ftyp" and (b"hei" in head or b"hevc" in head)
        return (
            "it is a HEIC photo; convert it to JPEG" if is_heic else "no known format"
        )
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{error}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS "
            f"if you trust it"
        )
    if isinstance(error, (OSError, ValueError, SyntaxError)) and str(error):
        return getattr(error, "strerror", None) or str(error)
    return f"its decoder fails ({type(error).__name__}: {error})"


def _turn(image):
    """
    Apply the orientation in EXIF, and leave the rest of EXIF alone, which may be odd.
    """
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
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert(
        "RGB"
    )


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

    What is white follows from the largest number where only one answer makes a photo of
    it. In between lie files that would be all but black or all but white, and are
    refused.
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
        what = (
            f"its pixels go from {low:g} to {high:g}, which does not say what is white"
        )
        raise ValueError(f"{what}; save it with 8 bits")
    gray = numbers.astype("float64") * (255 / white)
    if (
        tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    ):  # Pillow turns 8 bits alone
        gray = 255 - gray
    if isinstance(clear := image.info.get("transparency"), int):
        gray[numbers == clear] = 255
    return Image.fromarray(gray.round().astype("uint8"))


def shrink_photo(photo: np.ndarray) -> np.ndarray:
    """
    Return a photo at the network's size if it is larger, so that it takes little
    memory.
    """
    return (
        resize_photos([photo])[0].numpy()
        if max(photo.shape) > base_model.IMAGE_SIZE
        else photo
    )


def resize_photos(batch: Sequence[np.ndarray]) -> tf.Tensor:
    """
    Return photos at the network's size, float32, still 0 to 255.

    As the saved classifier resizes. Antialiasing changes nothing where a photo grows,
    as those of this data set do, but takes 1.5 ms; where it shrinks, it keeps fine
    patterns from turning into noise.
    """
    shape, *others = {photo.shape for photo in batch}
    shrinks, size = max(shape[:2]) > base_model.IMAGE_SIZE, (base_model.IMAGE_SIZE,) * 2
    with tf.device("CPU"):  # GPUs have no kernel for bytes, nor for antialiasing
        if others:
            return tf.concat([resize_photos([photo]) for photo in batch], axis=0)
        return tf.image.resize(
            np.stack(batch), size, antialias=shrinks
        )  # faster than one by one


# --- The audit, and the folds ---------------------------------------------------------


def refuse(failed: Sequence[str], what: str = "failed") -> None:
    """Raise one error that lists all photos at fault, if there are any."""
    if failed:
        listed = "".join(f"\n    {printable(line)}" for line in failed)
        raise ValueError(f"{len(failed)} photo(s) {what}:{listed}")


def photo_digest(photo: np.ndarray) -> str:
    return files.digest(str(photo.shape).encode(), photo.tobytes())


def refuse_unreadable(images: pd.DataFrame) -> None:
    unreadable = images[images["digest"] == ""]
    what = "cannot be read; replace or remove them"
    refuse([f"{row.path}: {row.problem}" for row in unreadable.itertuples()], what)
