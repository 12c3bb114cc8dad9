"""
Photos (section 2): their pixels, and their size for the network.

A photo is its pixels: one decoder for all modules, and no photo is moved or changed. Of
the base model, only its image size is known here.
"""

import errno
import functools
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import ExifTags, Image, ImageChops, ImageCms, UnidentifiedImageError

from scenes import base_model, files

Image.init()
# Pillow knows these formats by sight, but does not decode them, or by another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
FORMATS = tuple(name for name in Image.ID if name not in _NOT_DECODED)
# Programs leave the fourth byte of these at 0 and do not mean it as transparency.
_UNUSED_ALPHA = {"BMP", "CUR", "DIB", "ICO", "TGA"}
# The transpositions that undo the orientations in EXIF.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_RAMP = Image.linear_gradient("L")
_COLOURS = Image.merge("RGB", (_RAMP, _RAMP.rotate(90), _RAMP.rotate(45)))
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_PROFILE = 2**26
# Errors of the operating system that stay with a file, and None: Pillow's own.
_LASTING = {
    None,
    errno.EACCES,
    errno.EINVAL,  # Pillow looks for a place before the first byte
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}
# Among them the marks that turn the direction of text round: gpj.exe for exe.jpg.
_CONTROL = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# The network sees next to nothing of what is smaller.
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
    return _CONTROL.sub(
        lambda found: found[0].encode("unicode_escape").decode(), str(name)
    )


def some(names: Iterable[object]) -> str:
    """Return up to ten names, and how many more there are."""
    names = [printable(name) for name in names]
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
    OSError
        The drive or the process failed, as with too many open files or no memory, which
        says nothing about the photo; the message names it.
    """
    try:
        with open(path, "rb") as file:
            return _decode(file)
    except Exception as error:  # Pillow's plugins raise a dozen kinds for damaged bytes
        if _is_of_photo(error):
            raise UnreadablePhotoError(path, _reason(path, error)) from error
        reason = getattr(error, "strerror", "there is not enough memory")
        raise OSError(
            f"{printable(path)} cannot be read at the moment: {reason}; try again"
        ) from error


def _is_of_photo(error):
    """Return whether an error is the photo's, and not one of the drive or process."""
    number = getattr(error, "errno", None)
    return number in _LASTING and not isinstance(error, MemoryError)


def _reason(path, error):
    """Return why a file is no photo, and what to do about it."""
    if isinstance(error, UnidentifiedImageError):
        return _format_problem(path)
    if isinstance(error, Image.DecompressionBombError):
        advice = "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        return f"{error}; {advice}"
    if isinstance(error, (OSError, ValueError, SyntaxError)) and str(error):
        return getattr(error, "strerror", None) or str(error)
    return f"its decoder fails ({type(error).__name__}: {error})"


def _format_problem(path):
    """Return which format a file has, if any, and what to do about it."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head[4:8] == b"ftyp" and (b"hei" in head or b"hevc" in head):
        return "it is a HEIC photo; convert it to JPEG"
    for name in ("JPEG", "PNG", "TIFF"):
        _, accepts = Image.OPEN[name]
        if accepts(head):
            advice = "save it as a PNG or JPEG with 8 bits, gray or RGB"
            return f"it is a {name} that is damaged or of an unusual kind; {advice}"
    return "no known format"


def _decode(file):
    """Return the pixels of an open file, or raise one of many errors."""
    try:
        return _pixels(file)
    except (SyntaxError, UnidentifiedImageError, ValueError):
        file.seek(0)
        if file.read(8) != _PNG:
            raise
        # Viewers show a PNG whose comments are damaged, or too large for Pillow.
        return _pixels(*_without_comments(file))


def _without_comments(file):
    """Return the chunks of a PNG that its pixels need, as a file, and its profile."""
    photo = io.BytesIO()
    photo.write(_PNG)
    profile = None
    while header := file.read(8):
        kind = header[4:]
        body = file.read(int.from_bytes(header[:4]) + 4)  # its checksum is the last
        if kind == b"iCCP":
            packed = body[body.index(0) + 2 :]  # behind the name and the method
            profile = zlib.decompressobj().decompress(packed, _LARGEST_PROFILE)
        elif kind.isupper() or kind in (b"eXIf", b"tRNS"):
            photo.write(header + body)
    photo.seek(0)
    return photo, profile


def _pixels(file, profile=None):
    """Return the pixels of a photo as RGB, turned, over white, through its profile."""
    image = Image.open(file, formats=FORMATS)
    width, height = image.size
    # Pillow only warns of up to twice as many. None stands for no limit.
    if width * height > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise Image.DecompressionBombError(f"{width} x {height} pixels are too many")
    image.draft(None, (DRAFT_SIZE, DRAFT_SIZE))  # does nothing if it is no JPEG
    image.load()
    if profile:
        image.info["icc_profile"] = profile
    return np.array(_flatten(_turn(image)))


def _turn(image):
    """
    Apply the orientation in EXIF, and leave the rest of EXIF alone, which may be odd.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:
        if _is_of_photo(error):  # a damaged EXIF block does not make it a bad one
            return image
        raise
    if orientation not in _TURNS:
        return image
    return image.transpose(Image.Transpose[_TURNS[orientation]])


