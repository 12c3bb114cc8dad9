"""
Where the photos are, what is in their table, and what is left out of it, is said or
refused.
"""

import io
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import CLASSES, ROOT, draw
from pandas.testing import assert_frame_equal
from PIL import Image

import scenes
from scenes import dataset, folders, photos

# --- Where they are -------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Work in an empty folder, with no photos named by the environment."""
    monkeypatch.delenv("INTEL_PHOTOS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.parametrize("beside", ["intel-image-classification", "archive", "."])
def test_find_photos_looks_beside_the_notebook(elsewhere, beside):
    make(Path(beside), "train/a/1.jpg")
    assert folders.find_photos() == Path(beside)


def test_find_photos_prefers_what_it_is_told_and_knows_the_home_folder(
    elsewhere, drawn, monkeypatch
):
    make(Path("archive"), "train/a/1.jpg")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(drawn.parent))
    monkeypatch.setenv("INTEL_PHOTOS", "~/photos")
    assert folders.find_photos("archive") == Path("archive")
    assert folders.find_photos() == drawn
    assert len(folders.list_images("~/photos")) == 57
    monkeypatch.setenv("INTEL_PHOTOS", "missing")
    for told in ("missing", None):
        with pytest.raises(
            FileNotFoundError, match=r"no folder missing; (?s:.)*<class>/\*.jpg"
        ):
            folders.find_photos(told)


@pytest.mark.parametrize("name", ["my_flower", "data/my_flovers", "Flowers"])
def test_a_folder_that_is_not_there_is_asked_for_by_the_name_of_one_beside_it(
    elsewhere, name
):
    make(Path(name).parent, "my_flowers/a/1.jpg", "other/1.jpg")
    (Path(name).parent / "Flowers.zip").touch()
    meant = Path(name).parent / "my_flowers"
    asked = rf"^there is no folder {name}; did you mean {meant}\?$"
    with pytest.raises(FileNotFoundError, match=asked):
        folders.find_photos(name)
    for other in ("unlike", "unlike/my_flower"):
        with pytest.raises(FileNotFoundError, match=f"no folder {other}; the folder"):
            folders.find_photos(other)


@pytest.mark.parametrize("place", ["intel", "datasets/x/intel"])
def test_find_photos_finds_the_intel_photos_on_kaggles_machines(
    elsewhere, monkeypatch, printed, place
):
    monkeypatch.setattr(folders, "KAGGLE_INPUT", Path("input"))
    assert folders.find_photos() is None
    make(Path("input"), "flowers/train/rose/1.jpg", "flowers/train/tulip/1.jpg")
    assert folders.find_photos() is None
    make(Path("input"), f"{place}/seg_train/seg_train/sea/1.jpg")
    assert folders.find_photos() == Path("input", place)
    assert printed() == f"Using the photos in input/{place}.\n"


def test_a_file_in_the_place_of_the_photos_is_to_be_unpacked(elsewhere, monkeypatch):
    Path("photos.zip").write_bytes(b"PK")
    monkeypatch.setenv("INTEL_PHOTOS", "photos.zip")
    for told in ("photos.zip", None):
        with pytest.raises(
            NotADirectoryError, match=r"^photos.zip is a file; unpack an archive"
        ):
            folders.find_photos(told)


def test_a_name_with_a_tilde_that_is_there_is_not_the_home_folder(
    elsewhere, monkeypatch
):
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    make(Path("home"), "photos/a/1.jpg", "photos/b/1.jpg")
    assert folders.find_photos("~/photos") == Path.cwd() / "home" / "photos"
    make(Path("~"), "photos/a/2.jpg", "photos/b/2.jpg")
    assert folders.find_photos("~/photos") == Path("~/photos")
    assert list(folders.list_images("~/photos")["path"]) == [
        "a/2.jpg",
        "b/2.jpg",
    ]


