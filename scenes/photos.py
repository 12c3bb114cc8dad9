"""
Photos (section 2): their pixels, and their size for the network.

A photo is its pixels: one decoder for all modules, and no photo is moved or changed. Of
the base model, only its image size is known here.
"""

import errno
import functools
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import (
    ExifTags,
    Image,
    ImageChops,
    ImageCms,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
)

from scenes import base_model, files

Image.init()
# Pillow knows these formats by sight, but does not decode them, or by another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
FORMATS = tuple(name for name in Image.ID if name not in _NOT_DECODED)
_SRGB = ImageCms.createProfile("sRGB")
_PNG = b"\x89PNG\r\n\x1a\n"
PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # colour profiles may be larger than 1 MB
# Errors of the operating system that stay with a file.
_LASTING = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# Programs leave the fourth byte of these at 0 and do not mean it as transparency.
_UNUSED_ALPHA = {"BMP", "CUR", "DIB", "ICO", "TGA"}
# Among them the marks that turn the direction of text round: gpj.exe for exe.jpg.
_CONTROL = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Decoding at this size changes the resized photo by next to nothing.
DRAFT_SIZE = 3 * base_model.IMAGE_SIZE


class UnreadablePhotoError(ValueError):
    """A file that is not there or cannot be decoded; `reason` says why, unnamed."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self):
        return f"{printable(self.args[0])} cannot be read as a photo: {self.reason}"


def printable(name: object) -> str:
    r"""
    Return a name with control characters and undecodable bytes escaped, as `\n` or
    `\udcff`; marks of the direction of text are among them.
    """

    def escape(found):
        return found[0].encode("unicode_escape").decode()

    return _CONTROL.sub(escape, str(name))


def some(names: Iterable[object]) -> str:
    """Return up to ten names, and how many more there are."""
    names = list(map(printable, names))
    listed = ", ".join(names[:10])
    if len(names) > 10:
        listed += f" and {len(names) - 10} more"
    return listed


# --- The decoder ----------------------------------------------------------------------


def read_photo(path: str | Path) -> np.ndarray:
    """
    Return the pixels of one photo: the only decoder, for audit, features, predictions.

    The orientation in EXIF and a colour profile are applied, transparent pixels are
    laid over white, gray of more than 8 bits is scaled to 8, and of an animation the
    first frame counts. A large JPEG is decoded at a half, a quarter or an eighth of its
    size, as long as its shorter side stays at `DRAFT_SIZE` or above: four times as fast
    for 12 megapixels, where nine tenths of the rounded features stay the same or move
    by one step of 255.

    Parameters
    ----------
    path : path
        A file in any format that Pillow decodes, whatever its name.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB, 0 to 255.

    Raises
    ------
    UnreadablePhotoError
        The file is not there or cannot be decoded; the message names it and says why.
    NotReadError
        An OSError: the drive or the process failed, as with too many open files or no
        memory, which says nothing about the photo; the message names it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        if isinstance(error, _LASTING) or error.errno == errno.ELOOP:
            raise UnreadablePhotoError(path, error.strerror) from error
        what = f"{printable(path)} cannot be read at the moment"
        raise files.NotReadError(f"{what}: {error.strerror}; try again") from error
    try:
        return _pixels(data)
    except MemoryError as error:
        what = f"there is not enough memory for {printable(path)}"
        raise files.NotReadError(what) from error
    except Exception as error:  # Pillow's plugins raise a dozen kinds for damaged bytes
        raise UnreadablePhotoError(path, _reason(error, data)) from error


def _reason(error, data):
    """Return why a file is no photo, and what to do about it."""
    if isinstance(error, UnidentifiedImageError):
        return _format_problem(data[:64])
    if isinstance(error, Image.DecompressionBombError):
        advice = "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        return f"{error}; {advice}"
    return str(error) or type(error).__name__