def _flatten(image):
    """Return the photo as RGB, what is transparent laid over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _gray(image).convert("RGB")
    if not image.has_transparency_data:
        return _to_srgb(image)
    if image.mode == "La":
        image = image.convert("LA")  # the only way out of this mode
    clear = image.convert("RGBA")
    alpha = clear.getchannel("A")
    photo = _to_srgb(clear.convert("L" if image.mode == "LA" else "RGB"))
    if image.format in _UNUSED_ALPHA and alpha.getextrema() == (0, 0):
        return photo
    white = Image.new("RGB", photo.size, "white")
    return Image.composite(photo, white, alpha)


def _to_srgb(image):
    """Return the photo as RGB, seen through its colour profile."""
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    try:
        transform = _transform(image.info["icc_profile"], image.mode)
    except (KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        transform = None  # no profile or a damaged one: viewers show it without
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform)


@functools.lru_cache(maxsize=32)
def _transform(data, mode):
    """
    Return the transform from a profile to sRGB, or None if it changes next to nothing.

    What a profile says counts, not its name. One that is for another mode is an error.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    transform = ImageCms.buildTransform(profile, _SRGB, mode, "RGB")
    colours = _COLOURS.convert(mode)
    seen = ImageCms.applyTransform(colours, transform)
    difference = ImageChops.difference(seen, colours.convert("RGB"))
    return transform if np.max(difference) > 1 else None


def _gray(image):
    """Scale gray of more than 8 bits to 8."""
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
    possible = (1, 255) if numbers.dtype.kind == "f" else (255, 65535)
    white = next((number for number in possible if high <= number), np.inf)
    is_plain = low == high and high in (0, white)
    if low >= 0 and (is_plain or high - low >= white / 4):
        return white
    what = f"its pixels go from {low:g} to {high:g}, which does not say what is white"
    raise ValueError(f"{what}; save it with 8 bits")


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
            return tf.concat([resize_photos([photo]) for photo in batch], axis=0)
        photos = np.stack(batch)  # faster than one by one
        shrinks = max(photos.shape[1:3]) > size
        return tf.image.resize(photos, (size, size), antialias=shrinks)


# --- The audit ------------------------------------------------------------------------


def refuse(failed: Sequence[str], what: str = "failed") -> None:
    """
    Return if no photo is at fault, else raise one ValueError that lists all.

    Parameters
    ----------
    failed : sequence of str
        A line for each photo: its path and the reason.
    what : str
        What is the matter with them.
    """
    if failed:
        listed = "".join(f"\n    {printable(line)}" for line in failed)
        raise ValueError(f"{len(failed)} photo(s) {what}:{listed}")


def photo_digest(photo: np.ndarray) -> str:
    """Return 32 hexadecimal digits by which the same shape and pixels are known."""
    return files.digest(str(photo.shape).encode(), photo.tobytes())


def refuse_unreadable(images: pd.DataFrame) -> None:
    """
    Return if all photos were readable, else raise one ValueError that lists the others.

    Parameters
    ----------
    images : DataFrame
        With the columns `path`, `digest` (empty if unreadable) and `problem`.
    """
    unreadable = images[images["digest"] == ""]
    lines = [f"{row.path}: {row.problem}" for row in unreadable.itertuples()]
    refuse(lines, "cannot be read; replace or remove them")
