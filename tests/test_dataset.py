"""
What is known of the photos' table: digests, copies, sizes, and corrected labels.
"""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_photos import PHOTO, UNREADABLE

import scenes
import scenes.dataset
import scenes.files
import scenes.folders
import scenes.grid_search
import utils

# --- Digests --------------------------------------------------------------------------


def test_a_digest_knows_a_photo_by_its_pixels_and_shape(tmp_path):
    photos = {
        "a.png": PHOTO,
        "b.webp": PHOTO,
        "c.png": PHOTO ^ 1,
        "d.png": PHOTO.reshape(48, 36, 3),
    }
    for name, pixels in photos.items():
        Image.fromarray(pixels).save(tmp_path / name, lossless=True)
    files = [str(tmp_path / name) for name in photos]
    images = pd.DataFrame({"file": files}, index=[5, 6, 7, 8])
    found, _ = scenes.dataset.digest_photos(images)
    assert list(found.index) == [5, 6, 7, 8]
    assert (found["problem"] == "").all()
    assert found["digest"].str.fullmatch("[0-9a-f]{32}").all()
    assert found["digest"][5] == found["digest"][6]
    assert found["digest"].nunique() == 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_audit_finds_all_unreadable_photos_and_says_why_without_folders(drawn):
    """The folder of one's own photos is nobody's business in a published notebook."""
    names = {f"seg_train/seg_train/sea/{kind}.jpg": kind for kind in UNREADABLE}
    for name, kind in names.items():
        UNREADABLE[kind][0](drawn / name)
    listed = scenes.folders.list_images(drawn)
    others = pd.DataFrame({"path": list(names)})
    others["file"] = [str(drawn / name) for name in names]
    images = pd.concat([listed, others], ignore_index=True).drop_duplicates("file")
    digests, _ = scenes.dataset.digest_photos(images)
    findings = utils.audit_images(images.join(digests))
    assert set(findings["finding"]) == {"unreadable"}
    assert set(findings["path"]) == set(names)
    for row in findings.itertuples():
        assert re.search(UNREADABLE[names[row.path]][1], row.problem)
        assert str(drawn) not in row.problem


@pytest.mark.parametrize(
    ("unreadable", "photos"), [(1, 3), (2, 3), (3, 60), (3, 59), (4, 60)]
)
def test_unreadable_photos_are_named_and_left_out_unless_they_are_many(
    unreadable, photos, capsys
):
    names = [f"a/{number}.jpg" for number in range(photos)] + ["b/0.jpg", "pred/0.jpg"]
    labels = pd.Categorical(["a"] * photos + ["b", None])
    images = pd.DataFrame(
        {"path": names, "label": labels, "digest": "0" * 32, "problem": ""}
    )
    images.loc[: unreadable - 1, ["digest", "problem"]] = "", "no known format"
    if unreadable > max(2, photos / 20):
        listed = rf"^{unreadable} photo\(s\) .*\n    a/0.jpg: no known"
        with pytest.raises(ValueError, match=listed):
            scenes.dataset.drop_unreadable(images)
    else:
        kept = scenes.dataset.drop_unreadable(images)
        assert list(kept["path"]) == names[unreadable:]
        said = f"Skipped {unreadable} unreadable photo(s): a/0.jpg (no known format)"
        assert capsys.readouterr().out.startswith(said)
        pd.testing.assert_frame_equal(scenes.dataset.drop_unreadable(kept), kept)
        assert capsys.readouterr().out == ""


# --- Copies ---------------------------------------------------------------------------


def test_copies_at_another_size_or_quality_are_found_across_splits_only(drawn, capsys):
    test, train = drawn / "seg_test" / "seg_test", drawn / "seg_train" / "seg_train"
    photo = Image.open(test / "sea" / "0.jpg")
    photo.resize((27, 20)).save(train / "sea" / "small.jpg", quality=50)
    photo.convert("L").save(train / "forest" / "gray.png")
    photo.save(test / "sea" / "again.jpg", quality=50)
    Image.open(test / "sea" / "1.jpg").save(test / "sea" / "1 again.jpg", quality=50)
    for side, split in ((8, test), (9, train)):
        Image.new("RGB", (side, side)).save(split / "sea" / "black.png")
    (test / "sea" / "broken.jpg").touch()
    images = scenes.folders.list_images(drawn)
    digests, thumbnails = scenes.dataset.digest_photos(images)
    images = scenes.dataset.drop_unreadable(images.join(digests))
    copies = scenes.dataset.find_copies(images, thumbnails)
    assert list(copies.columns) == ["path", "split", "group"]
    names = {Path(path).name for path in copies["path"]}
    assert names == {"small.jpg", "gray.png", "0.jpg", "again.jpg"}
    assert set(copies["group"]) == {1}
    assert "4 photos, in 1 group(s), look like copies" in capsys.readouterr().out
    groups = scenes.dataset.group_copies(images, thumbnails)
    alike = {Path(path).name for path in images["path"][groups.duplicated(keep=False)]}
    assert alike == names | {"1.jpg", "1 again.jpg"}
    part = images[~images["path"].str.endswith("small.jpg")]
    of_part = scenes.dataset.find_copies(part, thumbnails)
    assert len(of_part) == 3
    capsys.readouterr()
    assert scenes.dataset.find_copies(images[:3], thumbnails).empty
    assert capsys.readouterr().out == ""
    assert scenes.dataset.find_copies(images, None).empty
    assert capsys.readouterr().out.startswith("Not checked: copies of another size")


