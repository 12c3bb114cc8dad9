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
    for name in ("seg_train", "seg_test", "seg_pred"):
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
@pytest.mark.parametrize("named_by", ["argument", "environment"])
@pytest.mark.parametrize(
    ("folder", "problem"),
    [("missing", "there is no folder missing"), ("empty", "there are no classes in empty")],
)
def test_find_photos_does_not_look_elsewhere_when_a_wrong_folder_is_named(
    drawn, monkeypatch, named_by, folder, problem
):
    shutil.copytree(drawn, "archive")
    Path("empty").mkdir()
    if named_by == "environment":
        monkeypatch.setenv("INTEL_PHOTOS", folder)
    with pytest.raises(FileNotFoundError, match=problem + r"; (?s:.)*<class>/\*.jpg"):
        scenes.photos.find_photos(folder if named_by == "argument" else None)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("named_by", ["argument", "environment"])
def test_find_photos_knows_the_home_folder(drawn, monkeypatch, named_by):
    monkeypatch.setenv("HOME", str(drawn.parent))
    monkeypatch.setenv("USERPROFILE", str(drawn.parent))
    if named_by == "environment":
        monkeypatch.setenv("INTEL_PHOTOS", "~/photos")
    assert scenes.photos.find_photos("~/photos" if named_by == "argument" else None) == drawn
    assert len(scenes.photos.list_images("~/photos")) == 57


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("below", ["intel", "intel/archive", "datasets/somebody/intel"])
@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_find_photos_finds_the_data_set_on_kaggles_machines(drawn, monkeypatch, below, layout):
    monkeypatch.setattr(scenes.photos, "KAGGLE_INPUT", Path("input"))
    assert scenes.photos.find_photos() is None
    source = drawn if layout == "splits" else drawn / "seg_train" / "seg_train"
    shutil.copytree(source, Path("input", below))
    Path("input/another").mkdir()
    assert scenes.photos.find_photos() == Path("input", below)


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
    assert not images.attrs
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


def test_list_images_says_what_it_passes_over(drawn, capsys):
    before = scenes.photos.list_images(drawn)
    assert capsys.readouterr().out == ""
    folder = drawn / "seg_train" / "seg_train"
    (folder / "sea" / ".hidden.jpg").write_bytes(b"x")
    (folder / "sea" / "Thumbs.db").write_bytes(b"x")
    (folder / "sea" / "notes.txt").write_bytes(b"x")
    (folder / "sea" / "a.jpg").mkdir()
    (folder / "readme.md").write_bytes(b"x")
    (folder / "desert").mkdir()
    (folder / ".ipynb_checkpoints").mkdir()
    (drawn / "seg_pred" / "seg_pred" / ".DS_Store").write_bytes(b"x")
    for name in ("a.heic", "b.PJPEG"):
        (folder / "sea" / name).write_bytes(b"x")
    (folder / "stray.jpg").write_bytes(b"x")
    (folder / "sea" / os.fsdecode(b"caf\xe9.dng")).write_bytes(b"x")
    pd.testing.assert_frame_equal(scenes.photos.list_images(drawn), before)
    assert capsys.readouterr().out == (
        "Passed over, though by name photos: a.heic, b.PJPEG, caf\\udce9.dng, stray.jpg "
        "(Pillow cannot open them, or they are in no class folder).\n"
        "Passed over: 5 other files.\n"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_list_images_passes_over_a_pipe_whose_reading_would_never_end(drawn, capsys):
    os.mkfifo(drawn / "seg_train" / "seg_train" / "sea" / "pipe.jpg")
    assert not scenes.photos.list_images(drawn)["path"].str.contains("pipe").any()
    assert "pipe.jpg" in capsys.readouterr().out


def test_list_images_takes_all_that_pillow_can_open_in_any_case(drawn):
    """Each file that Pillow writes and reads back is a photo, by each of its suffixes."""
    folder = drawn / "seg_test" / "seg_test" / "forest"
    saved = {"0.jpg", "1.jpg", "2.jpg", "3.jpg"}
    for number, (suffix, kind) in enumerate(Image.registered_extensions().items()):
        name = f"{number}{suffix if number % 2 else suffix.upper()}"
        try:
            mode = "1" if kind in ("MSP", "XBM") else "P" if kind == "BLP" else "RGB"
            Image.fromarray(draw(0)).convert(mode).save(folder / name, kind)
            with Image.open(folder / name) as image:
                image.load()
        except (KeyError, OSError, ValueError):
            (folder / name).unlink(missing_ok=True)
        else:
            saved.add(name)
    images = scenes.photos.list_images(drawn)
    names = set(images["path"].str.extract(r"seg_test/forest/(.*)")[0].dropna())
    assert names == {name for name in saved if not name.lower().endswith((".eps", ".ps"))}
    assert {".jfif", ".jpe", ".avif", ".jp2"} <= {Path(name.lower()).suffix for name in names}
    assert (scenes.photos.digest_photos(images, drawn)["problem"] == "").all()


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_list_images_says_at_once_that_there_is_nothing_to_predict(drawn, capsys, fault):
    shutil.rmtree(drawn / "seg_pred")
    if fault == "empty":
        (drawn / "seg_pred" / "seg_pred").mkdir(parents=True)
    assert set(scenes.photos.list_images(drawn)["split"]) == {"train", "test"}
    assert capsys.readouterr().out == "There are no photos without a label to predict.\n"


def test_a_folder_that_cannot_be_listed_is_no_empty_one(drawn, monkeypatch):
    bad = drawn / "seg_train" / "seg_train" / "sea"
    scandir = os.scandir

    def fail(path):
        if os.fspath(path) == str(bad):
            raise PermissionError(13, "Permission denied", str(bad))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError, match=re.escape(str(bad))):
        scenes.photos.list_images(drawn)


