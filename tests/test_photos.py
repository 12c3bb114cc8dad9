"""
A photo is its pixels: each kind of file gives the right ones, or an error that names
it.
"""

import errno
import io
import pickle
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from numpy.testing import assert_array_equal
from PIL import Image, ImageCms

import scenes
from scenes import photos
from scenes.photos import read_photo


@pytest.fixture
def path(tmp_path):
    """Return the path of a photo, which is known by its content, not by its suffix."""
    return tmp_path / "photo.png"


# --- The decoder ----------------------------------------------------------------------

PHOTO = draw(7, width=48, height=36)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def saved(
    pixels,
    kind="PNG",
    mode=None,
    **options,
):
    """Return a function that writes a photo to a path as Pillow does."""
    photo = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return lambda path: (photo.convert(mode) if mode else photo).save(
        path, kind, **options
    )


def retagged(pixels, tag, old, new):
    """
    Return a function that writes a TIFF of which one tag is another than Pillow writes.
    """
    file = io.BytesIO()
    saved(pixels, "TIFF")(file)
    before, after = (struct.pack("<HHIH", tag, 3, 1, value) for value in (old, new))
    return lambda path: path.write_bytes(file.getvalue().replace(before, after))


def transparent(mode):
    """Return a half transparent black photo whose left column is opaque."""
    alpha = np.where(np.arange(8) == 0, 255, 127) * np.ones((6, 1))
    black = Image.new("L" if mode == "LA" else "RGB", (8, 6))
    black.putalpha(Image.fromarray(alpha.astype("uint8")))
    return black


def in_rgb(gray):
    return np.repeat(gray[..., None], 3, axis=-1)


def with_a_mask_for_alpha(path):
    """Write a BMP that names its fourth byte, which Pillow leaves out."""
    file = io.BytesIO()
    saved(FOURTH_BYTE_0, "BMP")(file)
    data = file.getvalue()
    start, size, packing = (struct.pack("<I", number) for number in (122, 108, 3))
    head = data[:10] + start + size + data[18:30] + packing + data[34:54]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    path.write_bytes(head + masks + bytes(52) + data[54:])


OVER_WHITE = in_rgb(np.where(np.arange(8) == 0, 0, 128) * np.ones((6, 1)))
GRAY = draw(7)[..., 0]
CMYK = np.array(Image.fromarray(PHOTO).convert("CMYK").convert("RGB"))
FRAMES = [Image.fromarray(draw(seed)).quantize(12) for seed in (1, 2)]
LONG = np.tile(PHOTO[:1], (1, 417, 1))[:, :20000]
WHITE = np.full((6, 8, 3), 255)
FOURTH_BYTE_0 = Image.fromarray(PHOTO)
FOURTH_BYTE_0.putalpha(0)
TURNED = [
    PHOTO,
    PHOTO[:, ::-1],
    PHOTO[::-1, ::-1],
    PHOTO[::-1],
]  # by the orientations from 1
TURNED += [
    photo.transpose(1, 0, 2) for photo in (PHOTO, PHOTO[::-1], TURNED[2], TURNED[1])
]
# Each odd photo: how it is written, the pixels that are right, and by how much they may
# be off.
ODD_PHOTOS = {
    "png named jpg": (saved(PHOTO), PHOTO, 0),
    "grayscale": (saved(GRAY), in_rgb(GRAY), 0),
    "CMYK": (saved(PHOTO, "JPEG", "CMYK", quality=100), CMYK, 12),
    "alpha": (saved(transparent("RGBA")), OVER_WHITE, 1),
    "gray with alpha": (saved(transparent("LA")), OVER_WHITE, 1),
    "palette with transparency": (
        saved(Image.new("P", (8, 6)), transparency=0),
        WHITE,
        0,
    ),
    "animated gif": (
        saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES),
        draw(1),
        0,
    ),
    "1 x 1": (saved(PHOTO[:1, :1]), PHOTO[:1, :1], 0),
    "20000 x 1": (saved(LONG), LONG, 0),
    "named with spaces": (saved(PHOTO), PHOTO, 0),
    "turned by EXIF": (saved(PHOTO, **turned(6)), TURNED[5], 0),
    "TGA with alpha": (saved(transparent("RGBA"), "TGA"), OVER_WHITE, 1),
    "BMP whose fourth byte is 0": (with_a_mask_for_alpha, PHOTO, 0),
    "TGA whose fourth byte is 0": (saved(FOURTH_BYTE_0, "TGA"), PHOTO, 0),
}