def thumbnails_of(*correlations: float) -> np.ndarray:
    """Return thumbnails, each of which correlates with that before it so much."""
    angles = np.cumsum(np.arccos([1, *correlations]))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")


def photos_of(digests: list) -> pd.DataFrame:
    """Return a table of training and test photos in turn, with these digests."""
    images = pd.DataFrame({"digest": [f"{digest:032}" for digest in digests]})
    images["path"] = [f"{number}.jpg" for number in images.index]
    images["split"] = pd.Categorical(
        ["train", "test"] * (len(images) // 2), scenes.SPLITS
    )
    return images


def test_copies_of_copies_are_one_group_that_is_called_by_its_least_digest():
    thumbnails = thumbnails_of(0.992, 0.992, 0.98, 0.992, 0.5)
    groups = scenes.dataset.group_copies(photos_of([5, 3, 4, 9, 8, 7]), thumbnails)
    assert list(groups.astype(int)) == [3, 3, 3, 8, 8, 7]
    equal = scenes.dataset.group_copies(photos_of([5, 3, 5, 3]), None)
    assert list(equal.astype(int)) == [5, 3, 5, 3]


def test_copies_are_found_far_apart_in_the_table():
    """Not only within the blocks that are compared at once."""
    rng = np.random.default_rng(0)
    thumbnails = rng.normal(size=(600, 256)).astype("float32")
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    thumbnails[[300, 599]] = thumbnails[[3, 10]]
    groups = scenes.dataset.group_copies(photos_of(list(range(600))), thumbnails)
    assert list(groups[groups.duplicated()].index) == [300, 599]
    assert list(groups[[300, 599]].astype(int)) == [3, 10]


def test_ten_thousand_frames_of_one_film_take_little_memory(capsys):
    thumbnails = thumbnails_of(*[0.9999] * 9999)
    images = photos_of(list(range(10000)))
    tracemalloc.start()
    copies = scenes.dataset.find_copies(images, thumbnails)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(copies) == 10000
    assert peak < 100e6
    assert capsys.readouterr().out.startswith("10000 photos, in 1 group(s), look")


# --- Sizes ----------------------------------------------------------------------------


def test_a_class_that_has_lost_all_photos_is_named():
    labels = pd.Categorical(["rose"] * 9, categories=["daisy", "rose"])
    images = pd.DataFrame({"label": labels, "split": "train", "digest": range(9)})
    with pytest.raises(ValueError, match=r"^daisy has 0 photos; .*: add photos$"):
        scenes.dataset.check_sizes(images, VALIDATION_RATIO=0.5, FOLDS=2)


@pytest.mark.parametrize(
    ("size", "split", "folds", "told"),
    # the photos of the smallest class, the split that other photos are in, FOLDS; what
    # is said
    [
        (
            6,
            "train",
            5,
            "with TEST_RATIO 0.2 and VALIDATION_RATIO 0.2 and FOLDS 5 a class needs 7: "
            "add photos, or set VALIDATION_RATIO 0.25 and FOLDS 4",
        ),
        (
            4,
            "train",
            3,
            "needs 7: add photos, or set TEST_RATIO 0.25 and VALIDATION_RATIO 0.33",
        ),
        (2, "train", 5, "a class needs 7: add photos$"),
        (
            4,
            "test",
            3,
            "with VALIDATION_RATIO 0.2 and FOLDS 3 .* 5: .* set VALIDATION_RATIO 0.25$",
        ),
        (
            2,
            "validation",
            3,
            "with TEST_RATIO 0.2 and FOLDS 3 a class needs 5: add photos$",
        ),
        (7, "train", 5, None),
        (5, "test", 5, None),
    ],
)
def test_a_class_with_too_few_photos_is_named_with_the_settings_that_fit(
    size, split, folds, told
):
    settings = {"TEST_RATIO": 0.2, "VALIDATION_RATIO": 0.2, "FOLDS": folds}
    labels = ["rose"] * (size + 1) + ["tulip"] * 9  # two roses are copies
    images = pd.DataFrame(
        {"label": labels, "split": "train", "digest": range(len(labels))}
    )
    images.loc[0, "digest"] = 1
    images.loc[size + 1, "split"] = split
    if told:
        with pytest.raises(ValueError, match=f"^rose has {size} photos; .*{told}"):
            scenes.dataset.check_sizes(images, **settings)
    else:
        scenes.dataset.check_sizes(images, **settings)
        train = images[images["split"] == "train"].astype({"digest": str})
        rest = utils.create_test(train, 0.2) if split == "train" else train
        utils.create_validation(rest, 0.2)  # raises no error


@pytest.mark.parametrize("seed", [11, 41, 53])
def test_many_copies_of_few_photos_are_split_as_the_check_has_said(seed):
    """A class needs 7 different photos, however many copies there are of some."""
    copies = np.random.default_rng(seed).choice([1, 1, 1, 1, 10, 20], size=21)
    digests = np.repeat(np.arange(21), copies)
    images = pd.DataFrame({"digest": digests, "split": "train"}).astype(str)
    images["label"] = pd.Categorical.from_codes(digests // 7, ["a", "b", "c"])
    settings = {"VALIDATION_RATIO": 0.2, "FOLDS": 5}
    scenes.dataset.check_sizes(images, TEST_RATIO=0.2, **settings)
    images = utils.create_test(images, 0.2, seed=seed)
    scenes.dataset.check_sizes(images, **settings)
    images = utils.create_validation(images, 0.2, seed=seed)
    assert (images.groupby("split")["label"].nunique() == 3).all()
    rest = images[images["split"] != "test"]
    labels = rest["label"].to_numpy(dtype=str)
    folds = scenes.grid_search.make_folds(labels, rest["digest"], folds=5, seed=seed)
    assert all(len(set(labels[rows])) == 3 for pair in folds for rows in pair)


def test_a_ratio_next_to_nothing_is_answered_at_once(table):
    with pytest.raises(ValueError, match=r"VALIDATION_RATIO 1e-12 .* 1250000000000: "):
        scenes.dataset.check_sizes(
            table, TEST_RATIO=0.2, VALIDATION_RATIO=1e-12, FOLDS=2
        )


# --- Corrections ----------------------------------------------------------------------


@pytest.fixture
def corrections(table, tmp_path):
    """
    Return a function that applies a file of this text to a table: three photos a class
    train.

    The last two photos have a name that is no text, and no label.
    """
    images = table.assign(split=table["split"].where(table.index % 4 < 3, "test"))
    images.loc[22, "path"] = "caf\udce9, one.jpg"
    images.loc[23, "label"] = None

    def apply(text: str, encoding: str = "utf-8") -> pd.DataFrame:
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding, "surrogateescape"))
        return scenes.dataset.apply_corrections(images, tmp_path / "labels.csv")

    apply.images = images
    return apply


