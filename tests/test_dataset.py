"""
What is known of the photos' table: digests, near-duplicates, and corrected labels.
"""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.random import default_rng
from pandas.testing import assert_frame_equal, assert_series_equal
from PIL import Image
from sklearn.dummy import DummyClassifier
from test_photos import PHOTO, UNREADABLE

import scenes
import utils
from scenes import dataset, files, folders, grid_search
from scenes.dataset import find_shortcut

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
    paths = [str(tmp_path / name) for name in photos]
    images = pd.DataFrame({"file": paths}, index=[5, 6, 7, 8])
    found, _ = dataset.digest_photos(images)
    assert list(found.index) == [5, 6, 7, 8]
    assert (found["problem"] == "").all()
    assert found["digest"].str.fullmatch("[0-9a-f]{32}").all()
    assert found["digest"][5] == found["digest"][6]
    assert found["digest"].nunique() == 3


def test_a_photo_is_measured_by_brightness_shape_and_size_of_its_file(tmp_path):
    Image.new("RGB", (8, 6), (10, 20, 60)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no photo")
    images = pd.DataFrame(
        {"file": [str(tmp_path / name) for name in ("a.png", "b.png")]}
    )
    digests, _ = dataset.digest_photos(images)
    measures = digests[dataset.MEASURES]
    assert measures.iloc[0].tolist() == [30, 6, 8, (tmp_path / "a.png").stat().st_size]
    assert measures.iloc[1].isna().all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_audit_finds_all_unreadable_photos_and_says_why_without_folders(drawn):
    """The folder of one's own photos is nobody's business in a published notebook."""
    names = {f"seg_train/seg_train/sea/{kind}.jpg": kind for kind in UNREADABLE}
    for name, kind in names.items():
        UNREADABLE[kind][0](drawn / name)
    listed = folders.list_images(drawn)
    others = pd.DataFrame({"path": list(names)})
    others["file"] = [str(drawn / name) for name in names]
    images = pd.concat([listed, others], ignore_index=True).drop_duplicates("file")
    digests, _ = dataset.digest_photos(images)
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
    unreadable, photos, printed
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
            dataset.drop_unreadable(images)
    else:
        kept = dataset.drop_unreadable(images)
        assert list(kept["path"]) == names[unreadable:]
        said = f"Skipped {unreadable} unreadable photo(s): a/0.jpg (no known format)"
        assert printed().startswith(said)
        assert_frame_equal(dataset.drop_unreadable(kept), kept)
        assert printed() == ""


# --- Shortcuts ------------------------------------------------------------------------


def measured(shortcut: str, sizes: tuple[int, int]) -> pd.DataFrame:
    """Return a table of two classes, which one of the measures tells apart."""
    of_b = np.repeat([False, True], sizes)
    rng = default_rng(0)
    images = pd.DataFrame(
        {"label": pd.Categorical.from_codes(of_b.astype(int), ["a", "b"])}
    )
    images["path"] = np.where(of_b, "x/1.JPG", "x.y/1.jpg")
    images.loc[of_b & (shortcut == "type"), "path"] = "x/1.png"
    for name in ("brightness", "height", "bytes"):
        images[name] = rng.uniform(100, 200, len(of_b)) + 200 * of_b * (
            shortcut == name
        )
    images["width"] = images["height"] * np.where(of_b & (shortcut == "ratio"), 1.1, 1)
    return images


def in_folds(images: pd.DataFrame) -> list:
    """Return three stratified folds of a table."""
    y = images["label"].cat.codes.to_numpy()
    return grid_search.make_folds(y, None, folds=3, seed=0)


@pytest.mark.parametrize("shortcut", ["brightness", "height", "bytes", "ratio", "type"])
def test_a_class_that_is_known_by_no_content_is_said_with_the_accuracies(
    shortcut, printed
):
    images = measured(shortcut, (60, 40))
    assert find_shortcut(images, in_folds(images), 0.95) > 0.9
    said = printed()
    assert re.match(r"Brightness, .* reach (9\d.\d|100.0)% \(chance: 60.0%, head", said)
    assert "head: 95.0%): the classes may be recognized by how" in said
    assert find_shortcut(images, in_folds(images), 0.95, class_weight="balanced") > 0.9
    assert "(chance: 50.0%, head: 95.0%)" in printed()


def test_photos_in_no_fold_do_not_count_in_the_accuracy_without_content():
    images = measured("brightness", (60, 40))
    splits = in_folds(images)
    others = images.assign(label=images["label"].cat.codes.map({0: "b", 1: "a"}))
    both = pd.concat([images, others.astype({"label": "category"})])
    assert (
        find_shortcut(both, splits, 0.95) == find_shortcut(images, splits, 0.95) > 0.9
    )


def test_nothing_is_said_of_measures_that_gain_little_or_are_not_known(printed):
    images = measured("none", (80, 20))
    splits = in_folds(images)
    assert find_shortcut(images, splits, 0.9) == pytest.approx(0.8, abs=0.05)
    assert np.isnan(find_shortcut(images.drop(columns="brightness"), splits, 0.9))
    assert printed() == ""


def test_nothing_is_said_of_measures_that_gain_nothing_beside_a_poor_head(printed):
    images = measured("none", (60, 40))
    accuracy = find_shortcut(images, in_folds(images), 0.2)
    assert 0.4 < accuracy < 0.6, "below chance, but above the middle of both"
    assert printed() == ""


def test_with_class_weights_the_accuracy_without_content_is_balanced(monkeypatch):
    """Here, all photos are taken for the larger class."""
    images = measured("none", (80, 20))
    guess = DummyClassifier()
    monkeypatch.setattr(dataset, "RandomForestClassifier", lambda **_: guess)
    splits = in_folds(images)
    assert find_shortcut(images, splits, 0.9) == pytest.approx(0.8, abs=0.001)
    balanced = find_shortcut(images, splits, 0.9, class_weight="balanced")
    assert balanced == pytest.approx(0.5)


def test_half_of_what_the_head_gains_is_the_most_that_is_not_said(printed):
    images = measured("height", (60, 40))
    accuracy = find_shortcut(images, in_folds(images), 2)
    assert printed() == "", "of 1.4 above chance, it gains 0.4"
    find_shortcut(images, in_folds(images), 2 * accuracy - 0.61)
    assert printed() != ""


# --- Near-duplicates ------------------------------------------------------------------


def test_near_duplicates_are_found_across_splits_only(drawn, printed):
    test, train = drawn / "seg_test" / "seg_test", drawn / "seg_train" / "seg_train"
    photo = Image.open(test / "sea" / "0.jpg")
    photo.resize((27, 20)).save(train / "sea" / "small.jpg", quality=50)
    photo.convert("L").save(train / "forest" / "gray.png")
    photo.save(test / "sea" / "again.jpg", quality=50)
    Image.open(test / "sea" / "1.jpg").save(test / "sea" / "1 again.jpg", quality=50)
    for side, split in ((8, test), (9, train)):
        Image.new("RGB", (side, side)).save(split / "sea" / "black.png")
    (test / "sea" / "broken.jpg").touch()
    images = folders.list_images(drawn)
    digests, thumbnails = dataset.digest_photos(images)
    images = images.join(digests)
    images = dataset.drop_unreadable(images[images["label"].notna()])
    images["group"] = dataset.group_images(images, thumbnails)
    divided = dataset.list_divided_groups(images)
    assert list(divided.columns) == ["path", "split", "group"]
    names = {Path(path).name for path in divided["path"]}
    assert names == {"small.jpg", "gray.png", "0.jpg", "again.jpg"}
    assert set(divided["group"]) == {1}
    said = printed()
    assert "4 photos, in 1 group(s), look like near-duplicates of" in said
    is_alike = images["group"].duplicated(keep=False)
    alike = {Path(path).name for path in images["path"][is_alike]}
    assert alike == names | {"1.jpg", "1 again.jpg"}
    part = images[~images["path"].str.endswith("small.jpg")]
    assert len(dataset.list_divided_groups(part)) == 3
    printed()
    assert dataset.list_divided_groups(images[:3]).empty
    assert printed() == ""


def thumbnails_of(*correlations: float) -> np.ndarray:
    """Return thumbnails, each of which correlates with that before it so much."""
    angles = np.cumsum(np.arccos([1, *correlations]))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")


def photos_of(digests: list) -> pd.DataFrame:
    """Return a table of training and test photos in turn, with these digests."""
    images = pd.DataFrame({"digest": [f"{digest:032}" for digest in digests]})
    images["path"] = [f"{number}.jpg" for number in images.index]
    splits = np.where(images.index % 2 == 0, "train", "test")
    images["split"] = pd.Categorical(splits, scenes.SPLITS)
    return images


def test_near_duplicates_of_near_duplicates_are_one_group_called_by_its_least_digest():
    thumbnails = thumbnails_of(0.992, 0.992, 0.98, 0.992, 0.5)
    groups = dataset.group_near_duplicates(photos_of([5, 3, 4, 9, 8, 7]), thumbnails)
    assert list(groups.astype(int)) == [3, 3, 3, 8, 8, 7]
    equal = dataset.group_near_duplicates(photos_of([5, 3, 5, 3]), np.eye(4))
    assert list(equal.astype(int)) == [5, 3, 5, 3]


def test_near_duplicates_are_found_far_apart_in_the_table():
    """Not only within the blocks that are compared at once."""
    rng = default_rng(0)
    thumbnails = rng.normal(size=(600, 256)).astype("float32")
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    thumbnails[[300, 599]] = thumbnails[[3, 10]]
    groups = dataset.group_near_duplicates(photos_of(list(range(600))), thumbnails)
    assert list(groups[groups.duplicated()].index) == [300, 599]
    assert list(groups[[300, 599]].astype(int)) == [3, 10]


def test_ten_thousand_frames_of_one_film_take_little_memory(printed):
    thumbnails = thumbnails_of(*[0.9999] * 9999)
    images = photos_of(list(range(10000)))
    tracemalloc.start()
    groups = dataset.group_near_duplicates(images, thumbnails)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert groups.nunique() == 1
    assert peak < 100e6


# --- Groups ---------------------------------------------------------------------------


def labelled_as(labels: str, paths: list | None = None) -> pd.DataFrame:
    """Return a table of different photos, each with a letter as its label."""
    images = photos_of(list(range(len(labels))))
    images["label"] = pd.Categorical(list(labels))
    return images.assign(path=paths or images["path"], group=images["digest"])


def test_groups_are_joined_by_looks_and_by_what_the_owner_says(printed):
    """Photo 1 looks like 0, and is of one patient with 3, which 4 looks like."""
    paths = ["p1-a.jpg", "p2-a.jpg", "p3-a.jpg", "p2-b.jpg", "p4-a.jpg", "p5-a.jpg"]
    thumbnails = thumbnails_of(0.992, 0.5, 0.5, 0.992, 0.5)
    images = labelled_as("a" * 6, paths)
    alike = dataset.group_images(images, thumbnails)
    assert list(alike.astype(int)) == [0, 0, 2, 3, 3, 5]
    groups = dataset.group_images(images, thumbnails, r"p(\d+)-")
    assert list(groups.astype(int)) == [0, 0, 2, 0, 0, 5]
    assert groups.name == "group"
    bundled = images.assign(group=alike)  # as without photos, so without thumbnails
    assert_series_equal(dataset.group_images(bundled, None), alike)
    printed()
    again = dataset.group_images(bundled, None, r"p(\d+)-")
    assert_series_equal(again, groups)
    assert printed() == "GROUPS joins 6 photos into 5 groups; the largest holds 2.\n"


@pytest.mark.parametrize(("size", "is_kept"), [(112, True), (111, False)])
def test_look_alikes_of_more_than_a_tenth_of_a_class_are_told_not_kept_together(
    size, is_kept, printed
):
    """Ten photos of a class are kept together, however small it is; so are equal ones."""
    noise = default_rng(0).normal(size=(size + 10, 256))
    thumbnails = noise.astype("float32")
    thumbnails[50:61] = thumbnails[50]  # eleven of the first class
    thumbnails[size:] = thumbnails[size]  # all ten of the second one
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    images = labelled_as("a" * size + "b" * 10)
    images.loc[70, "digest"] = images["digest"][60]
    images.loc[71, "digest"] = images["digest"][60]  # counts once
    images.loc[[70, 71], "label"] = "b"
    groups = dataset.group_images(images, thumbnails)
    assert groups[size:].nunique() == 1
    assert groups[[60, 70, 71]].nunique() == 1
    assert groups[50:61].nunique() == (1 if is_kept else 11)
    said = printed()
    if is_kept:
        assert said == ""
    else:
        assert said.startswith("13 photos look alike in groups of more than a tenth")


@pytest.mark.parametrize("table", ["path,group\n", "sep=;\nPath;Group;note\n"])
def test_a_file_of_groups_is_read_as_spreadsheets_leave_it(table, tmp_path):
    images = labelled_as("aaa", ["a.jpg", "-b.jpg", "c.jpg"])
    csv = tmp_path / "groups.CSV"
    cells = table + "a.jpg,7\n'-b.jpg,ann\nc.jpg,7 \nother.jpg,8\n"
    csv.write_text(cells.replace(",", ";") if ";" in table else cells)
    assert list(dataset.read_groups(images, str(csv))) == ["7", "ann", "7"]
    csv.write_text("path,group\na.jpg,7\n-b.jpg,\n")
    told = r"groups\.CSV', which gives no group to -b\.jpg, c\.jpg; each photo needs"
    with pytest.raises(ValueError, match=told):
        dataset.read_groups(images, str(csv))
    csv.write_text("path,group\na.jpg,7\na.jpg,8\n")
    with pytest.raises(ValueError, match=r"gives a\.jpg different groups; keep one"):
        dataset.read_groups(images, str(csv))
    csv.write_text("path,group,Group\na.jpg,7,8\n-b.jpg,7,8\nc.jpg,7,8\n")
    with pytest.raises(
        ValueError, match=r"no CSV file with the columns path and group"
    ):
        dataset.read_groups(images, str(csv))


@pytest.mark.parametrize("groups", [r"p(\d)", r"(?:p(\d))?", r"p(\d)|q", r"p?(1?)\."])
def test_a_photo_that_the_expression_gives_no_group_is_named(groups):
    """It is not found, or the group takes no part in it, or is empty."""
    images = labelled_as("aa", ["p1.jpg", "q.jpg"])
    with pytest.raises(
        ValueError, match=r"GROUPS is .*, which gives no group to q\.jpg; each"
    ):
        dataset.read_groups(images, groups)


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
        return dataset.apply_corrections(images, tmp_path / "labels.csv", images)

    apply.images, apply.path = images, tmp_path / "labels.csv"
    return apply


CORRECTIONS = (
    "path,label,suggested\n0.jpg,sea,forest\n1.jpg,buildings,sea\n4.jpg,,sea\n7.jpg,,\n"
    "9.jpg,street,\n"
)


def test_corrections_may_name_photos_that_the_run_leaves_out(corrections, printed):
    """As a smaller table, of `shrink`, does: only names of no photo are refused."""
    images, path = corrections.images, corrections.path
    path.write_text("path,label\n0.jpg,sea\n1.jpg,buildings\n")
    some = images.drop(1)
    table = dataset.apply_corrections(some, path, images)
    assert table.index[table["corrected"]].tolist() == [0]
    assert "1 photo(s) that it names are not in this run.\n" in printed()
    with pytest.raises(
        ValueError, match=r"names 1\.jpg, which is the path of no label"
    ):
        dataset.apply_corrections(some, path, some)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("sep", "newline"), [(",", "\n"), (";", "\r\n")])