# --- Folders of one's own -------------------------------------------------------------


def make(root: Path, *names: str) -> Path:
    """Write a small photo for each name."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(seed)).save(root / name, "PNG")
    return root


def rows(folder: Path) -> list[tuple]:
    images = scenes.photos.list_images(folder)
    assert (images["split"].cat.categories == list(scenes.SPLITS)).all()
    labels = images["label"].astype(object).where(images["label"].notna(), None)
    return list(zip(images["path"], labels, images["split"], strict=True))


def test_a_folder_of_class_folders_is_for_training(tmp_path, capsys):
    make(tmp_path, "dogs/1.jpg", "cats/b.png", "cats/a.gif", "read.me")
    assert rows(tmp_path) == [
        ("cats/a.gif", "cats", "train"),
        ("cats/b.png", "cats", "train"),
        ("dogs/1.jpg", "dogs", "train"),
    ]
    assert capsys.readouterr().out == (
        "There is no test split: one is to be made of training photos.\n"
        "Passed over: 1 other files.\n"
    )
    assert scenes.photos.find_photos(tmp_path) == tmp_path


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "seg_train"])
@pytest.mark.parametrize("validation", ["val", "Valid", "VALIDATION"])
def test_splits_are_known_by_their_folders(tmp_path, train, validation, capsys):
    make(tmp_path, *(f"{train}/{name}/1.jpg" for name in "ba"), f"{validation}/a/2.jpg")
    make(tmp_path, "Test/a/3.jpg", "Test/b/3.jpg")
    assert rows(tmp_path) == [
        (f"{train}/a/1.jpg", "a", "train"),
        (f"{train}/b/1.jpg", "b", "train"),
        (f"{validation}/a/2.jpg", "a", "validation"),
        ("Test/a/3.jpg", "a", "test"),
        ("Test/b/3.jpg", "b", "test"),
    ]
    assert capsys.readouterr().out == (
        "The validation split has no photo of: b.\n"
        "There are no photos without a label to predict.\n"
    )


def test_without_a_test_split_the_validation_split_stands_as_one(tmp_path, capsys):
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "val/b/2.jpg")
    assert [row[2] for row in rows(tmp_path)] == ["train", "train", "test", "test"]
    assert "val stands as the test split, since there is no other.\n" in capsys.readouterr().out


def test_photos_count_at_any_depth_below_their_class(tmp_path):
    names = ("a/1.jpg", "a/2020/may/2.jpg", "a/2021/3.jpg", "b/1.jpg", "b/.hidden/2.jpg")
    make(tmp_path, *names)
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    assert [row[0] for row in rows(tmp_path)] == sorted(names[:4])


ODD_NAMES = ["two words", "été", "冰川", "a, b", "7", "01", "<b>bold", 'say "x"', "$x$", "train"]


def test_a_class_may_be_called_almost_anything(tmp_path):
    make(tmp_path, *(f"train/{name}/1.jpg" for name in ODD_NAMES))
    images = scenes.photos.list_images(tmp_path)
    assert list(images["label"].cat.categories) == sorted(ODD_NAMES)
    assert list(images["label"]) == sorted(ODD_NAMES)
    assert (scenes.photos.digest_photos(images, tmp_path)["problem"] == "").all()


def test_there_may_be_a_hundred_classes(tmp_path):
    make(tmp_path, *(f"{i:03}/1.jpg" for i in range(100)))
    assert list(scenes.photos.list_images(tmp_path)["label"].cat.codes) == list(range(100))


REFUSED = {
    "a column": (["a/1.jpg", "path/1.jpg"], r"the class .*path means something else"),
    "missing": (["a/1.jpg", "None/1.jpg"], r"the class .*None means something else"),
    "no text": (["a/1.jpg", os.fsdecode(b"caf\xe9/1.jpg")], r"class .*caf\\udce9 is not text"),
    "case": (["train/Sea/1.jpg", "train/a/1.jpg", "test/sea/1.jpg"], "'Sea' and 'sea'"),
    "coding": (["caf\u00e9/1.jpg", "cafe\u0301/1.jpg"], "one name but for the case or the coding"),
    "a split": (["test/1.jpg", "cats/1.jpg", "dogs/1.jpg"], "holds test, but no train"),
    "also a split": (["train/1.jpg", "a/1.jpg"], "there is no photo of a class in .*train"),
    "twice": (["train/a/1.jpg", "seg_train/b/1.jpg"], "seg_train and train"),
    "one class": (["a/1.jpg", "a/2.jpg"], "only the class a; two are needed"),
    "no class": (["1.jpg", "2.jpg"], "there is no photo of a class in"),
    "not trained": (
        ["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"],
        r"there is no photo in .*train.c, though other splits have that class",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_told_apart_is_refused_by_name(kind, tmp_path):
    names, problem = REFUSED[kind]
    make(tmp_path, *names)
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as error:
        scenes.photos.list_images(tmp_path)
    str(error.value).encode()  # can be written to any file


def test_an_emptied_class_is_named(drawn):
    folder = drawn / "seg_train" / "seg_train" / "glacier"
    for path in folder.iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(FileNotFoundError, match="there is no photo in " + re.escape(str(folder))):
        scenes.photos.list_images(drawn)


def test_a_file_name_may_be_any_bytes(tmp_path):
    make(tmp_path, "a/1.jpg", os.fsdecode(b"b/caf\xe9.jpg"))
    images = scenes.photos.list_images(tmp_path)
    assert (tmp_path / images["path"][1]).is_file()
    (tmp_path / images["path"][1]).write_bytes(b"x")
    images = images.join(scenes.photos.digest_photos(images, tmp_path))
    with pytest.raises(ValueError, match=r"1 photo\(s\) cannot be read.*\n .*b/caf\\udce9.jpg: no"):
        scenes.photos.refuse_unreadable(images)
    with pytest.raises(ValueError, match=r"caf\\udce9.jpg cannot be read as a photo"):
        scenes.photos.read_photo(tmp_path / images["path"][1])
    with pytest.raises(ValueError, match=r"1 photo\(s\) failed:\n    b/caf\\udce9.jpg"):
        scenes.photos.refuse([images["path"][1]])


def test_a_class_with_fewer_photos_than_folds_is_named():
    labels = np.array(["cat"] * 5 + ["dog"] * 2)
    with pytest.raises(ValueError, match=r"folds is 3, but .* 2 different photo\(s\): dog; add"):
        scenes.photos.make_folds(labels, None, folds=3, seed=0)


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
