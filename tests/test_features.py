"""
The features are right, computed once, kept, and never read wrong from a damaged file.
"""

import functools
import os
import shutil
import signal
import threading
import time
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import (
    CLASSES,
    POLICIES,
    CountPhotos,
    cell_sets,
    draw,
    flip,
    make_table,
    read_table,
    small_base_model,
    small_head,
    small_network,
)
from keras import layers
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from test_base_model import half_step
from test_photos import ODD_PHOTOS, UNREADABLE

import scenes
from scenes import (
    base_model,
    classifier,
    dataset,
    photos,
)
from scenes.features import (
    BUNDLED_FEATURES,
    extract_features,
    load_bundled_features,
    save_features,
    send_through,
)


def by_hand(photo, base):
    """Return the features of one photo as Keras's own pieces compute them."""
    shrinks = max(photo.shape[:2]) > base_model.IMAGE_SIZE
    resized = tf.image.resize(photo, (224, 224), antialias=shrinks)
    scaled = keras.applications.mobilenet_v2.preprocess_input(resized[tf.newaxis])
    return base(scaled, training=False).numpy()[0]


@pytest.fixture
def extract(drawn, base, tmp_path):
    """
    Return a function that reads the drawn photos as the notebook does, with a cache.
    """

    def run(images=None, base=base, **options):
        images = read_table(drawn) if images is None else images
        options = {"cache": tmp_path / "cache", "batch_size": 8, **options}
        return extract_features(images, base, **options)

    return run


# --- Photos through the base model ----------------------------------------------------


def test_features_equal_the_base_models_within_the_rounding(
    drawn, random_base_model, extract
):
    """Of photos that grow, that shrink, and that have the right size already."""
    folder = drawn / "seg_train" / "seg_train" / "sea"
    sizes = {
        "a": (224, 224),
        "b": (300, 100),
        "c": (90, 280),
        "d": (500, 400),
        "e": (150, 150),
    }
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        noise = default_rng(seed).integers(0, 256, (height, width, 3)).astype("uint8")
        mixed = (draw(seed, width=width, height=height) * 0.7 + noise * 0.3).astype(
            "uint8"
        )
        Image.fromarray(mixed).save(folder / f"{name}.png")
    images = read_table(drawn)
    images = images[images["path"].str.endswith(".png")]
    features = extract(images, random_base_model, batch_size=2)
    assert (features.shape, features.dtype) == ((5, 1280), np.float32)
    for row, path in zip(features, images["path"], strict=True):
        right = by_hand(photos.read_photo(drawn / path), random_base_model)
        assert (np.abs(row - right) <= half_step(right) + 1e-4).all()
    assert np.ptp(features, axis=0).mean() > 0.1


@pytest.mark.photos
def test_bundled_features_are_those_of_the_real_photos(
    bundled, real_photos, imagenet_base_model, tmp_path
):
    """Another machine's last digits may fall into the next step: it may be one off."""
    images, features = bundled
    sample = images.sample(24, random_state=0)
    sample["file"] = [str(real_photos / path) for path in sample["path"]]
    computed = extract_features(sample, imagenet_base_model, cache=tmp_path)
    right = features[sample.index]
    steps = [base_model.round_features(f).astype(int) for f in (computed, right)]
    assert np.abs(steps[0] - steps[1]).max() <= 1


def test_an_odd_photo_gives_the_features_of_its_pixels(base, tmp_path):
    for number, (write, _, _) in enumerate(ODD_PHOTOS.values()):
        write(tmp_path / f"{number}.jpg")
    images = make_table(["sea"] * len(ODD_PHOTOS))
    images["file"] = [str(tmp_path / path) for path in images["path"]]
    images["digest"] = dataset.digest_photos(images)[0]["digest"]
    features = extract_features(images, base, cache=tmp_path)
    for row, (kind, (_, right, tolerance)) in zip(
        features, ODD_PHOTOS.items(), strict=True
    ):
        expected = by_hand(right.astype("float32"), base)
        assert expected.max() > 0
        assert_allclose(row, expected, atol=0.05 + 0.1 * tolerance, err_msg=kind)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unreadable_photos_are_all_listed_in_one_error_before_the_work(
    drawn, extract, count
):
    folder = drawn / "seg_train" / "seg_train" / "sea"
    for kind, (write, _) in UNREADABLE.items():
        write(folder / f"{kind}.jpg")
    images = read_table(drawn)
    bad = images[images["digest"] == ""]
    assert (
        len(bad) == len(UNREADABLE) - 2
    )  # what has vanished and the folder are not listed
    with pytest.raises(
        ValueError, match=f"^{len(bad)} photo.s. cannot be read"
    ) as caught:
        extract(images)
    lines = (photos.printable(f"{row.path}: {row.problem}") for row in bad.itertuples())
    assert all(line in str(caught.value) for line in lines)
    assert count() == 0
    assert len(extract(images[images.digest != ""])) == len(images) - len(bad)