CORRECTIONS = (
    "path,label,suggested\n0.jpg,sea,forest\n1.jpg,buildings,sea\n4.jpg,,sea\n7.jpg,,\n"
    "9.jpg,street,\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("sep", "newline"), [(",", "\n"), (";", "\r\n")])
def test_labels_are_corrected_and_photos_left_out(
    corrections, capsys, encoding, sep, newline
):
    images = corrections.images.copy(deep=True)
    table = corrections(CORRECTIONS.replace(",", sep).replace("\n", newline), encoding)
    pd.testing.assert_frame_equal(corrections.images, images)
    expected = images.drop([4, 7])
    expected.loc[[0, 9], "label"] = ["sea", "street"]
    expected["corrected"] = expected.index.isin([0, 9])
    pd.testing.assert_frame_equal(table, expected)
    said = (
        "labels.csv: 2 label(s) corrected and 2 photo(s) "
        "left out, 1 of them test photos"
    )
    assert (
        f"{said}; corrections of test photos flatter the model.\n"
        in capsys.readouterr().out
    )


def test_corrections_of_training_photos_flatter_nobody(corrections, capsys):
    corrections("path,label\n0.jpg,sea\n0.jpg,sea\n")
    assert capsys.readouterr().out.endswith(
        ": 1 label(s) corrected and 0 photo(s) left out.\n"
    )


def test_without_a_file_no_label_is_corrected(corrections, capsys):
    table = scenes.dataset.apply_corrections(corrections.images, None)
    pd.testing.assert_frame_equal(table, corrections.images.assign(corrected=False))
    assert capsys.readouterr().out == ""


def test_photos_with_names_of_any_bytes_are_corrected(corrections):
    assert corrections('label,path\nsea,"caf\udce9, one.jpg"\n')["label"][22] == "sea"


GOOD = "path,label\n0.jpg,sea\n"
# As spreadsheets leave a file: its text and its coding.
SPREADSHEETS = {
    "semicolons": (GOOD.replace(",", ";"), "utf-8-sig"),
    "semicolons, and commas in a note": (
        "path;label;note\n0.jpg;sea;a,b,c,d,e,f\n",
        "utf-8",
    ),
    "tabs": (GOOD.replace(",", "\t"), "utf-8"),
    "Unicode text": (GOOD.replace(",", "\t"), "utf-16"),
    "Unicode text of other machines": ("\ufeff" + GOOD, "utf-16-be"),
    "emptied rows": (GOOD + ",\n , \n\n", "utf-8"),
    "emptied columns": (GOOD.replace("\n", ",,\n"), "utf-8"),
    "blank lines first": ("\n\r\n" + GOOD, "utf-8"),
    "the separator first": ("sep=;\r\n" + GOOD.replace(",", ";"), "utf-8"),
    "capitals and spaces": ("Path, LABEL \n0.jpg ,sea \n", "utf-8"),
    "a note in one row": (GOOD + "5.jpg,forest,not sure\n", "utf-8"),
    "notes in all rows": ("path,label\n0.jpg,sea,not sure\n", "utf-8"),
    "old line ends": (GOOD.replace("\n", "\r"), "utf-8"),
    "apostrophes": ("path,label\n'0.jpg,'sea\n", "utf-8"),
    "quotes": ('"path","label"\n"0.jpg","sea"\n', "utf-8"),
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_a_file_is_read_as_spreadsheets_leave_it(corrections, kind):
    expected = corrections(GOOD)
    pd.testing.assert_frame_equal(corrections(*SPREADSHEETS[kind]), expected)


def test_names_that_a_spreadsheet_would_run_come_back(corrections, tmp_path):
    """So does a name in the other of the two codings of an accent."""
    names = [
        "=1+2/0.jpg",
        "-1.jpg",
        "'@x",
        "cafe\u0301.jpg",
        "thé.jpg",
        " a.jpg",
        "a.jpg",
    ]
    corrections.images["path"] = [*names, *corrections.images["path"][7:]]
    given = pd.DataFrame({"path": names, "label": "sea"})
    given.loc[[3, 4], "path"] = ["café.jpg", "the\u0301.jpg"]
    scenes.files.write_spreadsheet(given, tmp_path / "labels.csv")
    table = scenes.dataset.apply_corrections(
        corrections.images, tmp_path / "labels.csv"
    )
    assert list(table["label"][:7]) == ["sea"] * 7


NO_CSV = "is no CSV file with the columns path and label; save it as CSV UTF-8, or set"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", NO_CSV),
        ("path;suggested\n0.jpg;sea\n", NO_CSV),
        ("PK\x03\x04\x00[Content_Types].xml\udcff,", NO_CSV),
        ('path,label\n0.jpg,"sea\n', NO_CSV),
        (
            "path,label\n0.jpg,sea\na\x0b.jpg,sea\n",
            "names a\\x0b.jpg, which is the path of no",
        ),
        (
            "path,label\n0.jpg,sea\ncaf\udce9.jpg,sea\n",
            "names caf\\udce9.jpg, which is the path of no labelled photo; correct it "
            "(from PHOTOS on, with /; saved as CSV UTF-8) or delete the line",
        ),
        ("path,label\n,sea\n", "names , which is the path of no labelled photo"),
        (
            "path,label\n23.jpg,sea\n",
            "names 23.jpg, which is the path of no labelled photo",
        ),
        (
            "path,label\n0.jpg,nan\n",
            "labels 0.jpg as nan; it must be one of buildings, forest",
        ),
        ("path,label\n0.jpg,Sea\n", "labels 0.jpg as Sea; it must be one of "),
        ("path,label\n0.jpg,sea\n0.jpg,\n", "gives 0.jpg different labels; keep one"),
    ],
)
def test_corrections_that_mean_nothing_are_refused(corrections, text, told):
    with pytest.raises(ValueError, match=re.escape(f"labels.csv {told}")):
        corrections(text)
