"""The table of the photos: what is in it, what is wrong with it, and how it is split."""

import io
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import damage, draw, read_table
from PIL import Image

import scenes
import scenes.photos
import utils


def flatten(photos: Path) -> None:
    """Turn Kaggle's doubled folders into single ones."""
    for name in scenes.photos.SPLIT_FOLDERS.values():
        (photos / name).rename(photos / "doubled")
        (photos / "doubled" / name).rename(photos / name)
        (photos / "doubled").rmdir()


# --- Where they are -------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Work in an empty folder, with no photos named by the environment."""
    monkeypatch.delenv("INTEL_PHOTOS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.usefixtures("elsewhere")
def test_find_photos_returns_none_where_there_are_none():
    assert scenes.photos.find_photos() is None


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("beside", ["intel-image-classification", "archive", "."])
def test_find_photos_looks_beside_the_notebook(drawn, beside):
    shutil.copytree(drawn, beside, dirs_exist_ok=True)
    assert scenes.photos.find_photos() == Path(beside)


@pytest.mark.usefixtures("elsewhere")
def test_find_photos_prefers_what_it_is_told(drawn, monkeypatch):
    shutil.copytree(drawn, "archive")
    shutil.copytree(drawn, "told")
    monkeypatch.setenv("INTEL_PHOTOS", str(drawn))
    assert scenes.photos.find_photos("told") == Path("told")
    assert scenes.photos.find_photos() == drawn


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("told_by", ["argument", "environment"])
def test_find_photos_does_not_look_elsewhere_when_told_a_wrong_folder(drawn, monkeypatch, told_by):
    shutil.copytree(drawn, "archive")
    if told_by == "environment":
        monkeypatch.setenv("INTEL_PHOTOS", "wrong")
    with pytest.raises(FileNotFoundError, match=r"no folder seg_train in wrong; (?s:.)*seg_pred"):
        scenes.photos.find_photos("wrong" if told_by == "argument" else None)


# --- The table ------------------------------------------------------------------------


def test_list_images_makes_a_row_for_each_photo_in_a_fixed_order(drawn):
    images = scenes.photos.list_images(drawn)
    assert list(images.columns) == ["path", "label", "split"]
    assert tuple(images["label"].cat.categories) == scenes.CLASSES
    assert tuple(images["split"].cat.categories) == scenes.SPLITS
    assert images["split"].value_counts().to_dict() == {
        "train": 5 * 6,
        "test": 4 * 6,
        "prediction": 3,
        "validation": 0,
    }
    assert images.attrs["passed_over"] == 0
    assert list(images["path"][:2]) == [f"seg_train/seg_train/buildings/{i}.jpg" for i in (0, 1)]
    keys = images.assign(label=images["label"].cat.codes % 7, split=images["split"].cat.codes)
    pd.testing.assert_frame_equal(keys, keys.sort_values(["split", "label", "path"]))
    for row in images.itertuples():
        assert (drawn / row.path).is_file()
        assert pd.isna(row.label) if row.split == "prediction" else f"/{row.label}/" in row.path


def test_list_images_reads_the_flat_layout_as_the_doubled_one(drawn):
    doubled = scenes.photos.list_images(drawn)
    flatten(drawn)
    flat = scenes.photos.list_images(drawn)
    doubled["path"] = doubled["path"].str.replace(r"^(seg_\w+)/\1", r"\1", regex=True)
    pd.testing.assert_frame_equal(flat, doubled)


def test_list_images_does_not_depend_on_the_order_of_the_file_system(drawn, monkeypatch):
    before = scenes.photos.list_images(drawn)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    pd.testing.assert_frame_equal(scenes.photos.list_images(drawn), before)


def test_list_images_passes_over_and_counts_what_is_no_photo(drawn):
    before = scenes.photos.list_images(drawn)
    folder = drawn / "seg_train" / "seg_train"
    (folder / "sea" / ".hidden.jpg").write_bytes(b"x")
    (folder / "sea" / "Thumbs.db").write_bytes(b"x")
    (folder / "sea" / "notes.txt").write_bytes(b"x")
    (folder / "sea" / "a.jpg").mkdir()
    (folder / "readme.md").write_bytes(b"x")
    (folder / "desert").mkdir()
    (drawn / "seg_pred" / "seg_pred" / ".DS_Store").write_bytes(b"x")
    images = scenes.photos.list_images(drawn)
    assert images.attrs["passed_over"] == 7
    pd.testing.assert_frame_equal(images, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_list_images_passes_over_a_pipe_whose_reading_would_never_end(drawn):
    os.mkfifo(drawn / "seg_train" / "seg_train" / "sea" / "pipe.jpg")
    images = scenes.photos.list_images(drawn)
    assert images.attrs["passed_over"] == 1
    assert not images["path"].str.contains("pipe").any()


def test_list_images_takes_the_suffixes_of_photos_in_any_case(drawn):
    folder = drawn / "seg_test" / "seg_test" / "forest"
    for name in ("A.JPG", "b.jpeg", "c.PNG", "d.webp"):
        shutil.copy(folder / "0.jpg", folder / name)
    names = (
        scenes.photos.list_images(drawn)["path"].str.extract(r"seg_test/forest/(.*)")[0].dropna()
    )
    assert list(names) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "A.JPG", "b.jpeg", "c.PNG", "d.webp"]


def test_list_images_needs_no_prediction_photos(drawn):
    shutil.rmtree(drawn / "seg_pred")
    assert set(scenes.photos.list_images(drawn)["split"]) == {"train", "test"}


@pytest.mark.parametrize("missing", ["seg_test", "seg_test/seg_test/sea", "seg_train"])
def test_a_missing_folder_is_named_with_the_layout_expected(drawn, missing):
    shutil.rmtree(drawn / missing)
    told = re.escape(str(drawn / missing)) + r"(?s:.)*seg_train/seg_train/{buildings"
    with pytest.raises(FileNotFoundError, match=told):
        scenes.photos.list_images(drawn)


def test_an_empty_class_is_named_with_the_layout_expected(drawn):
    folder = drawn / "seg_train" / "seg_train" / "glacier"
    for path in folder.iterdir():
        path.rename(path.with_suffix(".txt"))
    told = "there is no photo in " + re.escape(str(folder)) + r"(?s:.)*seg_test/seg_test/"
    with pytest.raises(FileNotFoundError, match=told):
        scenes.photos.list_images(drawn)


@pytest.mark.photos
def test_the_real_photos_are_all_in_the_table(real_photos):
    images = scenes.photos.list_images(real_photos)
    counts = images.groupby(["split", "label"], observed=True).size()
    assert list(counts["train"]) == [2191, 2271, 2404, 2512, 2274, 2382]
    assert list(counts["test"]) == [437, 474, 553, 525, 510, 501]


# --- The decoder ----------------------------------------------------------------------

PHOTO = draw(7, width=48, height=36)
RAMP = 5 * np.arange(48).reshape(6, 8)


def turned(orientation: int) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def gif(path: Path) -> None:
    frames = [Image.fromarray(draw(seed)).quantize(12) for seed in (1, 2, 3)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], loop=0)