RAMP = 5 * np.arange(48).reshape(6, 8)
UNIT = (RAMP / 255).astype("float32")
RAMP16 = (257 * RAMP).astype("uint16")
WHITE_IS_0 = {"tiffinfo": {262: 0}}
FIVES = np.where(RAMP == 5, 9, RAMP).astype("uint8")
NO_FIVES = in_rgb(np.where(RAMP == 5, 255, RAMP))
PACKED = bytes.fromhex(
    "".join(f"{257 * n // 16:03x}" for n in RAMP.flat)
)  # three digits: 12 bits
RAMP12 = np.frombuffer(PACKED.ljust(96), "uint16").reshape(6, 8)
DARK12 = np.frombuffer((b"\x01\0\x10" * 24).ljust(96), "uint16").reshape(6, 8)
PROFILES = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
LAB = ImageCms.profileToProfile(Image.fromarray(PHOTO), *PROFILES, outputMode="LAB")
# The same of each mode and depth that the decoder knows.
MODES = {
    "16 bits": (saved(RAMP16), in_rgb(RAMP), 0),
    "16 bits, transparent": (saved(RAMP16, transparency=257 * 5), NO_FIVES, 0),
    "16 bits of a Mac": (saved(RAMP16.astype(">u2"), "TIFF"), in_rgb(RAMP), 0),
    "16 bits, 0 is white": (
        saved(65535 - RAMP16, "TIFF", **WHITE_IS_0),
        in_rgb(RAMP),
        0,
    ),
    "16 bits that hold 8": (saved(RAMP.astype("uint16"), "TIFF"), in_rgb(RAMP), 0),
    "12 bits": (retagged(RAMP12, 258, 16, 12), in_rgb(RAMP), 1),
    "32 bits that hold 16": (
        saved(257 * RAMP.astype("int32"), "TIFF"),
        in_rgb(RAMP),
        0,
    ),
    "16 bits, white page": (saved(0 * RAMP16 + 65535), WHITE, 0),
    "16 bits, black page": (saved(0 * RAMP16), 0 * WHITE, 0),
    "16 bits, a third of them": (saved(RAMP16 // 3), in_rgb(RAMP // 3), 1),
    "12 bits, dark": (retagged(DARK12, 258, 16, 12), 0 * WHITE + 1, 0),
    "floats to 1": (saved(UNIT, "TIFF"), in_rgb(RAMP), 0),
    "floats to 255": (saved(255 * UNIT, "TIFF"), in_rgb(RAMP), 0),
    "LAB": (saved(LAB, "TIFF"), PHOTO, 12),
    "palette": (saved(Image.fromarray(PHOTO).quantize(12)), PHOTO, 0),
    "palette and alpha": (saved(transparent("RGBA"), "TIFF", "PA"), OVER_WHITE, 1),
    "gray and one transparent": (saved(FIVES, transparency=9), NO_FIVES, 0),
    "gray times alpha": (retagged(transparent("LA"), 338, 2, 1), OVER_WHITE, 1),
    "colours times alpha": (retagged(transparent("RGBA"), 338, 2, 1), OVER_WHITE, 1),
    "YCbCr": (saved(PHOTO, "TIFF", "YCbCr"), PHOTO, 3),
} | {
    f"orientation {i}": (saved(PHOTO, **turned(i)), TURNED[i - 1], 0)
    for i in range(1, 9)
}


@pytest.mark.parametrize("kind", ODD_PHOTOS | MODES)
def test_a_photo_gives_the_pixels_that_a_viewer_shows(kind, tmp_path):
    write, right, tolerance = (ODD_PHOTOS | MODES)[kind]
    path = tmp_path / f"{kind}.jpg"
    write(path)
    pixels = read_photo(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, right.shape)
    assert np.abs(pixels.astype(int) - right).max() <= tolerance


UNCLEAR = [5 * UNIT, 65535 * UNIT, UNIT - 0.5, UNIT * np.nan, UNIT / 9, 40 * UNIT]
UNCLEAR += [(most * UNIT).astype("uint16") for most in (40, 1023, 4095, 8191, 16383)]
UNCLEAR += [
    (7000 + 1500 * UNIT).astype("uint16"),  # a thermal camera's counts
    (51000 + 9000 * UNIT).astype("uint16"),
    (RAMP - 100).astype("int32"),
    (RAMP << 22).astype("int32"),
]


@pytest.mark.parametrize("pixels", UNCLEAR)
def test_a_photo_whose_white_nobody_knows_is_refused(pixels, path):
    saved(pixels, "TIFF")(path)
    with pytest.raises(
        ValueError, match=r"photo.png cannot be .* its pixels go from .* 8 bits"
    ):
        read_photo(path)


SRGB = ImageCms.ImageCmsProfile(PROFILES[0]).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_applied(mode, path):
    """Here one called sRGB in which red and blue are each other's."""
    swapped = SRGB
    for old, new in {b"rXYZ": b"-XYZ", b"bXYZ": b"rXYZ", b"-XYZ": b"bXYZ"}.items():
        swapped = swapped.replace(old, new, 1)
    saved(PHOTO, "PNG", mode, icc_profile=swapped)(path)
    pixels = read_photo(path)
    assert np.abs(pixels.astype(int) - PHOTO[..., ::-1]).max() <= 1


def with_curve(curve):
    """Return an sRGB profile in which the place of the curve of each colour is moved."""
    at = len(SRGB)
    profile = SRGB
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        entry = SRGB.index(name)
        moved = name + struct.pack(">II", at, len(curve))
        profile = profile[:entry] + moved + profile[entry + 12 :]
    return struct.pack(">I", at + len(curve)) + profile[4:] + curve


LINEAR = with_curve(b"curv" + bytes(8))
LEVELS = np.linspace(0, 1, 24)
LIGHT = np.where(LEVELS <= 0.04045, LEVELS / 12.92, ((LEVELS + 0.055) / 1.055) ** 2.4)
TABLE = (65535 * LIGHT).round().astype(">u2").tobytes()
# The same curve as a table, as most files have it; a short one, which is off by 1.
SRGB_AS_A_TABLE = with_curve(b"curv" + bytes(4) + struct.pack(">I", 24) + TABLE)


@pytest.mark.parametrize("more", [b"", bytes(1_200_000)])
def test_a_profile_of_linear_light_that_is_called_srgb_is_applied(more, path):
    saved(PHOTO, icc_profile=LINEAR + more)(path)
    right = 255 * np.interp(PHOTO / 255, LIGHT, LEVELS)
    assert np.abs(read_photo(path) - right).max() <= 1.5


@pytest.mark.parametrize("profile", [SRGB, SRGB_AS_A_TABLE, b"", b"x", SRGB[:200]])
def test_a_profile_that_changes_nothing_or_is_damaged_is_left_alone(profile, path):
    saved(PHOTO, icc_profile=profile)(path)
    assert_array_equal(read_photo(path), PHOTO)


def test_odd_exif_is_applied_and_damaged_exif_is_left_alone(path):
    exif = turned(6)["exif"]
    exif[0x0128] = 2
    odd = exif.tobytes().replace(
        b"\x01\x28\0\x03", b"\x01\x28\0\x0b"
    )  # a unit that is a float
    for block, right in {odd: TURNED[5], b"Exif\0\0no TIFF": PHOTO}.items():
        saved(PHOTO, exif=block)(path)
        assert_array_equal(read_photo(path), right)


PNG = io.BytesIO()
saved(Image.fromarray(PHOTO).quantize(12), transparency=5, **turned(6))(PNG)
PNG = PNG.getvalue()


def chunk(kind, data, *, is_whole=True):
    checksum = zlib.crc32(kind + data) ^ (not is_whole)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


TEXT = zlib.compress(bytes(2_000_000))
UNNEEDED = [
    chunk(b"tEXt", b"a\0b", is_whole=False),
    chunk(b"tIME", bytes(7), is_whole=False),
    chunk(b"zTXt", b"a\0\0" + TEXT),
    chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT),
]


@pytest.mark.parametrize("unneeded", UNNEEDED)
@pytest.mark.parametrize("at", [33, PNG.index(b"IDAT") - 4, PNG.index(b"IEND") - 4])
def test_a_png_whose_comments_are_damaged_or_large_is_read(
    unneeded, at, tmp_path, path
):
    (tmp_path / "plain.png").write_bytes(PNG)
    path.write_bytes(PNG[:at] + unneeded + PNG[at:])
    right = read_photo(tmp_path / "plain.png")
    pixels = read_photo(path)
    assert_array_equal(pixels, right)


# --- Large photos ---------------------------------------------------------------------


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(path):
    rows = np.arange(2700)[:, np.newaxis, np.newaxis] / 2700 * np.array([250, 100, 30])
    photo = Image.fromarray(np.broadcast_to(rows, (2700, 2720, 3)).astype("uint8"))
    photo.save(path, "JPEG", **turned(6))
    small = read_photo(path)
    right = np.rot90(photo.reduce(4), -1)
    assert small.shape == right.shape
    assert np.abs(small.astype(int) - right).max() <= 3


@pytest.mark.parametrize("size", [(1343, 1350), (150, 150)])
def test_a_jpeg_that_is_not_twice_as_large_as_needed_is_decoded_whole(path, size):
    Image.fromarray(PHOTO).resize(size).save(path, "JPEG")
    with Image.open(path) as image:
        assert_array_equal(read_photo(path), image)


def test_the_limit_of_pixels_can_be_raised_or_taken_away(path, monkeypatch):
    saved(PHOTO)(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 36 * 48 - 1)
    many = pytest.raises(
        ValueError, match=r"48 x 36 pixels are too many; .*, or raise PIL.Image.M"
    )
    with pytest.warns(Image.DecompressionBombWarning), many:
        read_photo(path)
    for limit in (36 * 48, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert_array_equal(read_photo(path), PHOTO)


# --- Damage ---------------------------------------------------------------------------


JPEG = io.BytesIO()
saved(PHOTO, "JPEG")(JPEG)
HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99)
UNREADABLE = {
    "empty": (lambda p: p.touch(), "no known format"),
    "HEIC": (lambda p: p.write_bytes(HEIC), "it is a HEIC photo; convert it to JPEG"),
    "Git LFS pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "it is a Git LFS pointer, not the photo; fetch that with `git lfs pull`",
    ),
    "TIFF of an odd kind": (
        retagged(PHOTO, 262, 2, 1),
        "it is a TIFF .* of an unusual kind; save it as a PNG or JPEG with 8 bits",
    ),
    "PNG without a head": (
        lambda p: p.write_bytes(PNG[:8] + PNG[33:]),
        "it is a PNG that is damaged .*; save it as a PNG",
    ),
    "truncated": (lambda p: p.write_bytes(JPEG.getvalue()[:-200]), "[Tt]runcated"),
    "bomb": (
        lambda p: p.write_text("P5 20000 20000 255\n"),
        "exceeds limit.*; make it smaller, or",
    ),
    "little bomb": (
        lambda p: p.write_text("P5 9600 9600 255\n"),
        "9600 x 9600 pixels are too many",
    ),
    "vanished": (lambda p: None, "No such file"),
    "symlink loop": (lambda p: p.symlink_to(p.name), "symbolic links"),
    "a folder": (lambda p: p.mkdir(), "Is a directory|Permission denied"),
    'named "quotes", emoji 🏔 and\nnewline': (
        lambda p: p.write_text("text"),
        "no known format",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unreadable_photo_is_named_with_the_reason(kind, tmp_path):
    write, reason = UNREADABLE[kind]
    path = tmp_path / f"{kind}.jpg"
    write(path)
    told = (
        f"{re.escape(photos.printable(path))} cannot be read as a photo: .*({reason})"
    )
    with pytest.raises(ValueError, match=told):
        read_photo(path)


@pytest.mark.parametrize("count", [1, 10, 11, 500])
def test_of_many_photos_at_fault_ten_are_named_and_the_others_counted(count):
    with pytest.raises(ValueError, match=f"^{count} photo") as error:
        photos.refuse([f"{number}.jpg: empty" for number in range(count)])
    lines = str(error.value).split("\n    ")
    assert lines[0] == f"{count} photo(s) failed:"
    assert lines[1:11] == [f"{number}.jpg: empty" for number in range(min(count, 10))]
    assert lines[11:] == ([f"and {count - 10} more"] if count > 10 else [])


@pytest.mark.parametrize(
    "kind", ["AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"]
)
def test_a_photo_that_is_cut_off_is_an_error_that_names_it(kind, path):
    saved(PHOTO, kind)(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"^{path} cannot be read as a photo: "):
        read_photo(path)


def failing(monkeypatch, kind, method, error):
    """Let a method of all files or photos fail."""

    def fail(*args):
        raise error

    monkeypatch.setattr(kind, method, fail)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError(), "RuntimeError"), (OSError("odd bytes"), "odd bytes")],
)
def test_whatever_a_decoder_raises_becomes_the_one_error(
    error, reason, path, monkeypatch
):
    saved(PHOTO)(path)
    failing(monkeypatch, Image.Image, "load", error)
    with pytest.raises(photos.UnreadablePhotoError) as raised:
        read_photo(path)
    error = pickle.loads(pickle.dumps(raised.value))  # as a worker sends it
    assert error.reason == reason
    assert str(error) == f"{path} cannot be read as a photo: {reason}"


