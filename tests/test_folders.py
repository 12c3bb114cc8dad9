"""Where the photos are, what is in their table, and what is left out of it, is said or refused."""

import io
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import draw
from PIL import Image

import scenes
import scenes.folders
import scenes.photos


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
    assert scenes.folders.find_photos() is None


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("beside", ["intel-image-classification", "archive", "."])
def test_find_photos_looks_beside_the_notebook(drawn, beside):
    shutil.copytree(drawn, beside, dirs_exist_ok=True)
    assert scenes.folders.find_photos() == Path(beside)


@pytest.mark.usefixtures("elsewhere")
def test_find_photos_prefers_what_it_is_told(drawn, monkeypatch):
    shutil.copytree(drawn, "archive")
    shutil.copytree(drawn, "told")
    monkeypatch.setenv("INTEL_PHOTOS", str(drawn))
    assert scenes.folders.find_photos("told") == Path("told")
    assert scenes.folders.find_photos() == drawn


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
        scenes.folders.find_photos(folder if named_by == "argument" else None)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("named_by", ["argument", "environment"])
def test_find_photos_knows_the_home_folder(drawn, monkeypatch, named_by):
    monkeypatch.setenv("HOME", str(drawn.parent))
    monkeypatch.setenv("USERPROFILE", str(drawn.parent))
    if named_by == "environment":
        monkeypatch.setenv("INTEL_PHOTOS", "~/photos")
    assert scenes.folders.find_photos("~/photos" if named_by == "argument" else None) == drawn
    assert len(scenes.folders.list_images("~/photos")) == 57


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("below", ["intel", "intel/archive", "datasets/somebody/intel"])
@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_find_photos_finds_the_data_set_on_kaggles_machines(drawn, monkeypatch, below, layout):
    monkeypatch.setattr(scenes.folders, "KAGGLE_INPUT", Path("input"))
    assert scenes.folders.find_photos() is None
    source = drawn if layout == "splits" else drawn / "seg_train" / "seg_train"
    shutil.copytree(source, Path("input", below))
    Path("input/another").mkdir()
    assert scenes.folders.find_photos() == Path("input", below)


# --- The table ------------------------------------------------------------------------


def test_list_images_makes_a_row_for_each_photo_in_a_fixed_order(drawn):
    images = scenes.folders.list_images(drawn)
    assert list(images.columns) == ["path", "label", "split"]
    names = ["buildings", "forest", "glacier", "mountain", "sea", "street"]
    assert list(images["label"].cat.categories) == names
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
    doubled = scenes.folders.list_images(drawn)
    flatten(drawn)
    flat = scenes.folders.list_images(drawn)
    doubled["path"] = doubled["path"].str.replace(r"^(seg_\w+)/\1", r"\1", regex=True)
    pd.testing.assert_frame_equal(flat, doubled)


def test_list_images_does_not_depend_on_the_order_of_the_file_system(drawn, monkeypatch):
    before = scenes.folders.list_images(drawn)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    pd.testing.assert_frame_equal(scenes.folders.list_images(drawn), before)