def test_without_a_home_folder_a_tilde_is_one_sentence(elsewhere, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it then does
    with pytest.raises(FileNotFoundError, match=r"^there is no folder ~/photos; "):
        folders.find_photos("~/photos")
    make(Path("b"), "a/1.jpg", "b/1.jpg")
    assert folders.find_photos("b") == Path("b")


# --- The layouts ----------------------------------------------------------------------


def make(root: Path, *names: str) -> Path:
    """
    Write a small photo for each name, and this project's settings if it is called so.
    """
    file = io.BytesIO()
    Image.fromarray(draw(0)).save(file, "PNG")
    ours = (ROOT / "settings.json").read_bytes()
    for path in (root / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ours if path.name == "settings.json" else file.getvalue())
    return root


# The name of a layout and what the folder holds; what is read of it, or the error; what
# is said.
LAYOUTS = """
classes: a/1.jpg, a/x.png, b/1.gif
    train/a, train/a, train/b
    Found 2 classes in photos
known names: Train/a/1.jpg, Train/b/1.jpg, VALID/a/1.jpg, testing/b/1.jpg, pred/1.jpg
    train/a, train/b, validation/a, test/b, prediction/nan
    2 photos for training, 1 for validation, 1 for testing, 1 unlabeled.
used names: training_set/a/1.jpg, training_set/b/1.jpg, dev/a/1.jpg, test_data/a/1.jpg
    train/a, train/b, validation/a, test/a
    The test split has no photo of: b.
doubled: train_split/train_split/a/1.jpg, train_split/train_split/b/1.jpg, eval/a/1.jpg
    train/a, train/b, test/a
    No test split found; using eval/ as the test split.
unknown names: My_Training/a/1.jpg, My_Training/b/1.jpg, OLD_TESTS/a/1.jpg, OLD_TESTS/b/1.jpg
    photos holds My_Training, OLD_TESTS, and these a, b; rename the folders
splits in other words: apprendre/a/1.jpg, apprendre/b/1.jpg, essai/a/1.jpg, essai/b/1.jpg
    photos holds apprendre, essai, and these a, b; rename the folders
a name in all classes: cat/other/1.jpg, cat/x/1.jpg, dog/other/1.jpg
    train/cat, train/cat, train/dog
    Photos in 3 folders below class folders count
classes with such words: train station/1.jpg, test tube/1.jpg, valley/x/1.jpg, devil/x/1.jpg
    train/devil, train/test tube, train/train station, train/valley
    Found 4 classes
a class called train: bus/1.jpg, train/1.jpg, truck/1.jpg
    photos holds train, the name of a split, beside bus, truck, .* rename it if it is a class
test beside classes: a/1.jpg, b/1.jpg, Test/a/2.jpg, Test/b/2.jpg
    holds Test, the name of a split, beside a, b.* else put the class folders into train/
flat test: train/a/1.jpg, train/b/1.jpg, test/2.jpg
    train/a, train/b
    Skipped: test/2.jpg (in no class folder of train, val or test; move them into one
beside splits: train/a/1.jpg, train/b/1.jpg, test/a/1.jpg, test/b/1.jpg, c/1.jpg
    train/a, train/b, test/a, test/b
    Skipped: c/1.jpg (in no class folder of train
classes of classes: Fruit/Apple/1.jpg, Fruit/Pear/red/1.jpg, Nut/1.jpg, Nut/.hidden/2.jpg
    train/Fruit, train/Fruit, train/Nut
    Photos in 2 folders below class folders count as photos of the class; to make classes
    move each up beside the class folders, as Fruit/Apple to Apple.
nested in splits: train/Fruit/Pear/1.jpg, train/Nut/1.jpg, val/Fruit/Pear/2.jpg
    train/Fruit, train/Nut, test/Fruit
    in 2 folders below class folders count as photos of the class; to make classes of these
    beside the class folders, as train/Fruit/Pear to train/Pear.
splits in classes: a/train/1.jpg, a/test/1.jpg, b/train/1.jpg
    photos holds a, b, and these test, train; rename
two data sets: x/train/a/1.jpg, x/train/b/1.jpg, x/test/a/1.jpg, y/a/1.jpg, y/b/1.jpg
    holds x, y.* if these are data sets, set PHOTOS to one
two folders too high: x/y/train/a/1.jpg, x/y/train/b/1.jpg
    two classes are needed, .*photos holds x; .* must look like
one class: a/1.jpg, a/2.jpg
    two classes are needed, .*photos holds a; .* must look like
no class for training: train/1.jpg
    train, the name of a split, beside no class
a split twice: train/a/1.jpg, seg_train/b/1.jpg
    seg_train and train, both names of one split
a class that is not trained: train/a/1.jpg, train/b/1.jpg, test/c/1.jpg
    there is no photo in .*train.c, though other splits have that class
two cases: train/Sea/1.jpg, train/a/1.jpg, test/sea/1.jpg
    'Sea' and 'sea' in
two codings: caf\u00e9/1.jpg, cafe\u0301/1.jpg
    one name but for case or coding
turned round: a/1.jpg, b\u202egpj/1.jpg
    class .*b\\\\u202egpj is not text; rename its folder
masks: a/1.jpg, a/1.png, a/2.jpg, b/1.jpg, b/2.x.jpg, b/2.jpg, b/2.JPG
    train/a, train/a, train/a, train/b, train/b, train/b, train/b
    Names that stand twice, with two suffixes: a/1.png, b/2.jpg; remove what is no photo
no text: a/1.jpg, caf\udce9\x0bb/1.jpg
    class .*caf\\\\udce9\\\\x0bb is not text; rename its folder
what programs keep: a/1.jpg, a/@eaDir/1/1.jpg, b/1.jpg, b/.ipynb_checkpoints/1.jpg, \
$RECYCLE.BIN/1.jpg, .x/1.jpg
    train/a, train/b
    Skipped: $RECYCLE.BIN, a/@eaDir (of other programs or earlier results).
what this project writes: a/1.jpg, b/1.jpg, runs/x/settings.json, runs/x/plots/1.png, \
plotly_plots/1.png, mine/settings.json, mine/p/1.png
    train/a, train/b
    Skipped: mine, plotly_plots, runs/x (of other programs
classes without photos: a/1.jpg, b/1.jpg, c/1.HEIC, c/2.heic, d/1.txt
    train/a, train/b
    No photo was found in photos/c, photos/d.
"""
LAYOUTS = dict(block.split(": ", 1) for block in re.split(r"\n(?! )", LAYOUTS.strip()))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_folder_is_understood_or_refused_and_this_is_said(kind, tmp_path, printed):
    names, expected, *said = LAYOUTS[kind].split("\n    ")
    folder = make(tmp_path / "photos", *names.split(", "))
    if expected.startswith("train/"):
        images = folders.list_images(folder)
        read = zip(images["split"], images["label"], strict=True)
        assert ", ".join(f"{split}/{label}" for split, label in read) == expected
        said.append("Found ")
    else:
        with pytest.raises((ValueError, FileNotFoundError), match=expected) as error:
            folders.list_images(folder)
        str(error.value).encode()  # can be written to any file
    out = printed()
    assert [line for line in said if line not in out] == []


def test_linked_folders_are_named_and_not_followed(tmp_path, printed):
    folder = make(tmp_path / "photos", "a/1.jpg", "b/1.jpg")
    make(tmp_path / "elsewhere", "2.jpg")
    (folder / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "back").symlink_to(tmp_path)
    (folder / "c").symlink_to(folder / "a")  # a class folder that is a link is read
    (folder / "b" / "settings.json").write_text(
        '{"editor.fontSize": 12}'
    )  # of another program
    assert len(folders.list_images(folder)) == 3
    said = (
        "Skipped: a/more, b/back (linked folders are not followed); 1 other file(s).\n"
    )
    assert said in printed()


@pytest.mark.parametrize("output", ["train", "train/a/mine", "pred/runs", "c/new"])
def test_an_output_inside_of_the_photos_is_refused(output, tmp_path):
    make(tmp_path, "train/a/1.jpg", "pred/1.jpg", "c/1.jpg", "runs/1.csv")
    with pytest.raises(
        ValueError, match=f"OUTPUT is .*{output}, inside a class or split folder"
    ):
        folders.check_output(tmp_path / output, tmp_path)
    for good in (
        None,
        tmp_path,
        tmp_path / "runs" / "x",
        tmp_path / "new",
        tmp_path.parent,
    ):
        folders.check_output(good, tmp_path)


# --- The table ------------------------------------------------------------------------


def test_list_images_makes_a_row_for_each_photo_in_a_fixed_order(drawn):
    images = folders.list_images(drawn)
    assert list(images.columns) == ["path", "label", "split", "file"]
    assert list(images["label"].cat.categories) == CLASSES
    assert tuple(images["split"].cat.categories) == scenes.SPLITS
    counts = {"train": 5 * 6, "test": 4 * 6, "prediction": 3, "validation": 0}
    assert images["split"].value_counts().to_dict() == counts
    keys = images.assign(
        label=images["label"].cat.codes % 7, split=images["split"].cat.codes
    )
    assert_frame_equal(keys, keys.sort_values(["split", "label", "path"]))
    for row in images.itertuples():
        assert row.file == str(drawn.resolve() / row.path)
        assert (
            pd.isna(row.label)
            if row.split == "prediction"
            else f"/{row.label}/" in row.path
        )


def test_list_images_does_not_depend_on_the_order_of_the_file_system(
    drawn, monkeypatch
):
    before = folders.list_images(drawn)
    iterdir = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True)
    )
    assert_frame_equal(folders.list_images(drawn), before)