SPOILED = {
    "gone": (Path.unlink, "No such file"),
    "changed": (lambda path: Image.fromarray(draw(999)).save(path), "has changed"),
    "a text": (lambda path: path.write_bytes(b"text"), "no known format"),
}


@pytest.mark.parametrize("harm", SPOILED)
def test_a_photo_that_vanishes_or_changes_in_the_middle_is_named(
    drawn, extract, count, harm, monkeypatch
):
    """And the blocks before it are kept."""
    monkeypatch.setattr("scenes.features.BLOCK_BATCHES", 1)
    images, (spoil, said) = read_table(drawn), SPOILED[harm]
    path = drawn / images["path"].iloc[20]
    content = path.read_bytes()
    spoil(path)
    with pytest.raises(ValueError, match=f"{path.name}.* {said}"):
        extract(images)
    assert count() == 16
    path.write_bytes(content)
    assert_array_equal(extract(images), extract(images, cache=drawn / "new"))
    assert count() == len(images) - 16 + len(images)


class MakesNumbersOfNaN(layers.Layer):
    """As the activation does on some processors."""

    def call(self, x):
        return tf.where(tf.math.is_nan(x), 0.0, x)


@pytest.mark.parametrize(
    ("value", "layer"),
    [
        (np.nan, layers.Activation("linear")),
        (np.nan, MakesNumbersOfNaN()),
        (0, layers.Rescaling(np.inf)),
    ],
)
def test_a_base_model_that_gives_nan_is_refused(extract, value, layer):
    """Be it of a weight, which may be hidden, or of what the model computes."""
    broken = small_base_model(0)
    kernel, bias = broken.layers[-1].get_weights()
    bias[7] = value
    broken.layers[-1].set_weights([kernel, bias])
    broken = keras.Model(broken.input, layer(broken.output))
    with pytest.raises(ValueError, match="base model gives NaN"):
        extract(base=broken)


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_the_batch_size_changes_no_feature(extract, batch_size, tmp_path):
    other = extract(batch_size=batch_size, cache=tmp_path / "other")
    assert_array_equal(other, extract())