def _format_problem(head):
    """Return which format a file has, by its first bytes, and what to do about it."""
    if head[4:8] == b"ftyp" and b"hei" in head:
        return "it is a HEIC photo; convert it to JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the photo; fetch that with `git lfs pull`"
    for name in ("JPEG", "PNG", "TIFF"):
        _, accepts = Image.OPEN[name]
        if accepts(head):
            advice = "save it as a PNG or JPEG with 8 bits, gray or RGB"
            return f"it is a {name} that is damaged or of an unusual kind; {advice}"
    return "no known format"


def _pixels(data):
    """Return the pixels of a file's bytes, or raise one of many errors."""
    file = io.BytesIO(data)
    if data.startswith(_PNG):
        file = _without_comments(file)
    image = Image.open(file, formats=FORMATS)
    width, height = image.size
    # Pillow only warns of up to twice as many. None stands for no limit.
    if width * height > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise Image.DecompressionBombError(f"{width} x {height} pixels are too many")
    image.draft(None, (DRAFT_SIZE, DRAFT_SIZE))  # does nothing if it is no JPEG
    image.load()
    _turn(image)
    return np.array(_flatten(image))


def _without_comments(file):
    """
    Return a PNG with the chunks alone that its pixels need.

    Viewers show one whose comments are damaged, or too large for Pillow.
    """
    photo = io.BytesIO()
    photo.write(file.read(len(_PNG)))
    while header := file.read(8):
        length, kind = header[:4], header[4:]
        body = file.read(int.from_bytes(length) + 4)  # its checksum is the last
        if kind.isupper() or kind in (b"eXIf", b"iCCP", b"tRNS"):
            photo.write(header + body)
    photo.seek(0)
    return photo


def _turn(image):
    """Apply the orientation in EXIF, and leave the rest of EXIF alone."""
    try:
        image.getexif()
    except Exception:  # a damaged EXIF block does not make it a bad photo
        return
    image.info.pop("exif", None)  # else it is written anew, which odd tags make fail
    ImageOps.exif_transpose(image, in_place=True)


def _flatten(image):
    """Return the photo as RGB, what is transparent laid over white."""
    if image.mode.startswith(("I", "F")):
        return _gray(image).convert("RGB")
    if not image.has_transparency_data:
        return _to_srgb(image)
    if image.mode == "La":
        image = image.convert("LA")  # the only way out of this mode
    clear = image.convert("RGBA")
    alpha = clear.getchannel("A")
    opaque_mode = "L" if image.mode == "LA" else "RGB"
    photo = _to_srgb(clear.convert(opaque_mode))
    if image.format in _UNUSED_ALPHA and not alpha.getbbox():
        return photo
    white = Image.new("RGB", photo.size, "white")
    return Image.composite(photo, white, alpha)


def _to_srgb(image):
    """
    Return the photo as RGB, seen through its colour profile.

    A profile that changes the photo by rounding errors alone, as sRGB, changes nothing.
    """
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    plain = image.convert("RGB")
    try:
        transform = _transform(image.info["icc_profile"], image.mode)
    except (KeyError, ImageCms.PyCMSError):
        return plain  # no profile or a damaged one: viewers show it without
    seen = ImageCms.applyTransform(image, transform)
    difference = ImageChops.difference(seen, plain)
    return seen if np.max(difference) > 1 else plain


@functools.lru_cache(maxsize=32)
def _transform(profile, mode):
    """Return the transform from a profile to sRGB, which takes 8 ms to build."""
    return ImageCms.buildTransform(io.BytesIO(profile), _SRGB, mode, "RGB")


def _gray(image):
    """Return gray of more than 8 bits in 8."""
    numbers = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    has_12_bits = tags.get(ExifTags.Base.BitsPerSample) == (12,)
    white = 4095 if has_12_bits else _white(numbers)
    gray = numbers.astype("float64") * (255 / white)
    # Pillow inverts 8 bits alone.
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        gray = 255 - gray
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        gray[numbers == clear] = 255
    return Image.fromarray(gray.round().astype("uint8"))