def transparent(mode: str) -> Image.Image:
    """Return a half transparent black photo whose left column is opaque."""
    alpha = np.where(np.arange(8) == 0, 255, 127) * np.ones((6, 1))
    black = Image.new("L" if mode == "LA" else "RGB", (8, 6))
    black.putalpha(Image.fromarray(alpha.astype("uint8")))
    return black


OVER_WHITE = np.repeat(np.where(np.arange(8) == 0, 0, 128) * np.ones((6, 1)), 3).reshape(6, 8, 3)
GRAY = draw(7)[..., 0]

# Each odd photo: how it is written, the pixels that are right, and by how much they may be off.
ODD_PHOTOS = {
    "png named jpg": (lambda p: Image.fromarray(PHOTO).save(p, "PNG"), PHOTO, 0),
    "grayscale": (
        lambda p: Image.fromarray(GRAY).save(p, "PNG"),
        np.repeat(GRAY[..., None], 3, axis=-1),
        0,
    ),
    "CMYK": (
        lambda p: Image.fromarray(PHOTO).convert("CMYK").save(p, "JPEG", quality=100),
        np.array(Image.fromarray(PHOTO).convert("CMYK").convert("RGB")),
        12,
    ),
    "16 bits": (
        lambda p: Image.fromarray((RAMP * 257).astype("uint16")).save(p, "PNG"),
        np.repeat(RAMP[..., None], 3, axis=-1),
        0,
    ),
    "16 bits tiff": (
        lambda p: Image.fromarray((RAMP * 257).astype("uint16")).save(p, "TIFF"),
        np.repeat(RAMP[..., None], 3, axis=-1),
        0,
    ),
    "alpha": (lambda p: transparent("RGBA").save(p, "PNG"), OVER_WHITE, 1),
    "gray with alpha": (lambda p: transparent("LA").save(p, "PNG"), OVER_WHITE, 1),
    "palette with transparency": (
        lambda p: Image.fromarray(np.zeros((6, 8), "uint8"), "P").save(p, "PNG", transparency=0),
        np.full((6, 8, 3), 255),
        0,
    ),
    "animated gif": (gif, draw(1), 0),
    "one bit": (
        lambda p: Image.fromarray(GRAY > 128).save(p, "PNG"),
        np.repeat(255 * (GRAY > 128)[..., None], 3, axis=-1),
        0,
    ),
    "1 x 1": (lambda p: Image.fromarray(PHOTO[:1, :1]).save(p, "PNG"), PHOTO[:1, :1], 0),
    "20000 x 1": (
        lambda p: Image.fromarray(np.tile(PHOTO[:1], (1, 417, 1))[:, :20000]).save(p, "PNG"),
        np.tile(PHOTO[:1], (1, 417, 1))[:, :20000],
        0,
    ),
    "named with spaces": (lambda p: Image.fromarray(PHOTO).save(p, "PNG"), PHOTO, 0),
} | {
    f"turned by EXIF {orientation}": (
        lambda p, orientation=orientation: Image.fromarray(PHOTO).save(
            p, "PNG", **turned(orientation)
        ),
        right,
        0,
    )
    for orientation, right in {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: PHOTO.transpose(1, 0, 2),
        6: PHOTO[::-1].transpose(1, 0, 2),
        7: PHOTO[::-1, ::-1].transpose(1, 0, 2),
        8: PHOTO[:, ::-1].transpose(1, 0, 2),
    }.items()
}