def test_list_images_says_what_it_passes_over(drawn, capsys):
    before = scenes.folders.list_images(drawn)
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
    pd.testing.assert_frame_equal(scenes.folders.list_images(drawn), before)
    assert capsys.readouterr().out == (
        "Skipped: sea/a.heic, sea/caf\\udce9.dng (HEIC, raw and similar formats: convert to JPEG); "
        "sea/b.PJPEG (if they are photos, rename them to end in .jpg); "
        "seg_train/stray.jpg (outside a class folder); 5 other file(s).\n"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_list_images_passes_over_a_pipe_whose_reading_would_never_end(drawn, capsys):
    os.mkfifo(drawn / "seg_train" / "seg_train" / "sea" / "pipe.jpg")
    assert not scenes.folders.list_images(drawn)["path"].str.contains("pipe").any()
    assert capsys.readouterr().out == "Skipped: 1 other file(s).\n"


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
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
    images = scenes.folders.list_images(drawn)
    names = set(images["path"].str.extract(r"seg_test/forest/(.*)")[0].dropna())
    assert names == {name for name in saved if not name.lower().endswith((".eps", ".ps"))}
    assert {".jfif", ".jpe", ".avif", ".jp2"} <= {Path(name.lower()).suffix for name in names}
    assert (scenes.photos.digest_photos(images, drawn)["problem"] == "").all()


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_list_images_says_at_once_that_there_is_nothing_to_predict(drawn, capsys, fault):
    shutil.rmtree(drawn / "seg_pred")
    if fault == "empty":
        (drawn / "seg_pred" / "seg_pred").mkdir(parents=True)
    assert set(scenes.folders.list_images(drawn)["split"]) == {"train", "test"}
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
        scenes.folders.list_images(drawn)


# --- Folders of one's own -------------------------------------------------------------


def make(root: Path, *names: str) -> Path:
    """Write a small photo for each name."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(seed)).save(root / name, "PNG")
    return root


def rows(folder: Path) -> list[tuple]:
    images = scenes.folders.list_images(folder)
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
        "There is no test split: one is to be made of training photos.\nSkipped: 1 other file(s).\n"
    )
    assert scenes.folders.find_photos(tmp_path) == tmp_path


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "seg_train"])
@pytest.mark.parametrize("validation", ["val", "Valid", "VALIDATION"])
def test_splits_are_known_by_their_folders(tmp_path, train, validation, capsys):
    make(tmp_path, *(f"{train}/{name}/1.jpg" for name in "ba"), f"{validation}/a/2.jpg")
    make(tmp_path, "Test/a/3.jpg", "Test/b/3.jpg", "birds/1.jpg", "notes/1.txt")
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
        "Passed over, since they are no splits: the folders birds.\n"
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
    images = scenes.folders.list_images(tmp_path)
    assert list(images["label"].cat.categories) == sorted(ODD_NAMES)
    assert list(images["label"]) == sorted(ODD_NAMES)
    assert (scenes.photos.digest_photos(images, tmp_path)["problem"] == "").all()


def test_there_may_be_a_hundred_classes(tmp_path):
    make(tmp_path, *(f"{i:03}/1.jpg" for i in range(100)))
    assert list(scenes.folders.list_images(tmp_path)["label"].cat.codes) == list(range(100))


REFUSED = {
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


@pytest.mark.parametrize("name", sorted(scenes.folders.REFUSED_CLASSES))
def test_a_class_with_the_name_of_something_else_is_refused(name, tmp_path):
    table = pd.read_csv(io.StringIO(f"label\n{name}\n"))
    assert table["label"].isna().all() or name.islower()  # what the CSV would make of it
    make(tmp_path, "train/a/1.jpg", f"train/{name}/1.jpg")
    with pytest.raises(ValueError, match=f"class .*{name} means something else in a table; rename"):
        scenes.folders.list_images(tmp_path)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_told_apart_is_refused_by_name(kind, tmp_path):
    names, problem = REFUSED[kind]
    make(tmp_path, *names)
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as error:
        scenes.folders.list_images(tmp_path)
    str(error.value).encode()  # can be written to any file


def test_an_emptied_class_is_named(drawn):
    folder = drawn / "seg_train" / "seg_train" / "glacier"
    for path in folder.iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(FileNotFoundError, match="there is no photo in " + re.escape(str(folder))):
        scenes.folders.list_images(drawn)


def test_a_file_name_may_be_any_bytes(tmp_path):
    make(tmp_path, "a/1.jpg", os.fsdecode(b"b/caf\xe9.jpg"))
    images = scenes.folders.list_images(tmp_path)
    assert (tmp_path / images["path"][1]).is_file()
    (tmp_path / images["path"][1]).write_bytes(b"x")
    images = images.join(scenes.photos.digest_photos(images, tmp_path))
    with pytest.raises(ValueError, match=r"1 photo\(s\) cannot be read.*\n .*b/caf\\udce9.jpg: no"):
        scenes.photos.refuse_unreadable(images)
    with pytest.raises(ValueError, match=r"caf\\udce9.jpg cannot be read as a photo"):
        scenes.photos.read_photo(tmp_path / images["path"][1])
    with pytest.raises(ValueError, match=r"1 photo\(s\) failed:\n    b/caf\\udce9.jpg"):
        scenes.photos.refuse([images["path"][1]])


@pytest.mark.photos
def test_the_real_photos_are_all_in_the_table(real_photos):
    images = scenes.folders.list_images(real_photos)
    counts = images.groupby(["split", "label"], observed=True).size()
    assert list(counts["train"]) == [2191, 2271, 2404, 2512, 2274, 2382]
    assert list(counts["test"]) == [437, 474, 553, 525, 510, 501]
