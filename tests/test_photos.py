"""A photo is its pixels: each kind of file gives the right ones, or an error that names it."""

import base64
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import damage, draw, read_table
from PIL import Image, ImageCms

import scenes
import scenes.folders
import scenes.grid_search
import scenes.photos
import utils

# --- The decoder ----------------------------------------------------------------------

PHOTO = draw(7, width=48, height=36)
RAMP = 5 * np.arange(48).reshape(6, 8)


def turned(orientation: int) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def saved(pixels: np.ndarray | Image.Image, kind: str = "PNG", mode: str | None = None, **options):
    """Return a function that writes a photo to a path as Pillow does."""
    photo = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return lambda path: (photo.convert(mode) if mode else photo).save(path, kind, **options)


def unpacked(packed: bytes):
    """Return a function that writes a file that Pillow reads and does not write."""
    return lambda path: path.write_bytes(zlib.decompress(base64.b85decode(packed)))


def transparent(mode: str) -> Image.Image:
    """Return a half transparent black photo whose left column is opaque."""
    alpha = np.where(np.arange(8) == 0, 255, 127) * np.ones((6, 1))
    black = Image.new("L" if mode == "LA" else "RGB", (8, 6))
    black.putalpha(Image.fromarray(alpha.astype("uint8")))
    return black


OVER_WHITE = np.repeat(np.where(np.arange(8) == 0, 0, 128) * np.ones((6, 1)), 3).reshape(6, 8, 3)
GRAY = draw(7)[..., 0]

# Each odd photo: how it is written, the pixels that are right, and by how much they may be off.
GRAY_IN_RGB = np.repeat(GRAY[..., None], 3, axis=-1)
CMYK = np.array(Image.fromarray(PHOTO).convert("CMYK").convert("RGB"))
FRAMES = [Image.fromarray(draw(seed)).quantize(12) for seed in (1, 2, 3)]
LONG = np.tile(PHOTO[:1], (1, 417, 1))[:, :20000]
WHITE = np.full((6, 8, 3), 255)
TURNED = [PHOTO, PHOTO[:, ::-1], PHOTO[::-1, ::-1], PHOTO[::-1]]  # by the orientations from 1
TURNED += [photo.transpose(1, 0, 2) for photo in (PHOTO, PHOTO[::-1], TURNED[2], TURNED[1])]
ODD_PHOTOS = {
    "png named jpg": (saved(PHOTO), PHOTO, 0),
    "grayscale": (saved(GRAY), GRAY_IN_RGB, 0),
    "CMYK": (saved(PHOTO, "JPEG", "CMYK", quality=100), CMYK, 12),
    "alpha": (saved(transparent("RGBA")), OVER_WHITE, 1),
    "gray with alpha": (saved(transparent("LA")), OVER_WHITE, 1),
    "palette with transparency": (saved(Image.new("P", (8, 6)), transparency=0), WHITE, 0),
    "animated gif": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), draw(1), 0),
    "1 x 1": (saved(PHOTO[:1, :1]), PHOTO[:1, :1], 0),
    "20000 x 1": (saved(LONG), LONG, 0),
    "named with spaces": (saved(PHOTO), PHOTO, 0),
} | {f"turned by EXIF {i}": (saved(PHOTO, **turned(i)), TURNED[i - 1], 0) for i in range(1, 9)}