def test_list_images_says_what_it_skips(drawn, printed):
    before = folders.list_images(drawn)
    found = (
        "Found 6 classes in photos: 30 photos for training, "
        "24 for testing, 3 unlabeled.\n"
    )
    assert printed() == found
    folder = drawn / "seg_train" / "seg_train"
    names = [
        "sea/.hidden.jpg",
        "sea/Thumbs.db",
        "sea/notes.txt",
        "readme.md",
        "stray.jpg",
    ]
    for name in [*names, "sea/a.heic", "sea/b.PJPEG", os.fsdecode(b"sea/caf\xe9.dng")]:
        (folder / name).write_bytes(b"x")
    (folder / "sea" / "a.jpg").mkdir()
    os.mkfifo(folder / "sea" / "pipe.jpg")  # reading it would never end
    (drawn / "seg_pred" / "seg_pred" / ".DS_Store").write_bytes(b"x")
    assert_frame_equal(folders.list_images(drawn), before)
    assert printed() == (
        "Skipped: seg_train/seg_train/sea/a.heic, "
        "seg_train/seg_train/sea/caf\\udce9.dng (HEIC, raw and "
        "similar formats: convert to JPEG); "
        "seg_train/seg_train/sea/b.PJPEG (if they are photos, rename them to end "
        "in .jpg); seg_train/seg_train/stray.jpg (in no class folder of train, val or "
        "test; move them into one, or if unlabeled into pred/); "
        "6 other file(s).\n" + found
    )