def test_labels_are_corrected_and_photos_left_out(
    corrections, printed, encoding, sep, newline
):
    images = corrections.images.copy(deep=True)
    table = corrections(CORRECTIONS.replace(",", sep).replace("\n", newline), encoding)
    assert_frame_equal(corrections.images, images)
    expected = images.drop([4, 7])
    expected.loc[[0, 9], "label"] = ["sea", "street"]
    expected["corrected"] = expected.index.isin([0, 9])
    assert_frame_equal(table, expected)
    said = (
        "labels.csv: 2 label(s) corrected and 2 photo(s) "
        "left out, 1 of them test photos"
    )
    assert f"{said}, which flatters a model that has flagged them.\n" in printed()


def test_corrections_of_training_photos_flatter_nobody(corrections, printed):
    corrections("path,label\n0.jpg,sea\n0.jpg,sea\n")
    assert printed().endswith(": 1 label(s) corrected and 0 photo(s) left out.\n")


@pytest.mark.parametrize(
    ("rows", "label", "lost"),
    [
        ((4, 5, 6), "", "train photo of forest"),
        ((4, 5, 6), "sea", "train photo of forest"),
        ((3, 7, 11, 15, 19), "", "test photo"),
    ],
)
def test_corrections_that_empty_a_split_or_class_are_refused(
    rows, label, lost, corrections
):
    lines = [f"{row}.jpg,{label}\n" for row in rows]
    corrections.images.loc[23, "split"] = "train"  # it has no label to be corrected
    corrections("".join(["path,label\n", *lines[1:]]))
    with pytest.raises(ValueError, match=f"labels.csv leaves no {lost}; keep some"):
        corrections("".join(["path,label\n", *lines]))


