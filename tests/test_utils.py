"""The helpers of the notebook: the table of the photos, and what is done with it."""

import shutil
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import requests
from conftest import draw, make_table, read_table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal
from PIL import Image

import scenes
import scenes.classifier
import utils
from scenes import evaluation, photos


def contents(folder: Path) -> dict[Path, tuple]:
    """Return what is known of each file below a folder: its time, size and bytes."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- The photos and what is wrong with them -------------------------------------------


def test_download_photos_returns_the_folder_that_kagglehub_made(drawn, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "kagglehub.dataset_download", lambda name: asked.append(name) or str(drawn)
    )
    assert utils.download_photos() == drawn
    assert asked == ["puneet6060/intel-image-classification"]


def test_a_download_without_network_is_one_sentence(monkeypatch):
    def fail(name):
        raise requests.ConnectionError(
            "HTTPSConnectionPool(host='api.kaggle.com', port=443)"
        )

    monkeypatch.setattr("kagglehub.dataset_download", fail)
    with pytest.raises(
        OSError, match=r"^Kaggle cannot be reached \(ConnectionError\): connect"
    ):
        utils.download_photos()


def test_a_folder_and_a_download_are_not_both_taken(drawn):
    with pytest.raises(ValueError, match="set PHOTOS or DOWNLOAD, not both"):
        utils.load_images(drawn, None, None, download=True)


@pytest.fixture
def copied(drawn):
    """
    Return the table of photos with copies: plain, under different labels, in two splits.
    """
    train, test = drawn / "seg_train" / "seg_train", drawn / "seg_test" / "seg_test"
    shutil.copy(train / "sea" / "0.jpg", train / "sea" / "copy.jpg")
    shutil.copy(train / "glacier" / "0.jpg", train / "mountain" / "glacier.jpg")
    shutil.copy(test / "street" / "0.jpg", train / "street" / "test.jpg")
    pixels = photos.read_photo(test / "forest" / "0.jpg")
    Image.fromarray(pixels).save(train / "buildings" / "forest.png")
    return read_table(drawn)


def test_the_audit_finds_duplicates_conflicting_labels_and_leakage(copied):
    findings = utils.audit_images(copied)
    assert list(findings.columns) == [
        "finding",
        "path",
        "label",
        "split",
        "digest",
        "problem",
    ]
    names = findings["path"].str.replace(r"(seg_\w+)/\1/", "", regex=True)
    found = {
        finding: set(names[rows.index]) for finding, rows in findings.groupby("finding")
    }
    labels = {"glacier/0.jpg", "mountain/glacier.jpg"}
    splits = {"street/0.jpg", "street/test.jpg"}
    both = {"forest/0.jpg", "buildings/forest.png"}
    assert found == {
        "duplicate": {"sea/0.jpg", "sea/copy.jpg"} | labels | splits | both,
        "conflicting labels": labels | both,
        "leakage": splits | both,
    }
    assert len(findings) == 8 + 4 + 4


def test_unreadable_photos_are_no_copies_of_each_other(drawn):
    for name in ("a.jpg", "b.jpg"):
        (drawn / "seg_train" / "seg_train" / "sea" / name).write_bytes(b"")
    findings = utils.audit_images(read_table(drawn))
    assert list(findings["finding"]) == ["unreadable", "unreadable"]


def test_drop_leaks_takes_out_what_another_split_is_judged_by():
    """
    Unreadable photos, which have no digest, are left to the error that names them.
    """
    fates = """
        a train goes, a validation goes, a test stays,
        b train goes, b validation stays,
        c train goes, c test stays, c prediction stays,
        d train stays, d train stays, e validation stays,
        - train stays, - validation stays, - test stays
    """
    rows = [fate.split() for fate in fates.split(",")]
    images = pd.DataFrame(rows, columns=["digest", "split", "fate"])
    images["digest"] = images["digest"].replace("-", "")
    images["label"] = np.where(images["split"] == "prediction", None, "sea")
    images["split"] = pd.Categorical(images["split"], scenes.SPLITS)
    left = utils.drop_leaks(images)
    assert_frame_equal(left, images[images["fate"] == "stays"])


def photos_in(**splits: str) -> pd.DataFrame:
    """Return a table of photos of two classes, A and b, that are known by a letter."""
    rows = [(letter, split) for split, letters in splits.items() for letter in letters]
    images = pd.DataFrame(rows, columns=["digest", "split"])
    labels = ["cats" if letter.isupper() else "dogs" for letter in images["digest"]]
    images["label"] = pd.Categorical(labels)
    images["split"] = pd.Categorical(images["split"], scenes.SPLITS)
    return images


@pytest.mark.parametrize(
    ("images", "said", "refused"),
    [
        (photos_in(train="ABCab", test="CDc"), "Left out 1 train photo(s): the", ""),
        (
            photos_in(train="ABab", validation="BCDbc", test="Dd"),
            "Left out 2 train and 1 validation photo(s): the same photos are in the",
            "",
        ),
        (photos_in(train="ABab", test="ABab"), "Left out 4 train", "no train .* cats"),
        (photos_in(train="ABab", validation="ab"), "Left out 2", "no train .* dogs"),
        (
            photos_in(train="Aa", validation="Bbc", test="Bc"),
            "Left out 2 validation photo(s): ",
            "no validation photo of cats is left, since .*; delete the",
        ),
        (photos_in(train="ABab", test="Cc"), "", ""),
    ],
)
def test_how_many_copies_are_left_out_is_said_and_no_class_vanishes(
    images, said, refused, printed
):
    if refused:
        with pytest.raises(ValueError, match=refused):
            utils.drop_leaks(images)
    else:
        utils.drop_leaks(images)
    out = printed()
    assert out.startswith(said)
    assert len(out.splitlines()) == bool(said)


def test_the_audit_finds_the_known_copies_by_the_bundled_digests(bundled):
    counts = utils.audit_images(bundled[0]).groupby("finding").size()
    found = {"duplicate": 36, "conflicting labels": 26, "leakage": 6}
    assert counts.to_dict() == found
    leaks = bundled[0].drop(utils.drop_leaks(bundled[0]).index)
    assert list(leaks["label"]) == ["buildings", "mountain", "street"]


@pytest.mark.photos
def test_what_the_audit_calls_copies_are_copies(bundled, real_photos):
    copies = utils.audit_images(bundled[0]).query("finding == 'duplicate'")
    for _, paths in copies.groupby("digest")["path"]:
        first, *others = (photos.read_photo(real_photos / path) for path in paths)
        assert others
        assert all(np.array_equal(first, other) for other in others)


# --- Shrinking and splitting ----------------------------------------------------------


@st.composite
def tables(draw_from):
    """
    Return a table of photos, some of them copies of others, and some without a label.
    """
    classes, splits = ["first", "second", "third"], ["train", "test", "prediction"]
    row = st.tuples(
        st.sampled_from(classes), st.sampled_from(splits), st.integers(0, 12)
    )
    rows = draw_from(st.lists(row, max_size=60))
    # Every class has enough different photos to be split.
    for number, label in enumerate(classes, start=1):
        rows += [(label, "train", 100 * number + i) for i in range(11)]
    rows = pd.DataFrame(rows, columns=["label", "split", "number"])
    rows = rows.sample(frac=1, random_state=draw_from(st.integers(0, 99)))
    labels = rows["label"].where(rows["split"] != "prediction")
    images = make_table(labels.to_numpy(), classes)
    images["split"] = pd.Categorical(rows["split"], scenes.SPLITS)
    images["digest"] = [f"{n:032}" for n in rows["number"]]
    of_a_patient = [n - (n % 100 == 1) for n in rows["number"]]  # two of one
    return images.assign(group=[f"{n:032}" for n in of_a_patient])


@settings(max_examples=20)
@given(tables(), st.integers(1, 15), st.integers(0, 3))
def test_shrink_keeps_every_nth_photo_of_each_class_and_split(images, factor, start):
    left = utils.shrink(images, factor, start=start)
    assert_frame_equal(left, images.loc[left.index])
    assert left.index.is_monotonic_increasing
    for key, rows in images.groupby(["split", "label"], observed=True):
        kept = left[(left["split"] == key[0]) & (left["label"] == key[1])]
        first = start % min(factor, len(rows))  # so that no class is lost
        assert list(kept.index) == list(rows.index[first::factor])
    assert left["label"].isna().sum() == images["label"].isna().sum()


SET_APART = {"test": utils.create_test, "validation": utils.create_validation}


@settings(max_examples=20)
@given(
    tables(),
    st.sampled_from(sorted(SET_APART)),
    st.sampled_from([0.1, 0.2, 0.25, 0.33, 0.5]),
    st.integers(0, 99),
)
def test_a_photo_is_never_parted_from_its_group(images, name, ratio, seed):
    images = images[images["split"] != "test"]
    split = SET_APART[name](images, ratio, seed=seed)
    moved = split["split"] == name
    assert moved.any()
    labelled = split[split["split"].isin(["train", name])]
    assert labelled.groupby("group")["split"].nunique().max() == 1
    assert (images["split"][moved] == "train").all()
    assert_frame_equal(split.loc[~moved, images.columns], images[~moved])
    kept = images.columns.drop("split")
    assert_frame_equal(split[kept], images[kept])
    assert_frame_equal(split, SET_APART[name](images, ratio, seed=seed))
    assert_frame_equal(split, SET_APART[name](split, ratio, seed=seed))


@settings(max_examples=20)
@given(
    st.lists(st.integers(10, 25), min_size=2, max_size=12),
    st.sampled_from(sorted(SET_APART)),
    st.sampled_from([0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]),
    st.integers(0, 99),
)
def test_the_same_share_of_each_class_is_set_apart_within_one_photo(
    sizes, name, ratio, seed
):
    classes = [f"class {i:02}" for i in range(len(sizes))]
    images = make_table(np.repeat(classes, sizes), classes)
    split = SET_APART[name](images, ratio, seed=seed)
    taken = split[split["split"] == name]["label"].value_counts()[classes]
    assert (np.abs(taken.to_numpy() - np.array(sizes) / round(1 / ratio)) < 1).all()


@pytest.mark.parametrize("name", SET_APART)
def test_a_split_that_is_given_is_left_as_it_is(drawn, name):
    images = read_table(drawn)
    images.loc[images.index[:3], "split"] = name
    assert_frame_equal(SET_APART[name](images)[images.columns], images)


@pytest.mark.parametrize("name", SET_APART)
def test_a_class_that_is_too_small_to_be_split_is_named(drawn, name):
    images = read_table(drawn)
    images = images[images["split"] == "train"].drop(
        images.index[images["label"] == "sea"][:2]
    )
    too_few = r"different photo\(s\), .* too few for 5 folds; add photos "
    with pytest.raises(ValueError, match=f"^sea has 3 {too_few}"):
        SET_APART[name](images, 0.2)
    with pytest.raises(ValueError, match=f"^sea has 0 {too_few}"):
        SET_APART[name](images[images["label"] != "sea"], 0.2)


@pytest.mark.parametrize("seed", [11, 41, 53])
def test_each_split_and_fold_has_each_class_though_few_photos_have_many_copies(seed):
    """7 different photos of a class are enough, however many copies some have."""
    copies = np.random.default_rng(seed).choice([1, 1, 1, 1, 10, 20], size=21)
    groups = np.repeat(np.arange(21), copies)
    images = pd.DataFrame({"group": groups, "split": "train"}).astype(str)
    images["label"] = pd.Categorical.from_codes(groups // 7, ["a", "b", "c"])
    images = utils.create_test(images, 0.2, seed=seed)
    images = utils.create_validation(images, 0.2, seed=seed)
    assert (images.groupby("split")["label"].nunique() == 3).all()
    rest = images[images["split"] != "test"]
    folds = utils.draw_folds(rest, 5, seed=seed)
    labels = rest["label"].to_numpy()
    assert all(len(set(labels[rows])) == 3 for pair in folds for rows in pair)


def test_a_share_next_to_nothing_is_answered_at_once(drawn):
    with pytest.raises(ValueError, match="too few for 1000000000000 folds"):
        utils.create_validation(read_table(drawn), 1e-12)


def test_an_impossible_share_is_refused_by_name(drawn):
    with pytest.raises(
        ValueError, match=r"test_ratio is 0.6; it must be a number above 0"
    ):
        utils.create_test(read_table(drawn), 0.6)


@pytest.mark.parametrize(
    ("name", "ratio", "said"),
    [
        (
            "test",
            0.2,
            "No test split found; using 6 of 30 training photos, a random 1/5 (ratio",
        ),
        ("validation", 0.2, "No validation split found; using 6 of 30 training photos"),
        (
            "validation",
            0.33,
            "No validation split found; using 10 of 30 training photos, a random 1/3 (",
        ),
    ],
)
def test_what_becomes_a_split_is_said(name, ratio, said, drawn, printed):
    images = read_table(drawn)
    printed()
    SET_APART[name](images[images["split"] == "train"], ratio)
    out = printed()
    assert out.startswith(said)
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("given", [True, False])
def test_a_validation_set_is_in_the_folds_if_it_was_drawn(given):
    """The folds are numbers of rows, whatever the index."""
    index = np.arange(100, 136)
    images = pd.DataFrame({"split": "train", "group": index.astype(str)}, index)
    images["label"] = pd.Categorical(list("ab") * 18)
    if given:
        images.loc[index % 3 == 0, "split"] = "validation"
    images = utils.create_validation(images, 0.5)
    expected = np.flatnonzero((index % 3 > 0) | (not given)).tolist()
    splits = utils.draw_folds(images, 3)
    assert not np.array_equal(splits[0][1], utils.draw_folds(images, 3, seed=1)[0][1])
    assert sorted(row for _, rows in splits for row in rows) == expected
    for training, rows in splits:
        assert sorted([*training, *rows]) == expected


def test_create_validation_chooses_other_photos_with_another_seed(drawn):
    images = read_table(drawn)
    splits = {
        tuple(utils.create_validation(images, seed=seed)["split"]) for seed in range(5)
    }
    assert len(splits) > 1


def test_no_helper_of_the_table_touches_a_file_or_the_table_it_is_given(copied, drawn):
    before, table = contents(drawn), copied.copy(deep=True)
    for images in (utils.shrink(utils.drop_leaks(copied), 2), copied):
        utils.audit_images(utils.create_validation(images, 0.5))
    assert contents(drawn) == before
    assert_frame_equal(copied, table)
    assert len(before) > 50


# --- Pictures -----------------------------------------------------------------------


@pytest.fixture
def gallery(tmp_path):
    """Return the paths of seven photos."""
    for seed in range(7):
        Image.fromarray(draw(seed)).save(tmp_path / f"{seed}.png")
    return [tmp_path / f"{seed}.png" for seed in range(7)]


def test_show_images_shows_each_photo_under_its_title(gallery):
    titles = [f"photo {i}" for i in range(7)]
    figure = utils.show_images(gallery, titles)
    assert len(figure.axes) == 7
    assert not any(axis.axison for axis in figure.axes)
    for seed, axis in enumerate(figure.axes):
        assert axis.get_title() == titles[seed]
        assert_array_equal(axis.images[0].get_array(), draw(seed))
    assert not plt.get_fignums(), "left for the notebook to show twice"


@pytest.mark.parametrize(
    ("lines", "size"), [(1, (150, 150)), (2, (100, 200)), (3, (300, 150))]
)
def test_show_images_hides_no_line_of_a_title(lines, size, tmp_path):
    """Titles lie inside the figure and below the photos of the row above."""
    Image.fromarray(draw(0, width=size[0], height=size[1])).save(tmp_path / "a.png")
    titles = ["\n".join(["glacier"] * lines)] * 14
    figure = utils.show_images([tmp_path / "a.png"] * 14, titles)
    figure.canvas.draw()
    pictures = [axis.get_window_extent() for axis in figure.axes[:14]]
    ceilings = [figure.bbox.y1] * 6 + [photo.y0 for photo in pictures]
    for axis, ceiling in zip(figure.axes[:14], ceilings, strict=False):
        assert axis.title.get_window_extent().y1 <= ceiling


@pytest.mark.filterwarnings("ignore:Glyph")  # drawn as boxes where no font has them
def test_show_images_takes_any_title_as_text(gallery):
    titles = ["$x$", "$\\frac{$", "caf\udce9.jpg", "<b>", "a, b", "река", "7"]
    figure = utils.show_images(gallery, titles)
    figure.canvas.draw()
    shown = [axis.get_title() for axis in figure.axes[:7]]
    assert shown == [*titles[:2], "caf\\udce9.jpg", *titles[3:]]


def test_photos_are_shown_if_there_are_files(gallery, printed):
    images = pd.DataFrame({"file": list(map(str, gallery))})
    assert len(utils.show_photos(images, ["a"] * 7).axes) == 7
    assert printed() == ""
    assert utils.show_photos(images[:0], []) is None
    assert printed() == "Nothing found.\n"
    assert utils.show_photos(images.assign(file=None), ["a"] * 7) is None
    assert printed().startswith("With the photos, ")


def test_examples_are_four_photos_of_the_table_or_those_that_scikit_learn_ships():
    images = pd.DataFrame({"path": [*"abcdefgh"], "label": "x"}, range(20, 28))
    images["file"] = "/" + images["path"]
    chosen = utils.choose_examples(images, shipped=False)
    assert len({*chosen["path"]}) == 4
    assert list(chosen["path"]) != [*"abcd"], "in no order"
    assert list(chosen["file"]) == list("/" + chosen["path"])
    assert len(utils.choose_examples(images[:3], shipped=False)) == 3
    shipped = utils.choose_examples(images, shipped=True)
    assert list(shipped["path"]) == ["china.jpg", "flower.jpg"]
    assert all(Path(file).exists() for file in shipped["file"])


def test_the_first_photos_of_a_folder_are_shown_under_their_predictions(
    classifier, tmp_path, monkeypatch, printed
):
    """The others are neither read nor drawn, and how many there are is said."""
    assert utils.show_predictions(classifier, tmp_path / "none") is None
    assert printed().startswith("Put photos into ")
    (tmp_path / "b.heic").touch()
    assert utils.show_predictions(classifier, tmp_path) is None
    said = printed()
    assert "b.heic (HEIC, raw" in said
    assert said.endswith(f"There is no photo in {tmp_path}/.\n")
    (tmp_path / "a.jpg").touch()
    assert utils.show_predictions(classifier, tmp_path) is None
    assert "a.jpg cannot be read as a photo: " in printed()
    for number in range(40):
        Image.fromarray(draw(number)).save(tmp_path / f"{number:02}.png")
    read, read_photo = [], photos.read_photo
    monkeypatch.setattr(
        photos, "read_photo", lambda path: read.append(path) or read_photo(path)
    )
    figure = utils.show_predictions(classifier, tmp_path)
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == len({Path(path).name for path in read}) == 36
    assert_array_equal(drawn[35].images[0].get_array(), draw(35))
    first = scenes.classifier.predict(classifier, tmp_path / "00.png")
    assert drawn[0].get_title().startswith(first["label"][0])
    assert "The first 36 of 41 photos are shown.\n" in printed()


# --- Tables and lines -----------------------------------------------------------------


def test_tables_show_shares_as_percent_counts_as_whole_numbers_and_no_nan():
    table = pd.DataFrame(
        {"share": [0.9423, np.nan], "photos": [3000.0, np.nan], "of": [0.5, 1e-5]}
    )
    shown = utils.percent(table, ["share"])
    assert shown["share"].tolist() == ["94.23%", ""]
    assert shown["photos"].tolist() == [3000, ""]
    assert str(shown["photos"][0]) == "3000"
    assert shown["of"].tolist() == [0.5, 1e-5]


@pytest.fixture
def search():
    """Return two settings in three folds, the best of which has an accuracy of 0.8."""
    rows = [(0.001, 0.1, decay, k, 1) for decay in (0, 1e-4) for k in (1, 2, 3)]
    results = pd.DataFrame(rows, columns=[*scenes.HYPERPARAMETERS, "fold", "epoch"])
    results["val_loss"] = 0.5
    results["val_accuracy"] = 0.7 + 1000 * results["weight_decay"]
    return results


@pytest.mark.parametrize(
    ("resumed", "line"),
    [
        (False, "One head: 5 s; 2 settings x 3 folds: 48 s"),
        (True, "The search was resumed: its time is not that of the whole search."),
    ],
)
def test_the_time_of_a_search_stands_beside_that_of_one_head(search, resumed, line):
    search.attrs = {"resumed": resumed, "seconds": 47.9}
    assert utils.describe_times(5.2, search) == line


def test_without_photos_a_search_is_described_beside_the_committed_one(search):
    line = "Head of this run: learning rate 0.001, dropout 0.1, weight decay 0.0001, "
    line += "1 epochs; balanced accuracy if selected by the other folds 80.00%"
    best = evaluation.best_hyperparameters(search)
    describe = partial(utils.describe_search, best, 0.8, "balanced accuracy")
    assert describe(with_photos=True) == line
    beside = describe(with_photos=False)
    committed = pd.read_csv(Path(utils.__file__).with_name("grid_search.csv"))
    accuracy = evaluation.accuracy_by_other_folds(committed)
    assert beside == f"{line} (committed search: accuracy {accuracy:.2%})"