def test_no_photo_waits_in_memory_at_its_full_size(tmp_path, monkeypatch):
    """Of 16 photos, two are decoded at a time, as on two CPU cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pixels = draw(0, width=1000, height=750)
    Image.fromarray(pixels).save(tmp_path / "0.png", compress_level=1)
    for number in range(1, 16):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    paths, base = sorted(tmp_path.glob("*.png")), small_base_model(0)
    digest = photos.photo_digest(pixels)
    images = pd.DataFrame({"path": "", "file": list(map(str, paths)), "digest": digest})
    model = classifier.build_classifier(base, small_head(6), CLASSES)
    for read in (
        lambda: list(send_through(base, images, 32)),
        lambda: classifier.predict(model, paths),
    ):
        read()
        tracemalloc.start()
        read()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16 * pixels.nbytes


def test_photos_read_ahead_of_the_base_model_are_bounded(drawn, base, monkeypatch):
    """
    So memory grows by the output alone, though the base model be slower than the
    reading.
    """
    lock, read, done, ahead = threading.Lock(), [0], [0], []
    read_photo = photos.read_photo

    def counted_read(path):
        with lock:
            read[0] += 1
            ahead.append(read[0] - done[0])
        return read_photo(path)

    images = pd.concat([read_table(drawn)] * 2)
    monkeypatch.setattr(photos, "read_photo", counted_read)
    for batch in send_through(base, images, 8):
        time.sleep(0.02)
        done[0] += len(batch)
    assert read[0] == done[0] == len(images) > 100
    assert max(ahead) <= 3 * 8


# --- The cache ------------------------------------------------------------------------


def test_only_new_pixels_go_through_the_base_model(drawn, extract, count):
    """A changed photo does, its copy and another format of a known one do not."""
    extract()
    count()
    folder = drawn / "seg_test" / "seg_test" / "sea"
    Image.fromarray(draw(999)).save(folder / "0.jpg")
    Image.fromarray(photos.read_photo(folder / "2.jpg")).save(folder / "renamed.png")
    (folder / "2.jpg").unlink()
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    images = read_table(drawn)
    features = extract(images)
    assert count() == 1
    assert_array_equal(features, extract(images, cache=drawn / "new"))


def test_rows_follow_the_table_whatever_its_order(drawn, extract, count):
    images = read_table(drawn)
    features = extract(images)
    assert count() == len(images) == 6 * 9 + 3
    order = default_rng(0).permutation(len(images))[:30]
    assert_array_equal(extract(images.iloc[order]), features[order])
    assert count() == 0


def entries(cache):
    """Return the files of the cache but for those of locks."""
    return sorted(path for path in cache.iterdir() if path.suffix != ".lock")


def test_features_are_known_by_photo_in_whatever_table(drawn, extract, count, tmp_path):
    """What one table needs is not lost to the next; other tables are one entry."""
    images = read_table(drawn)
    sea, rest = images[images["label"] == "sea"], images[images["label"] != "sea"]
    extract(sea)
    extract(rest)
    assert count() == len(images)
    right = extract(images, cache=drawn / "new")
    count()
    assert_array_equal(extract(images), right)
    assert_array_equal(extract(sea), right[images["label"] == "sea"])
    assert count() == 0
    assert len({path.name[:25] for path in entries(tmp_path / "cache")}) == 1
    assert extract(images.iloc[:0]).shape == (0, 1280)
    assert extract(images.iloc[:0], cache=drawn / "none").shape == (0, 1280)


def test_what_was_done_before_an_interrupt_is_kept(
    extract, count, monkeypatch, tmp_path, drawn
):
    monkeypatch.setattr("scenes.features.BLOCK_BATCHES", 1)
    right = extract(cache=drawn / "uninterrupted")
    blocks, round_features = [], base_model.round_features

    def interrupt_in_the_third_block(features):
        blocks.append(len(features))
        if len(blocks) == 3:
            signal.raise_signal(signal.SIGINT)  # what Jupyter's stop button sends
        return round_features(features)

    monkeypatch.setattr(base_model, "round_features", interrupt_in_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        extract()
    assert len(entries(tmp_path / "cache")) == 2
    count()
    assert_array_equal(extract(), right)
    assert count() == len(right) - 2 * 8


def test_two_runs_at_once_in_one_cache_both_finish(drawn, extract, monkeypatch):
    """The second begins and ends while the first reads its photos."""
    images, read_photo = read_table(drawn), photos.read_photo
    right = extract(images, cache=drawn / "new")
    reading, go_on = threading.Event(), threading.Event()

    def wait_and_read(path):
        reading.set()
        go_on.wait(60)
        return read_photo(path)

    monkeypatch.setattr(photos, "read_photo", wait_and_read)
    found = []
    first = threading.Thread(target=lambda: found.append(extract(images)))
    first.start()
    reading.wait(60)
    monkeypatch.setattr(photos, "read_photo", read_photo)
    second = extract(images)
    assert first.is_alive()
    go_on.set()
    first.join()
    for features in (*found, second, extract(images)):
        assert_array_equal(features, right)


def test_a_run_with_other_weights_leaves_the_features_of_the_first(
    extract, count, monkeypatch
):
    """An interrupted one, too."""
    features = extract()
    other = extract(base=small_base_model(1))
    assert np.abs(other - features).max() > 0.1
    stop = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(base_model, "round_features", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(base=small_base_model(2))
    count()
    assert_array_equal(extract(), features)
    assert count() == 0


@pytest.mark.parametrize("number", range(3))
def test_a_base_model_with_another_array_of_weights_is_another(drawn, tmp_path, number):
    """Its first, its last, or one between."""
    images = read_table(drawn).iloc[:4]
    base = small_base_model(0, layers.Dense(3), CountPhotos())
    extract = functools.partial(extract_features, images, base, cache=tmp_path)
    before, seen = extract(), base.layers[2].seen
    weights = base.get_weights()
    place = (0, 2, len(weights) - 1)[number]
    weights[place] = weights[place] + 0.5
    base.set_weights(weights)
    seen.assign(0)
    assert not np.array_equal(extract(), before)
    assert seen.numpy() == len(images)


@pytest.mark.parametrize("name", scenes.VERSIONS)
def test_another_version_computes_again(extract, count, monkeypatch, name):
    features = extract()
    count()
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "VERSIONS", scenes.VERSIONS | {name: "99"})
        assert_array_equal(extract(), features)
        assert count() == len(features)
    extract()
    assert count() == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_features_are_computed_in_float32_whatever_a_cell_has_set(
    drawn, tmp_path, policy
):
    """Before or after the base model is built."""
    images, right = read_table(drawn).iloc[:8], small_network(0)
    extract = extract_features
    features = extract(images, right, cache=tmp_path / "right")
    assert features.std() > 0.1
    with cell_sets(policy):
        built = small_network(0)
        built.set_weights(right.get_weights())
        for name, base in (("before", built), ("after", right)):
            found = extract(images, base, cache=tmp_path / name)
            assert_array_equal(found, features)
            assert found.dtype == "float32"


def rewrite(path, **changed):
    """Write the arrays of a file again, some of them changed, or left out if None."""
    with np.load(path) as archive:
        arrays = {**archive, **changed}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


DAMAGES = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a changed byte": flip,
    "another shape": lambda path: rewrite(path, features=np.zeros((3, 7), "uint8")),
    "an array missing": lambda path: rewrite(path, digest=None),
}


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_cache_never_changes_the_features(
    extract, count, printed, tmp_path, harm, monkeypatch
):
    """Only the block that is damaged is computed again."""
    monkeypatch.setattr("scenes.features.BLOCK_BATCHES", 1)
    features = extract()
    DAMAGES[harm](entries(tmp_path / "cache")[3])
    for computed in (8, 0):
        count()
        assert_array_equal(extract(), features)
        assert count() in (computed, len(features) % 8 if computed else 0)
        assert ("computed again: " in printed()) == (computed > 0)


@pytest.mark.parametrize("file", ["bundled", "text", "arrays"])
def test_a_users_own_features_stay_as_they_are(extract, base, count, tmp_path, file):
    """Also under the name of an entry, where nothing is kept then."""
    right = extract()
    (entry,) = entries(tmp_path / "cache")
    paths = [tmp_path / "cache" / "features.npz", entry]
    for path in paths:
        if file == "bundled":
            shutil.copy(BUNDLED_FEATURES, path)
        elif file == "text":
            path.write_text("a letter")
        else:
            np.savez(path, format=np.zeros(3), classes=np.zeros(3), digest=["a"])
    before = [path.read_bytes() for path in paths]
    count()
    assert_array_equal(extract(), right)
    assert [path.read_bytes() for path in paths] == before
    assert count() == len(right)
    entry.unlink()
    assert_array_equal(extract(), right)
    assert entry.exists()


# --- The bundled features -------------------------------------------------------------


def test_the_bundled_features_are_those_of_all_labelled_photos(bundled):
    images, features = bundled
    counts = images.groupby(["split", "label"], observed=True).size()
    assert list(counts["train"]) == [2191, 2271, 2404, 2512, 2274, 2382]
    assert list(counts["test"]) == [437, 474, 553, 525, 510, 501]
    assert (features.shape, features.dtype) == ((17_034, 1280), np.float32)
    assert features.min() == 0
    assert features.max() <= 6
    assert images["path"].is_unique
    assert images["digest"].str.fullmatch("[0-9a-f]{32}").all()
    assert (features.std(axis=0) > 0).mean() > 0.99


def test_copies_have_the_same_bundled_features(bundled):
    images, features = bundled
    for rows in images.groupby("digest").indices.values():
        assert (features[rows] == features[rows[0]]).all()


def test_the_bundled_features_are_compact_and_need_no_pickle():
    assert BUNDLED_FEATURES.stat().st_size < 19e6
    with np.load(BUNDLED_FEATURES, allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} == {"i", "U", "u"}


@pytest.mark.parametrize(
    "classes", [["no", "yes"], [f"Größe {i}, <b>" for i in range(200)]]
)
def test_a_file_of_features_keeps_any_classes(classes, base, tmp_path):
    images, path = make_table(classes, classes), tmp_path / "features.npz"
    images["group"] = images["digest"].to_numpy()[::-1]
    rng = default_rng(0)
    X = base_model.STEPS[rng.integers(0, 256, (len(classes), 1280))]
    save_features(path, images, X, base)
    read, restored = load_bundled_features(path)
    assert_array_equal(restored, X)
    pd.testing.assert_frame_equal(
        read, images, check_dtype=False, check_categorical=False
    )
    assert list(read["label"].cat.categories) == classes


# What `files.read_arrays` cannot know.
MEANINGLESS = [
    ("label", -2),
    ("label", 6),
    ("split", -1),
    ("split", 4),
    ("classes", "sea"),
]
MEANINGLESS += [("format", 1), ("format", scenes.FEATURES_FORMAT + 1)]


def fill(path, name, value):
    """Write a file again with an array that holds one value."""
    with np.load(path) as archive:
        array = archive[name]
    rewrite(path, **{name: np.full_like(array, value)})


@pytest.mark.parametrize("harm", [*DAMAGES, *MEANINGLESS])
def test_a_damaged_file_of_features_is_refused_or_read_right(harm, base, tmp_path):
    path = tmp_path / "features.npz"
    images = make_table(["sea", "street", None])
    X = default_rng(0).uniform(0, 6, (3, 1280))
    save_features(path, images, X, base)
    load_bundled_features(path)
    DAMAGES[harm](path) if harm in DAMAGES else fill(path, *harm)
    with pytest.raises(ValueError, match=r"features\.npz"):
        load_bundled_features(path)


def test_the_bars_end_with_all_photos(extract, bars):
    extract()  # reads 57 photos, and sends them through the base model
    assert [bar.n for bar in bars] == [57, 57]