@pytest.mark.parametrize("kind", ODD_PHOTOS)
def test_an_odd_photo_gives_the_right_pixels(kind, tmp_path):
    write, right, tolerance = ODD_PHOTOS[kind]
    path = tmp_path / f"{kind}.jpg"
    write(path)
    pixels = scenes.photos.read_photo(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == right.shape
    assert np.abs(pixels.astype(int) - right).max() <= tolerance


# --- Modes and depths ------------------------------------------------------------------


def bomb(path: Path, side: int) -> None:
    """Write some bytes that say that they are a photo of so many pixels a side."""
    Image.new("L", (1, 1)).save(path, "BMP")
    header = bytearray(path.read_bytes())
    header[18:26] = struct.pack("<ii", side, side)
    path.write_bytes(header)


def lab(path: Path) -> None:
    profiles = map(ImageCms.createProfile, ("sRGB", "LAB"))
    photo = Image.fromarray(PHOTO)
    ImageCms.profileToProfile(photo, *profiles, outputMode="LAB").save(path, "TIFF")


GRAY_RAMP = np.repeat(RAMP[..., None], 3, axis=-1)
NO_FIVES = np.where(GRAY_RAMP == 5, 255, GRAY_RAMP)
UNIT = (RAMP / 255).astype("float32")
RAMP16 = (257 * RAMP).astype("uint16")
WHITE_IS_0 = {"tiffinfo": {262: 0}}
TWELVE_BITS = (  # RAMP, in a TIFF as scanners write it
    b"c-r&y)MDUZU|`^4U|?isU<9&2JVq#+4TzbbY#tzHhO)tONNhnUyA6m%k;KK2%n^sOJ%BhENeu)9a0z@A5u7NeWTc"
    b"^V*~qxq#zn-<WlKP4XjJI8l(cDi>E;#X*PA*jdO9Vi&D^<QR@AChzqah2y>E~8i8FUDovpodPxjfneE?7YB<="
)
# OVER_WHITE, in TIFFs whose colours are multiplied by the alpha channel.
GRAY_TIMES_ALPHA = (
    b"c-r&y)MDUZU|`^8U|?isU<9&2JVq#+4Tzb5Y$mWc2Lm%y94v>#7KE}V0kJ5Q4bmfqWR5tLodCo^NP2^z<}-qMK=7"
    b"ZT9tBdF4*)q?9r^"
)
RGB_TIMES_ALPHA = (
    b"c-r&y)MDUZU|`^8U|?isU<9&2JVq#+4Tzb5Y!)Cr35c1Y;$S%_n+b>oq3lIKEDB|V^oSvuBMxOB0OBAdbAqAf&ti"
    b"Z84k%=VLLm4L#PxXapq2*!OLrfy"
)
PNG_OF_48_BITS = (  # the corner of PHOTO
    b"c-rd>@N?(olHy`uVBq!ia0vp^96-z_zyu@}zfXA&q(nVk978JRB>(tPc(Cc~>rQn^w?%9Wj<0SoGWy>*1ysP`>FV"
    b"dQ&MBb@0M$ztY5"
)
FIVES = np.where(RAMP == 5, 9, RAMP).astype("uint8")
ONE_BIT = np.array(Image.fromarray(PHOTO).convert("1").convert("RGB"))

# Each mode and depth that files give: how it is written, the pixels that are right, the tolerance.
DEPTHS = {
    "16 bits, PNG": (saved(RAMP16), GRAY_RAMP, 0),
    "16 bits, transparent": (saved(RAMP16, transparency=257 * 5), NO_FIVES, 0),
    "16 bits, JPEG 2000": (saved(RAMP16, "JPEG2000"), GRAY_RAMP, 0),
    "16 bits, TIFF": (saved(RAMP16, "TIFF"), GRAY_RAMP, 0),
    "16 bits, TIFF of a Mac": (saved(RAMP16.astype(">u2"), "TIFF"), GRAY_RAMP, 0),
    "16 bits, 0 is white": (saved(65535 - RAMP16, "TIFF", **WHITE_IS_0), GRAY_RAMP, 0),
    "16 bits that hold 8": (saved(RAMP.astype("uint16"), "TIFF"), GRAY_RAMP, 0),
    "16 bits, all black": (saved(0 * RAMP16, "TIFF"), 0 * GRAY_RAMP, 0),
    "12 bits": (unpacked(TWELVE_BITS), GRAY_RAMP, 1),
    "32 bits that hold 8": (saved(RAMP.astype("int32"), "TIFF"), GRAY_RAMP, 0),
    "16 bits, PGM": (saved((RAMP * 257).astype("int32"), "PPM"), GRAY_RAMP, 0),
    "floats to 1": (saved(UNIT, "TIFF"), GRAY_RAMP, 0),
    "floats to 1, 0 is white": (saved(1 - UNIT, "TIFF", **WHITE_IS_0), GRAY_RAMP, 0),
    "floats to 1, PFM": (saved(UNIT, "PPM"), GRAY_RAMP, 0),
    "floats to 255": (saved(255 * UNIT, "TIFF"), GRAY_RAMP, 0),
    "colours of 16 bits": (unpacked(PNG_OF_48_BITS), PHOTO[:6, :8], 0),
    "one bit": (saved(PHOTO, "TIFF", "1"), ONE_BIT, 0),
    "palette": (saved(Image.fromarray(PHOTO).quantize(12)), PHOTO, 0),
    "palette and alpha": (saved(transparent("RGBA"), "TIFF", "PA"), OVER_WHITE, 1),
    "gray and one transparent": (saved(FIVES, transparency=9), NO_FIVES, 0),
    "gray times alpha": (unpacked(GRAY_TIMES_ALPHA), OVER_WHITE, 1),
    "colours times alpha": (unpacked(RGB_TIMES_ALPHA), OVER_WHITE, 1),
    "a channel without meaning": (saved(PHOTO, "TIFF", "RGBX"), PHOTO, 0),
    "CMYK, TIFF": (saved(PHOTO, "TIFF", "CMYK"), CMYK, 0),
    "YCbCr": (saved(PHOTO, "TIFF", "YCbCr"), PHOTO, 3),
    "LAB": (lab, PHOTO, 12),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_each_mode_and_depth_gives_the_pixels_that_a_viewer_shows(kind, tmp_path):
    write, right, tolerance = DEPTHS[kind]
    write(tmp_path / "photo.tif")
    pixels = scenes.photos.read_photo(tmp_path / "photo.tif")
    assert (pixels.dtype, pixels.shape) == (np.uint8, right.shape)
    assert np.abs(pixels.astype(int) - right).max() <= tolerance


UNCLEAR = {
    "floats to 5": (5 * UNIT).astype("<f4"),
    "floats to 65535": (65535 * UNIT).astype("<f4"),
    "negative floats": (UNIT - 0.5).astype("<f4"),
    "no numbers": (UNIT * np.nan).astype("<f4"),
    "infinity": np.where(UNIT == 0, np.inf, UNIT).astype("<f4"),
    "16 bits that hold 10": (4 * RAMP).astype("<u2"),
    "negative numbers": (RAMP - 100).astype("<i4"),
    "32 bits": (RAMP << 22).astype("<i4"),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_a_photo_whose_white_nobody_knows_is_refused(kind, tmp_path):
    saved(UNCLEAR[kind], "TIFF")(tmp_path / "photo.tif")
    with pytest.raises(ValueError, match=r"photo.tif cannot be .* its pixels go from .* 8 bits"):
        scenes.photos.read_photo(tmp_path / "photo.tif")


def swapped_profile() -> bytes:
    """Return a colour profile in which red and blue are each other's."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in {b"rXYZ": b"-XYZ", b"bXYZ": b"rXYZ", b"-XYZ": b"bXYZ"}.items():
        profile = profile.replace(old, new, 1)
    return profile.replace("sRGB".encode("utf-16be"), "swap".encode("utf-16be"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_colour_profile_is_applied(kind, tmp_path):
    path, options = tmp_path / "photo.jpg", {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(PHOTO).save(path, kind, icc_profile=swapped_profile(), **options)
    assert np.abs(scenes.photos.read_photo(path).astype(int) - PHOTO[..., ::-1]).max() <= 1
    photo = Image.fromarray(PHOTO)
    photo.putalpha(255)
    photo.save(path, kind, icc_profile=swapped_profile(), **options)
    assert np.abs(scenes.photos.read_photo(path).astype(int) - PHOTO[..., ::-1]).max() <= 1


def test_a_profile_that_changes_nothing_or_is_damaged_is_left_alone(tmp_path):
    good = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rng, path = np.random.default_rng(0), tmp_path / "photo.png"
    for profile in (good, b"", b"x", *(damage(good[:200], rng) + good[200:] for _ in range(30))):
        Image.fromarray(PHOTO).save(path, icc_profile=profile)
        pixels = scenes.photos.read_photo(path)
        assert pixels.shape == PHOTO.shape
        if profile in (good, b"", b"x"):
            np.testing.assert_array_equal(pixels, PHOTO)


# --- Large photos ----------------------------------------------------------------------


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path):
    rows = np.arange(2700)[:, np.newaxis, np.newaxis] / 2700 * np.array([250, 100, 30])
    photo = np.broadcast_to(rows, (2700, 3600, 3)).astype("uint8")
    for name in ("photo.jpg", "photo.mpo", "photo.png"):
        Image.fromarray(photo).save(tmp_path / name, **turned(6))
    small = scenes.photos.read_photo(tmp_path / "photo.jpg")
    whole = scenes.photos.read_photo(tmp_path / "photo.png")
    assert whole.shape == (3600, 2700, 3)
    assert small.shape == (900, 675, 3)
    np.testing.assert_array_equal(scenes.photos.read_photo(tmp_path / "photo.mpo"), small)
    right = np.array(Image.fromarray(whole).reduce(4))
    assert np.abs(small.astype(int) - right).max() <= 3


@pytest.mark.parametrize("size", [(1343, 1350), (4000, 1343), (150, 150)])
def test_a_jpeg_that_is_not_twice_as_large_as_needed_is_decoded_whole(tmp_path, size):
    photo = Image.fromarray(PHOTO).resize(size)
    photo.save(tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as image:
        np.testing.assert_array_equal(scenes.photos.read_photo(tmp_path / "photo.jpg"), image)


def test_the_limit_of_pixels_can_be_raised_or_taken_away(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PHOTO.size // 3 - 1)
    many = pytest.raises(ValueError, match=r"48 x 36 pixels are too many; .*, or raise PIL.Image.M")
    with pytest.warns(Image.DecompressionBombWarning), many:
        scenes.photos.read_photo(path)
    for limit in (PHOTO.size // 3, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(scenes.photos.read_photo(path), PHOTO)


# --- Damage ----------------------------------------------------------------------------


JPEG = io.BytesIO()
Image.fromarray(PHOTO).save(JPEG, "JPEG")
HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99)
UNREADABLE = {
    "empty": (lambda p: p.write_bytes(b""), "no known format"),
    "text": (lambda p: p.write_text("a letter"), "no known format"),
    "HEIC": (lambda p: p.write_bytes(HEIC), "it is a HEIC photo; convert it to JPEG"),
    "truncated": (lambda p: p.write_bytes(JPEG.getvalue()[:-200]), "[Tt]runcated"),
    "bomb": (lambda p: bomb(p, 20_000), "exceeds limit.*; make .*, or raise PIL.Image.MAX_IMAGE_P"),
    "little bomb": (lambda p: bomb(p, 9_600), "9600 x 9600 pixels are too many; make it smaller"),
    "vanished": (lambda p: None, "No such file"),
    "symlink loop": (lambda p: p.symlink_to(p.name), "symbolic links"),
    "link to nothing": (lambda p: p.symlink_to("nothing.jpg"), "No such file"),
    "a folder": (lambda p: p.mkdir(), "Is a directory|Permission denied"),
    "named 'quotes' \"doubled\"": (lambda p: p.write_bytes(b""), "no known format"),
    "named with emoji 🏔 and\nnewline": (lambda p: p.write_bytes(b""), "no known format"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unreadable_photo_is_named_with_the_reason(kind, tmp_path):
    write, reason = UNREADABLE[kind]
    path = tmp_path / f"{kind}.jpg"
    write(path)
    told = f"{re.escape(scenes.photos.printable(path))} cannot be read as a photo: .*({reason})"
    with pytest.raises(ValueError, match=told):
        scenes.photos.read_photo(path)


FORMATS = ["AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM"]
FORMATS += ["QOI", "SGI", "TGA", "TIFF", "WEBP"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_photo_gives_pixels_or_an_error_that_names_it(kind, tmp_path):
    """No damage of 100 per format gets past the one error."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, kind)
    rng = np.random.default_rng(0)
    path = tmp_path / "photo.jpg"
    refused = 0
    for _ in range(100):
        path.write_bytes(damage(file.getvalue(), rng, edges=[0, 60, 120]))
        try:
            pixels = scenes.photos.read_photo(path)
            assert (pixels.dtype, pixels.shape[2]) == (np.uint8, 3)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be read as a photo: ")  # noqa: PT017
            refused += 1
    assert refused > 10


def exif_block(*tags: tuple[int, int, int, bytes]) -> bytes:
    """Return EXIF (big-endian) that turns a photo and holds tags: number, type, count, value."""
    entries = sorted([(0x0112, 3, 1, struct.pack(">H", 6)), *tags])
    rows = b"".join(struct.pack(">HHI", *e[:3]) + e[3].ljust(4, b"\0") for e in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + rows + bytes(4)


ODD_TAGS = {
    "resolution as text": (0x011A, 2, 3, b"72\0"),
    "resolution as bytes": (0x011A, 7, 2, b"72"),
    "unit too large": (0x0128, 4, 1, struct.pack(">I", 70000)),
    "unit as float": (0x0128, 11, 1, struct.pack(">f", 2.0)),
    "maker as float": (0x010F, 11, 1, struct.pack(">f", 2.0)),
}
WITH_EXIF = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}
WITH_EXIF |= {"MPO": {"quality": 100, "subsampling": 0}}


@pytest.mark.parametrize("kind", WITH_EXIF)
@pytest.mark.parametrize("tag", ODD_TAGS)
def test_a_photo_with_odd_exif_is_turned(kind, tag, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(PHOTO).save(path, kind, exif=exif_block(ODD_TAGS[tag]), **WITH_EXIF[kind])
    pixels = scenes.photos.read_photo(path)
    right = PHOTO[::-1].transpose(1, 0, 2)
    assert pixels.shape == right.shape
    assert np.abs(pixels.astype(int) - right).max() <= 8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WITH_EXIF)
def test_damaged_exif_leaves_the_photo_whole(kind, tmp_path):
    """Of 300 damaged blocks none costs the photo: it is turned in one way or another."""
    good = exif_block(*ODD_TAGS.values(), (0x8769, 4, 1, struct.pack(">I", 8)))
    rng, path = np.random.default_rng(0), tmp_path / "photo.jpg"
    for _ in range(300):
        block = b"Exif\0\0" + damage(good[6:], rng)
        Image.fromarray(PHOTO).save(path, kind, exif=block, **WITH_EXIF[kind])
        pixels = scenes.photos.read_photo(path)
        assert sorted(pixels.shape) == sorted(PHOTO.shape)
        turns = [f(np.rot90(pixels, i)) for i in range(4) for f in (np.array, np.fliplr)]
        turns = [turn.astype(int) for turn in turns if turn.shape == PHOTO.shape]
        assert min(np.abs(turn - PHOTO).max() for turn in turns) <= 8


@pytest.mark.parametrize(
    "error", [TypeError("abs()"), KeyError(7), MemoryError(), struct.error("x")]
)
def test_whatever_a_decoder_raises_becomes_the_one_error(error, tmp_path, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")

    def fail(*args):
        raise error

    monkeypatch.setattr(Image.Image, "load", fail)
    problem = rf"photo.png cannot be read as a photo: its decoder fails \({type(error).__name__}"
    with pytest.raises(ValueError, match=problem):
        scenes.photos.read_photo(tmp_path / "photo.png")


# --- The audit ------------------------------------------------------------------------


def test_a_digest_knows_a_photo_by_its_pixels(drawn):
    folder = drawn / "seg_train" / "seg_train" / "sea"
    pixels = scenes.photos.read_photo(folder / "0.jpg")
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "b.webp", lossless=True)
    (folder / "c.jpeg").write_bytes((folder / "0.jpg").read_bytes())
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "d.png")
    images = read_table(drawn)
    digests = images.set_index("path")["digest"][lambda d: d.index.str.contains("seg_train/sea")]
    digests.index = digests.index.str.rsplit("/", n=1).str[-1]
    assert digests.str.fullmatch("[0-9a-f]{32}").all()
    assert digests["0.jpg"] == digests["a.png"] == digests["b.webp"] == digests["c.jpeg"]
    assert digests.nunique() == 5 + 1


def test_a_digest_knows_the_shape(tmp_path):
    """A 4 x 6 and a 6 x 4 photo of the same bytes are different photos."""
    for name, shape in {"a.png": (4, 6, 3), "b.png": (6, 4, 3)}.items():
        Image.fromarray(np.full(shape, 9, "uint8")).save(tmp_path / name)
    images = pd.DataFrame({"path": ["a.png", "b.png"]})
    assert scenes.photos.digest_photos(images, tmp_path)["digest"].nunique() == 2


def test_digests_keep_the_index_of_the_table(drawn):
    images = scenes.folders.list_images(drawn).iloc[5:9]
    digests = scenes.photos.digest_photos(images, drawn)
    assert list(digests.index) == [5, 6, 7, 8]
    assert (digests["problem"] == "").all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_audit_finds_all_unreadable_photos_and_says_why_without_folders(drawn):
    """The folder of one's own photos is nobody's business in a published notebook."""
    folder = drawn / "seg_train" / "seg_train" / "sea"
    for kind, (write, _) in UNREADABLE.items():
        write(folder / f"{kind}.jpg")
    (folder / "vanished.jpg").write_bytes(b"there when the folder is listed")
    images = scenes.folders.list_images(drawn)
    (folder / "vanished.jpg").unlink()
    findings = utils.audit_images(images.join(scenes.photos.digest_photos(images, drawn)))
    found = findings.assign(name=findings["path"].str.extract(r"sea/((?s:.)*)\.jpg$")[0])
    assert set(found["finding"]) == {"unreadable"}
    assert set(found["name"]) == set(UNREADABLE) - {"a folder"}
    for row in found.itertuples():
        assert re.search(UNREADABLE[row.name][1], row.problem)
        assert str(drawn) not in row.problem


def test_copies_at_another_size_or_quality_are_found_across_splits_only(drawn, capsys):
    test, train = drawn / "seg_test" / "seg_test", drawn / "seg_train" / "seg_train"
    photo = Image.open(test / "sea" / "0.jpg")
    photo.resize((27, 20)).save(train / "sea" / "small.jpg", quality=50)
    photo.convert("L").save(train / "forest" / "gray.png")
    photo.save(test / "sea" / "again.jpg", quality=50)
    Image.new("RGB", (9, 9)).save(train / "sea" / "black.png")
    Image.new("RGB", (8, 8)).save(test / "sea" / "black.png")
    (test / "sea" / "broken.jpg").touch()
    thumbnails, images = [], scenes.folders.list_images(drawn)
    images = images.join(scenes.photos.digest_photos(images, drawn, thumbnails=thumbnails))
    copies = scenes.photos.find_copies(images, np.stack(thumbnails))
    found = {(Path(row.path).name, Path(row.path_copy).name) for row in copies.itertuples()}
    assert found == {(a, b) for a in ("small.jpg", "gray.png") for b in ("0.jpg", "again.jpg")}
    assert set(copies["split"]) == {"train"}
    said = "4 pair(s) of photos in different splits look like copies of each other: accuracies may"
    assert said in capsys.readouterr().out
    part = images[~images["path"].str.endswith("small.jpg")]
    of_part = scenes.photos.find_copies(part, np.stack(thumbnails))
    assert {Path(path).name for path in of_part["path"]} == {"gray.png"}
    capsys.readouterr()
    assert scenes.photos.find_copies(images[:3], np.stack(thumbnails)).empty
    assert scenes.photos.find_copies(images, None).empty
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("unreadable", "photos", "stops"),
    [(1, 3, False), (2, 3, False), (3, 60, False), (3, 59, True), (4, 60, True)],
)
def test_unreadable_photos_are_named_and_left_out_unless_they_are_many(
    unreadable, photos, stops, capsys
):
    names = [f"a/{number}.jpg" for number in range(photos)] + ["b/0.jpg", "pred/0.jpg"]
    labels = pd.Categorical(["a"] * photos + ["b", None])
    images = pd.DataFrame({"path": names, "label": labels, "digest": "0" * 32, "problem": ""})
    images.loc[: unreadable - 1, ["digest", "problem"]] = "", "no known format"
    if stops:
        listed = rf"^{unreadable} photo\(s\) .*\n    a/0.jpg: no known"
        with pytest.raises(ValueError, match=listed):
            scenes.photos.drop_unreadable(images)
    else:
        kept = scenes.photos.drop_unreadable(images)
        assert list(kept["path"]) == names[unreadable:]
        said = f"Skipped {unreadable} unreadable photo(s): a/0.jpg (no known format)"
        assert capsys.readouterr().out.startswith(said)
        pd.testing.assert_frame_equal(scenes.photos.drop_unreadable(kept), kept)
        assert capsys.readouterr().out == ""


# The photos of the smallest class, the split that other photos are in, FOLDS; what is said.
TOO_FEW = {
    "5 train 5": "0.2, VALIDATION_RATIO 0.2 and FOLDS 5 .* 7: .* VALIDATION_RATIO 0.25 and FOLDS 4",
    "6 train 5": "a class needs 7: add photos, or set VALIDATION_RATIO 0.25 and FOLDS 4",
    "4 train 3": "needs 7: add photos, or set TEST_RATIO 0.25 and VALIDATION_RATIO 0.33",
    "2 train 5": "a class needs 7: add photos$",
    "4 test 3": "with VALIDATION_RATIO 0.2 and FOLDS 3 .* 5: .* set VALIDATION_RATIO 0.25$",
    "2 validation 3": "with TEST_RATIO 0.2 and FOLDS 3 a class needs 5: add photos$",
    "7 train 5": None,
    "5 test 5": None,
}


@pytest.mark.parametrize("case", TOO_FEW)
def test_a_class_with_too_few_photos_is_named_with_the_settings_that_fit(case):
    size, split, folds = case.split()
    settings = {"TEST_RATIO": 0.2, "VALIDATION_RATIO": 0.2, "FOLDS": int(folds)}
    labels = ["rose"] * (int(size) + 1) + ["tulip"] * 9  # two roses are copies
    images = pd.DataFrame({"label": labels, "split": "train", "digest": range(len(labels))})
    images.loc[0, "digest"] = 1
    images.loc[int(size) + 1, "split"] = split
    if TOO_FEW[case]:
        with pytest.raises(ValueError, match=f"^rose has {size} photos; .*{TOO_FEW[case]}"):
            scenes.grid_search.check_sizes(images, **settings)
    else:
        scenes.grid_search.check_sizes(images, **settings)
        train = images[images["split"] == "train"].astype({"digest": str})
        for seed in range(20):
            rest = utils.create_test(train, 0.2, seed=seed) if split == "train" else train
            utils.create_validation(rest, 0.2, seed=seed)  # raises no error


def test_a_class_with_fewer_photos_than_folds_is_named():
    labels = np.array(["cat"] * 5 + ["dog"] * 2)
    with pytest.raises(ValueError, match=r"folds is 3, but .* 2 different photo\(s\): dog; add"):
        scenes.grid_search.make_folds(labels, None, folds=3, seed=0)