def _white(numbers):
    """
    Return the number that is white, which follows from the largest one.

    Numbers that span less than a quarter of the way to white may be those of a sensor
    of fewer bits, or temperatures: nearly black or one gray, they are refused. A page
    that is all black or all white is not.
    """
    low, high = numbers.min(), numbers.max()
    is_float = numbers.dtype.kind == "f"
    possible = (1, 255) if is_float else (255, 65535)
    white = next((number for number in possible if high <= number), np.inf)
    is_plain = low == high and high in (0, white)
    if low >= 0 and (is_plain or high - low >= white / 4):
        return white
    what = f"its pixels go from {low:g} to {high:g}"
    raise ValueError(f"{what}, which does not say what is white; save it with 8 bits")


# --- The size for the network ---------------------------------------------------------


def shrink_photo(photo: np.ndarray) -> np.ndarray:
    """
    Return a photo at the network's size if it is larger, so that it takes little
    memory.

    Parameters
    ----------
    photo : ndarray of uint8, shape (height, width, 3)
        RGB, 0 to 255.

    Returns
    -------
    ndarray
        The photo itself, or one of float32, shape (`IMAGE_SIZE`, `IMAGE_SIZE`, 3),
        still 0 to 255.
    """
    if max(photo.shape) <= base_model.IMAGE_SIZE:
        return photo
    return resize_photos([photo])[0].numpy()


def resize_photos(batch: Sequence[np.ndarray]) -> tf.Tensor:
    """
    Return photos at the network's size, as the saved classifier resizes.

    Antialiasing changes nothing where a photo grows, as those of this data set do, but
    takes 1.5 ms; where it shrinks, it keeps fine patterns from turning into noise.

    Parameters
    ----------
    batch : sequence of ndarray, shape (height, width, 3)
        RGB, 0 to 255, of any sizes.

    Returns
    -------
    Tensor of float32, shape (photos, `IMAGE_SIZE`, `IMAGE_SIZE`, 3)
        Still 0 to 255.
    """
    size = base_model.IMAGE_SIZE
    shapes = {photo.shape for photo in batch}
    with tf.device("CPU"):  # GPUs have no kernel for bytes, nor for antialiasing
        if len(shapes) > 1:
            resized = [resize_photos([photo]) for photo in batch]
            return tf.concat(resized, axis=0)
        photos = np.stack(batch)  # faster than one by one
        shrinks = max(photos.shape[1:3]) > size
        return tf.image.resize(photos, (size, size), antialias=shrinks)


# --- The audit ------------------------------------------------------------------------


def refuse(failed: Sequence[str], what: str = "failed") -> None:
    """
    Return if no photo is at fault, else raise one ValueError that lists the first ten.

    Parameters
    ----------
    failed : sequence of str
        A line for each photo: its path and the reason.
    what : str
        What is the matter with them.
    """
    if failed:
        lines = [f"{len(failed)} photo(s) {what}:", *map(printable, failed[:10])]
        if len(failed) > 10:
            lines.append(f"and {len(failed) - 10} more")
        raise ValueError("\n    ".join(lines))


def photo_digest(photo: np.ndarray) -> str:
    """Return 32 hexadecimal digits by which the same shape and pixels are known."""
    shape = str(photo.shape)
    return files.digest(shape.encode(), photo.tobytes())


def refuse_unreadable(images: pd.DataFrame) -> None:
    """
    Return if all photos were readable, else raise one ValueError, see `refuse`.

    Parameters
    ----------
    images : DataFrame
        With the columns `path`, `digest` (empty if unreadable) and `problem`.
    """
    unreadable = images[images["digest"] == ""]
    lines = [f"{row.path}: {row.problem}" for row in unreadable.itertuples()]
    refuse(lines, "cannot be read; replace or remove them")
