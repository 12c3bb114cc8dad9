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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import scenes
import scenes.photos
import utils


def contents(folder: Path) -> dict[Path, tuple]:
    """Return what is known of each file below a folder: its time, size and bytes."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


def test_download_photos_returns_the_folder_that_kagglehub_made(drawn, monkeypatch):
    asked = []
    monkeypatch.setattr("kagglehub.dataset_download", lambda name: asked.append(name) or str(drawn))
    assert utils.download_photos() == drawn
    assert asked == ["puneet6060/intel-image-classification"]


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


@pytest.fixture
def copied(drawn):
    """Return the table of photos with copies: plain, under two labels, in two splits."""
    train, test = drawn / "seg_train" / "seg_train", drawn / "seg_test" / "seg_test"
    shutil.copy(train / "sea" / "0.jpg", train / "sea" / "copy.jpg")
    shutil.copy(train / "glacier" / "0.jpg", train / "mountain" / "glacier.jpg")
    shutil.copy(test / "street" / "0.jpg", train / "street" / "test.jpg")
    pixels = scenes.photos.read_photo(test / "forest" / "0.jpg")
    Image.fromarray(pixels).save(train / "buildings" / "forest.png")
    return read_table(drawn)


def test_the_audit_finds_copies_two_labels_and_two_splits(copied):
    findings = utils.audit_images(copied)
    assert list(findings.columns) == ["finding", "path", "label", "split", "digest", "problem"]
    names = findings["path"].str.replace(r"(seg_\w+)/\1/", "", regex=True)
    found = {finding: set(names[rows.index]) for finding, rows in findings.groupby("finding")}
    assert findings.groupby("finding").size().to_dict() == {
        "duplicate": 8,
        "two labels": 4,
        "two splits": 4,
    }
    assert found["duplicate"] == {
        *("sea/0.jpg", "sea/copy.jpg", "glacier/0.jpg", "mountain/glacier.jpg"),
        *("street/0.jpg", "street/test.jpg", "forest/0.jpg", "buildings/forest.png"),
    }
    labels = {"glacier/0.jpg", "mountain/glacier.jpg", "forest/0.jpg", "buildings/forest.png"}
    splits = {"street/0.jpg", "street/test.jpg", "forest/0.jpg", "buildings/forest.png"}
    assert (found["two labels"], found["two splits"]) == (labels, splits)


def test_the_audit_of_good_photos_is_empty(drawn):
    assert utils.audit_images(read_table(drawn)).empty


def test_unreadable_photos_are_no_copies_of_each_other(drawn):
    for name in ("a.jpg", "b.jpg"):
        (drawn / "seg_train" / "seg_train" / "sea" / name).write_bytes(b"")
    findings = utils.audit_images(read_table(drawn))
    assert list(findings["finding"]) == ["unreadable", "unreadable"]


def test_drop_leaks_takes_training_photos_that_are_test_photos_out_of_training(copied):
    left = utils.drop_leaks(copied)
    gone = copied.drop(left.index)["path"].str.rsplit("/", n=1).str[-1]
    assert sorted(gone) == ["forest.png", "test.jpg"]
    pd.testing.assert_frame_equal(left, copied.loc[left.index])


def test_drop_leaks_leaves_unreadable_photos_to_the_error_that_names_them(drawn):
    for split in ("seg_train", "seg_test"):
        (drawn / split / split / "sea" / "bad.jpg").write_bytes(b"")
    images = read_table(drawn)
    assert len(utils.drop_leaks(images)) == len(images)


def test_the_audit_finds_the_known_copies_by_the_bundled_digests(bundled):
    findings = utils.audit_images(bundled[0])
    assert findings.groupby("finding").size().to_dict() == {
        "duplicate": 36,
        "two labels": 26,
        "two splits": 6,
    }
    leaks = bundled[0].drop(utils.drop_leaks(bundled[0]).index)
    assert list(leaks["label"]) == ["buildings", "mountain", "street"]


@pytest.mark.photos
def test_what_the_audit_calls_copies_are_copies(bundled, real_photos):
    copies = utils.audit_images(bundled[0]).query("finding == 'duplicate'")
    for _, paths in copies.groupby("digest")["path"]:
        first, *others = (scenes.photos.read_photo(real_photos / path) for path in paths)
        assert others
        assert all(np.array_equal(first, other) for other in others)


# --- Shrinking and splitting ----------------------------------------------------------


@st.composite
def tables(draw_from):
    """Return a table of photos, some of them copies of others, and some without a label."""
    rows = draw_from(
        st.lists(
            st.tuples(
                st.sampled_from(range(3)),
                st.sampled_from(["train", "test", "prediction"]),
                st.integers(0, 12),
            ),
            max_size=60,
        )
    )
    # Every class has enough different photos to be split.
    rows += [(label, "train", 100 * (label + 1) + i) for label in range(3) for i in range(10)]
    order = np.random.default_rng(draw_from(st.integers(0, 99))).permutation(len(rows))
    label, split, digest = zip(*(rows[i] for i in order), strict=True)
    names = [
        None if s == "prediction" else scenes.CLASSES[i] for i, s in zip(label, split, strict=True)
    ]
    return pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in range(len(rows))],
            "label": pd.Categorical(names, scenes.CLASSES),
            "split": pd.Categorical(split, scenes.SPLITS),
            "digest": [f"{d:032}" for d in digest],
        }
    )


@settings(max_examples=50)
@given(tables(), st.integers(1, 15))
def test_shrink_keeps_every_nth_photo_of_each_class_and_split(images, factor):
    left = utils.shrink(images, factor)
    pd.testing.assert_frame_equal(left, images.loc[left.index])
    assert left.index.is_monotonic_increasing
    for key, rows in images.groupby(["split", "label"], observed=True):
        kept = left[(left["split"] == key[0]) & (left["label"] == key[1])]
        assert list(kept.index) == list(rows.index[::factor])
    assert left["label"].isna().sum() == images["label"].isna().sum()


@settings(max_examples=30)
@given(tables(), st.sampled_from([0.1, 0.2, 0.25, 0.33, 0.5]), st.integers(0, 99))
def test_create_validation_never_parts_a_photo_from_its_copy(images, ratio, seed):
    split = utils.create_validation(images, ratio, seed=seed)
    rows = split[split["split"].isin(["train", "validation"])]
    assert rows.groupby("digest")["split"].nunique().max() == 1
    moved = split["split"] == "validation"
    assert (images["split"][moved] == "train").all()
    pd.testing.assert_frame_equal(split[~moved], images[~moved])
    pd.testing.assert_frame_equal(split.drop(columns="split"), images.drop(columns="split"))
    pd.testing.assert_frame_equal(split, utils.create_validation(images, ratio, seed=seed))


@settings(max_examples=30)
@given(
    st.lists(st.integers(10, 25), min_size=6, max_size=6),
    st.sampled_from([0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]),
    st.integers(0, 99),
)
def test_create_validation_takes_the_same_share_of_each_class_within_one_photo(sizes, ratio, seed):
    labels = np.repeat(scenes.CLASSES, sizes)
    images = pd.DataFrame(
        {
            "label": pd.Categorical(labels, scenes.CLASSES),
            "split": pd.Categorical(["train"] * len(labels), scenes.SPLITS),
            "digest": [f"{i:032}" for i in range(len(labels))],
        }
    )
    split = utils.create_validation(images, ratio, seed=seed)
    taken = split[split["split"] == "validation"]["label"].value_counts()[list(scenes.CLASSES)]
    assert (np.abs(taken.to_numpy() - np.array(sizes) / round(1 / ratio)) < 1).all()


def test_create_validation_chooses_other_photos_with_another_seed(drawn):
    images = read_table(drawn)
    splits = {tuple(utils.create_validation(images, seed=seed)["split"]) for seed in range(5)}
    assert len(splits) > 1


def test_no_helper_of_the_table_touches_a_file_or_the_table_it_is_given(copied, drawn):
    before, table = contents(drawn), copied.copy(deep=True)
    for images in (utils.shrink(utils.drop_leaks(copied), 2), copied):
        utils.audit_images(utils.create_validation(images, 0.5))
    assert contents(drawn) == before
    pd.testing.assert_frame_equal(copied, table)
    assert len(before) > 50