def test_a_photo_that_nobody_may_read_is_unreadable(path, monkeypatch):
    error = PermissionError(errno.EACCES, "Permission denied")
    failing(monkeypatch, Path, "read_bytes", error)
    with pytest.raises(photos.UnreadablePhotoError, match=": Permission denied"):
        read_photo(path)


@pytest.mark.parametrize(
    ("kind", "method", "error", "told"),
    [
        (Path, "read_bytes", OSError(errno.EMFILE, "Too many"), "at .* Too many; try"),
        (Path, "read_bytes", OSError(errno.ESTALE, "Stale"), "at the moment: Stale; t"),
        (Image.Image, "load", MemoryError(), "there is not enough memory for .*png$"),
    ],
)
def test_a_fault_of_the_machine_says_nothing_about_the_photo(
    kind, method, error, told, path, monkeypatch
):
    saved(PHOTO)(path)
    failing(monkeypatch, kind, method, error)
    with pytest.raises(OSError, match=told):
        read_photo(path)


def test_a_fault_of_the_machine_stops_the_audit(drawn, monkeypatch):
    """Else the run would go on with fewer photos."""
    images = scenes.folders.list_images(drawn)
    error = OSError(errno.EIO, "Input/output error")
    failing(monkeypatch, Path, "read_bytes", error)
    with pytest.raises(OSError, match="at the moment: Input/output error"):
        scenes.dataset.digest_photos(images)