def test_list_images_takes_what_pillow_can_open_in_any_case(tmp_path):
    names = [
        "a/1.JPG",
        "a/2.jfif",
        "a/3.mpo",
        "b/1.AVIF",
        "b/2.jp2",
        "b/3.Tiff",
        "b/4.webp",
    ]
    make(tmp_path, *names, "b/5.eps", "b/6.pdf")  # the last two need other programs
    images = folders.list_images(tmp_path)
    assert list(images["path"]) == names
    assert (dataset.digest_photos(images)[0]["problem"] == "").all()


def test_a_folder_that_cannot_be_listed_is_no_empty_one(drawn, monkeypatch):
    bad = drawn / "seg_train" / "seg_train" / "sea"
    scandir = os.scandir

    def fail(path):
        if os.fspath(path) == str(bad):
            raise PermissionError(13, "Permission denied", str(bad))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError, match=re.escape(str(bad))):
        folders.list_images(drawn)


ODD_NAMES = [
    "two words",
    "été",
    "冰川",
    "a, b",
    "7",
    "01",
    "<b>bold",
    'say "x"',
    "$x$",
    "train",
]


def test_a_class_may_be_called_almost_anything(tmp_path):
    make(tmp_path, *(f"train/{name}/1.jpg" for name in ODD_NAMES))
    images = folders.list_images(tmp_path)
    assert list(images["label"].cat.categories) == sorted(ODD_NAMES)
    assert list(images["label"]) == sorted(ODD_NAMES)
    assert (dataset.digest_photos(images)[0]["problem"] == "").all()


def test_there_may_be_a_hundred_classes(tmp_path):
    make(tmp_path, *(f"{i:03}/1.jpg" for i in range(100)))
    assert list(folders.list_images(tmp_path)["label"].cat.codes) == list(range(100))


@pytest.mark.parametrize("name", sorted(folders.REFUSED_CLASSES))
def test_a_class_with_the_name_of_something_else_is_refused(name, tmp_path):
    make(tmp_path, "train/a/1.jpg", f"train/{name}/1.jpg")
    with pytest.raises(
        ValueError, match=f"class .*{name} means something else in a table; rename"
    ):
        folders.list_images(tmp_path)


def test_a_file_name_may_be_any_bytes(tmp_path):
    make(tmp_path, "a/1.jpg", os.fsdecode(b"b/caf\xe9.jpg"))
    images = folders.list_images(tmp_path)
    (tmp_path / images["path"][1]).write_bytes(b"x")
    images = images.join(dataset.digest_photos(images)[0])
    with pytest.raises(
        ValueError, match=r"1 photo\(s\) cannot be read.*\n .*b/caf\\udce9.jpg: no"
    ):
        photos.refuse_unreadable(images)


@pytest.mark.photos
def test_the_real_photos_are_all_in_the_table(real_photos):
    images = folders.list_images(real_photos)
    counts = images.groupby(["split", "label"], observed=True).size()
    assert list(counts["train"]) == [2191, 2271, 2404, 2512, 2274, 2382]
    assert list(counts["test"]) == [437, 474, 553, 525, 510, 501]