@pytest.mark.parametrize("kind", ODD_PHOTOS)
def test_an_odd_photo_gives_the_right_pixels(kind, tmp_path):
    write, right, tolerance = ODD_PHOTOS[kind]
    path = tmp_path / f"{kind}.jpg"
    write(path)
    pixels = scenes.photos.read_photo(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == right.shape
    assert np.abs(pixels.astype(int) - right).max() <= tolerance


def png_of_zeros(path: Path, side: int) -> None:
    """Write a huge black photo of one bit a pixel: some ten KB on disk, gigabytes decoded."""
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(1 + side // 8)) for _ in range(side)) + rows.flush()
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0),
        b"IDAT": data,
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def truncated_jpeg(path: Path) -> None:
    Image.fromarray(PHOTO).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])


def loop(path: Path) -> None:
    path.symlink_to(path.name)


UNREADABLE = {
    "empty": (lambda p: p.write_bytes(b""), "no known format"),
    "text": (lambda p: p.write_text("a letter"), "no known format"),
    "truncated": (truncated_jpeg, "[Tt]runcated"),
    "bomb": (lambda p: png_of_zeros(p, 20_000), "exceeds limit"),
    "little bomb": (lambda p: png_of_zeros(p, 9_600), "9600 x 9600 pixels are too many"),
    "vanished": (lambda p: None, "No such file"),
    "symlink loop": (loop, "symbolic links"),
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
    told = re.escape(f"{path} cannot be read as a photo: ") + f".*({reason})"
    with pytest.raises(ValueError, match=told):
        scenes.photos.read_photo(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_damaged_photo_gives_pixels_or_an_error_that_names_it(kind, tmp_path):
    """No damage of 150 per format gets past the errors that the decoder knows."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, kind)
    rng = np.random.default_rng(0)
    path = tmp_path / "photo.jpg"
    refused = 0
    for _ in range(150):
        path.write_bytes(damage(file.getvalue(), rng, edges=[0, 60, 120]))
        try:
            pixels = scenes.photos.read_photo(path)
            assert (pixels.dtype, pixels.shape[2]) == (np.uint8, 3)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be read as a photo: ")  # noqa: PT017
            refused += 1
    assert refused > 30


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
    images = scenes.photos.list_images(drawn).iloc[5:9]
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
    images = scenes.photos.list_images(drawn)
    (folder / "vanished.jpg").unlink()
    findings = utils.audit_images(images.join(scenes.photos.digest_photos(images, drawn)))
    found = findings.assign(name=findings["path"].str.extract(r"sea/((?s:.)*)\.jpg$")[0])
    assert set(found["finding"]) == {"unreadable"}
    assert set(found["name"]) == set(UNREADABLE) - {"a folder"}
    for row in found.itertuples():
        assert re.search(UNREADABLE[row.name][1], row.problem)
        assert str(drawn) not in row.problem