def test_photos_of_several_sizes_are_resized_as_each_alone():
    several = [draw(seed, width=40 + seed) for seed in range(3)]
    alone = [photos.resize_photos([photo])[0] for photo in several]
    assert_array_equal(photos.resize_photos(several), alone)


def test_gray_is_seen_through_a_profile_of_gray(path):
    profile = LINEAR.replace(b"RGB ", b"GRAY", 1).replace(b"rTRC", b"kTRC", 1)
    gray = PHOTO[..., 0]
    saved(gray, icc_profile=profile)(path)
    right = 255 * np.interp(gray / 255, LIGHT, LEVELS)[..., np.newaxis]
    assert np.abs(read_photo(path) - right).max() <= 1.5


def test_cmyk_is_seen_through_a_profile_of_cmyk(path):
    """Here one of a printer to which all colours are the same gray."""
    no_matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    as_it_is, all_gray = bytes(range(256)), bytes([128]) * 3 * 2**4
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + no_matrix
    table += 4 * as_it_is + all_gray + 3 * as_it_is
    header = SRGB[4:12] + b"prtrCMYKLab " + SRGB[24:128]
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    profile = struct.pack(">I", 144 + len(table)) + header + tags + table
    saved(PHOTO, "JPEG", "CMYK", icc_profile=profile)(path)
    pixels = read_photo(path)
    assert np.ptp(pixels) == 0
    assert 0 < pixels.min() < 255