def test_without_a_file_no_label_is_corrected(corrections, printed):
    table = dataset.apply_corrections(corrections.images, None, corrections.images)
    assert_frame_equal(table, corrections.images.assign(corrected=False))
    assert printed() == ""


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
    assert_frame_equal(corrections(*SPREADSHEETS[kind]), expected)


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
    corrections.images.loc[[8, 12], "label"] = ["buildings", "forest"]  # some stay
    given = pd.DataFrame({"path": names, "label": "sea"})
    given.loc[[3, 4], "path"] = ["café.jpg", "the\u0301.jpg"]
    files.write_spreadsheet(given, tmp_path / "labels.csv")
    images = corrections.images
    table = dataset.apply_corrections(images, tmp_path / "labels.csv", images)
    assert list(table["label"][:7]) == ["sea"] * 7


def test_names_of_a_file_that_windows_has_written_are_read(corrections, tmp_path):
    """A name that holds a backslash itself, as Linux allows, comes first."""
    images, csv = corrections.images, tmp_path / "groups.csv"
    images.loc[:2, "path"] = ["a/0.jpg", r"b\0.jpg", "b/0.jpg"]
    table = corrections("path,label\na\\0.jpg,sea\nb\\0.jpg,street\n")
    assert list(table["label"][:3]) == ["sea", "street", "buildings"]
    csv.write_text("path,group\na\\0.jpg,1\nb\\0.jpg,2\nb/0.jpg,3\n")
    groups = dataset.read_groups(images[:3], str(csv))
    assert list(groups) == ["1", "2", "3"]


NO_CSV = "is no CSV file with the columns path and label ("


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", f"{NO_CSV}it has 0 columns path); save it as CSV UTF-8, or set CORR"),
        ("path;suggested\n0.jpg;sea\n", f"{NO_CSV}it has 0 columns label)"),
        ("path,label,Label\n0.jpg,sea,\n", f"{NO_CSV}it has 2 columns label)"),
        ("PK\x03\x04\x00[Content_Types].xml\udcff,", NO_CSV),
        ('path,label\n0.jpg,"sea\n', NO_CSV),
        (
            "path,label\n0.jpg,sea\na\x0b.jpg,sea\n",
            "names a\\x0b.jpg, which is the path of no",
        ),
        (
            "path,label\n0.jpg,sea\ncaf\udce9.jpg,sea\n",
            "names caf\\udce9.jpg, which is the path of no labelled photo of this run; correct it "
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
