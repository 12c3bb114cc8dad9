"""
The features are right, computed once, kept, and never read wrong from a damaged file.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import CLASSES, draw, read_table, small_base_model
from PIL import Image
from test_base_model import half_step
from test_photos import ODD_PHOTOS, UNREADABLE

import scenes
import scenes.base_model
import scenes.dataset
import scenes.features
import scenes.files
import scenes.folders
import scenes.heads
import scenes.photos
import scenes.progress

ROOT = Path(__file__).parents[1]


def make_table(classes: list[str], labels: list[str | None]) -> pd.DataFrame:
    """Return a table of training photos that are called 0.jpg, 1.jpg and so on."""
    numbers = range(len(labels))
    return pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in numbers],
            "label": pd.Categorical(labels, classes),
            "split": pd.Categorical(["train"] * len(labels), scenes.SPLITS),
            "file": None,
            "digest": [f"{i:032x}" for i in numbers],
            "problem": "",
        }
    )


def by_hand(photo: np.ndarray, base: keras.Model) -> np.ndarray:
    """Return the features of one photo as Keras's own pieces compute them."""
    shrinks = max(photo.shape[:2]) > scenes.base_model.IMAGE_SIZE
    resized = tf.image.resize(photo, (224, 224), antialias=shrinks)
    scaled = keras.applications.mobilenet_v2.preprocess_input(resized[tf.newaxis])
    return base(scaled, training=False).numpy()[0]


@pytest.fixture
def extract(drawn, base, tmp_path):
    """
    Return a function that reads the drawn photos as the notebook does, with a cache.
    """

    def run(
        images: pd.DataFrame | None = None, base: keras.Model = base, **options: object
    ):
        images = read_table(drawn) if images is None else images
        options = {"cache": tmp_path / "cache.npz", "batch_size": 8, **options}
        return scenes.features.extract_features(images, base, **options)

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
        noise = (
            np.random.default_rng(seed)
            .integers(0, 256, (height, width, 3))
            .astype("uint8")
        )
        mixed = (draw(seed, width=width, height=height) * 0.7 + noise * 0.3).astype(
            "uint8"
        )
        Image.fromarray(mixed).save(folder / f"{name}.png")
    images = read_table(drawn)
    images = images[images["path"].str.endswith(".png")]
    features = extract(images, random_base_model, batch_size=2)
    assert (features.shape, features.dtype) == ((5, 1280), np.float32)
    for row, path in zip(features, images["path"], strict=True):
        right = by_hand(scenes.photos.read_photo(drawn / path), random_base_model)
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
    computed = scenes.features.extract_features(
        sample, imagenet_base_model, cache=tmp_path / "cache.npz"
    )
    right = features[sample.index]
    steps = [scenes.base_model.round_features(f).astype(int) for f in (computed, right)]
    assert np.abs(steps[0] - steps[1]).max() <= 1


def test_an_odd_photo_gives_the_features_of_its_pixels(base, tmp_path):
    for number, (write, _, _) in enumerate(ODD_PHOTOS.values()):
        write(tmp_path / f"{number}.jpg")
    images = make_table(CLASSES, ["sea"] * len(ODD_PHOTOS))
    images["file"] = [str(tmp_path / path) for path in images["path"]]
    images["digest"] = scenes.dataset.digest_photos(images)[0]["digest"]
    features = scenes.features.extract_features(
        images, base, cache=tmp_path / "cache.npz"
    )
    for row, (kind, (_, right, tolerance)) in zip(
        features, ODD_PHOTOS.items(), strict=True
    ):
        expected = by_hand(right.astype("float32"), base)
        assert expected.max() > 0
        np.testing.assert_allclose(
            row, expected, atol=0.05 + 0.1 * tolerance, err_msg=kind
        )


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
    lines = (
        scenes.photos.printable(f"{row.path}: {row.problem}")
        for row in bad.itertuples()
    )
    assert all(line in str(caught.value) for line in lines)
    assert count() == 0
    assert len(extract(images[images.digest != ""])) == len(images) - len(bad)


def test_photos_that_vanish_or_change_in_the_middle_are_all_listed_and_the_rest_is_kept(
    drawn, extract, count
):
    images = read_table(drawn)
    gone, changed, broken = images["path"].iloc[[3, 20, 40]]
    original = {path: (drawn / path).read_bytes() for path in (gone, changed, broken)}
    (drawn / gone).unlink()
    Image.fromarray(draw(999)).save(drawn / changed)
    (drawn / broken).write_bytes(b"text")
    with pytest.raises(ValueError, match=r"^3 photo\(s\) failed") as caught:
        extract(images)
    assert all(path in str(caught.value) for path in original)
    assert f"{changed} has changed" in str(caught.value)
    assert count() == len(images) - 3
    for path, content in original.items():
        (drawn / path).write_bytes(content)
    np.testing.assert_array_equal(
        extract(images), extract(images, cache=drawn / "new.npz")
    )
    assert count() == 3 + len(images)


def test_a_base_model_that_gives_nan_is_refused(extract):
    broken = small_base_model(0)
    kernel, bias = broken.layers[-1].get_weights()
    broken.layers[-1].set_weights(
        [kernel, np.where(np.arange(1280) == 7, np.nan, bias)]
    )
    with pytest.raises(ValueError, match="base model gives NaN"):
        extract(base=broken)


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_the_batch_size_changes_no_feature(extract, batch_size, tmp_path):
    other = extract(batch_size=batch_size, cache=tmp_path / "other.npz")
    np.testing.assert_array_equal(other, extract())


def test_memory_grows_neither_with_the_photos_nor_with_their_pixels(tmp_path):
    """
    The peak of a process that takes 12 photos of 12 megapixels: 36 MB each when
    decoded.
    """
    pixels = draw(0, width=4000, height=3000)
    Image.fromarray(pixels).save(tmp_path / "0.png", compress_level=1)
    for number in range(1, 12):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    said = subprocess.check_output(command, env=environment, text=True, timeout=300)
    peaks = list(map(int, said.splitlines()[-1].split()))
    assert peaks[1] - peaks[0] < 200, "MB, of extract_features"
    assert peaks[3] - peaks[2] < 200, "MB, of predict"


MEMORY = """
import resource, sys
from pathlib import Path
import pandas as pd
from conftest import CLASSES, small_head, small_base_model
from scenes import classifier, features, photos

folder = Path(sys.argv[1])
paths, base = sorted(folder.glob("*.png")), small_base_model(0)
images = pd.DataFrame({"path": "", "file": list(map(str, paths))})
images["digest"] = photos.photo_digest(photos.read_photo(paths[0]))
model = classifier.build_classifier(base, small_head(6), CLASSES)
readers = [
    lambda n: list(features.send_through(base, images[:n], 32, [])),
    lambda n: classifier.predict(model, paths[:n]),
]
peaks = []
for read in readers:
    for n in (2, 12):
        read(n)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print()
print(*peaks)
"""


def test_photos_read_ahead_of_the_base_model_are_bounded(drawn, base, monkeypatch):
    """
    So memory grows by the output alone, though the base model be slower than the
    reading.
    """
    lock, read, done, ahead = threading.Lock(), [0], [0], []
    read_photo = scenes.photos.read_photo

    def counted_read(path):
        with lock:
            read[0] += 1
            ahead.append(read[0] - done[0])
        return read_photo(path)

    monkeypatch.setattr(scenes.photos, "read_photo", counted_read)
    images = pd.concat([read_table(drawn)] * 4)
    read[0] = 0
    ahead.clear()
    for rows, _ in scenes.features.send_through(base, images, 8, []):
        time.sleep(0.02)
        done[0] += len(rows)
    assert read[0] == done[0] == len(images) > 200
    assert max(ahead) <= 3 * 8


# --- The cache ------------------------------------------------------------------------


def test_only_new_pixels_go_through_the_base_model(drawn, extract, count):
    """A changed photo does, its copy and another format of a known one do not."""
    extract()
    count()
    folder = drawn / "seg_test" / "seg_test" / "sea"
    Image.fromarray(draw(999)).save(folder / "0.jpg")
    Image.fromarray(scenes.photos.read_photo(folder / "2.jpg")).save(
        folder / "renamed.png"
    )
    (folder / "2.jpg").unlink()
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    images = read_table(drawn)
    features = extract(images)
    assert count() == 1
    np.testing.assert_array_equal(features, extract(images, cache=drawn / "new.npz"))


def test_rows_follow_the_table_whatever_its_order(drawn, extract, count):
    images = read_table(drawn)
    features = extract(images)
    assert count() == len(images) == 6 * 9 + 3
    order = np.random.default_rng(0).permutation(len(images))[:30]
    np.testing.assert_array_equal(extract(images.iloc[order]), features[order])
    assert count() == 0


def test_the_cache_holds_the_table_in_the_format_of_the_bundled_features(
    drawn, extract, tmp_path
):
    folder = drawn / "seg_train" / "seg_train" / "sea"
    for name in [
        "with spaces.jpg",
        '"quoted".jpg',
        "🏔.jpg",
        "two\nlines.jpg",
        "%s {0}.jpg",
    ]:
        (folder / name).write_bytes((folder / "0.jpg").read_bytes())
    images = read_table(drawn)
    assert len(images) == 6 * 9 + 3 + 5
    features = extract(images)
    kept, X = scenes.features.load_bundled_features(tmp_path / "cache.npz")
    np.testing.assert_array_equal(X, features)
    assert kept["file"].isna().all()
    images["file"] = None
    pd.testing.assert_frame_equal(kept, images, check_dtype=False)


def test_what_was_done_before_an_interrupt_is_kept(
    extract, count, monkeypatch, tmp_path, drawn
):
    monkeypatch.setattr(scenes.features, "BLOCK_BATCHES", 1)
    right = extract(cache=drawn / "uninterrupted.npz")
    blocks, round_features = [], scenes.base_model.round_features

    def interrupt_in_the_third_block(features):
        blocks.append(len(features))
        if len(blocks) == 3:
            signal.raise_signal(signal.SIGINT)  # what Jupyter's stop button sends
        return round_features(features)

    monkeypatch.setattr(
        scenes.base_model, "round_features", interrupt_in_the_third_block
    )
    with pytest.raises(KeyboardInterrupt):
        extract()
    kept, X = scenes.features.load_bundled_features(tmp_path / "cache.npz")
    assert len(kept) == 2 * 8
    rows = read_table(drawn)["path"].isin(kept["path"]).to_numpy()
    np.testing.assert_array_equal(X, right[rows])
    count()
    np.testing.assert_array_equal(extract(), right)
    assert count() == len(right) - len(kept)


def test_a_second_run_at_the_same_time_is_refused(extract, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes.files, "WAIT", 0)
    with (
        scenes.files.locked(tmp_path / "cache.npz"),
        pytest.raises(RuntimeError, match=r"another run is writing .*cache\.npz; wait"),
    ):
        extract()
    assert len(extract()) > 0


def test_a_cache_of_other_weights_is_computed_again_with_a_word(
    extract, count, base, capsys
):
    features = extract()
    other = extract(base=small_base_model(1))
    assert "computed again" in capsys.readouterr().out
    assert np.abs(other - features).max() > 0.1
    count()
    np.testing.assert_array_equal(extract(), features)
    assert count() == len(features)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def rewrite(path: Path, **changed: np.ndarray | None) -> None:
    """Write the arrays of a file again, some of them changed, or left out if None."""
    with np.load(path) as archive:
        arrays = {**archive, **changed}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def make_format_2(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {"trunk" if k == "base_model" else k: v for k, v in archive.items()}
    np.savez(path, **arrays | {"format": np.array(2)})


DAMAGES = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a changed byte": flip,
    "another shape": lambda path: rewrite(path, features=np.zeros((3, 7), "uint8")),
    "an array missing": lambda path: rewrite(path, digest=None),
    "format 2": make_format_2,
}


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_cache_never_changes_the_features(
    extract, count, capsys, tmp_path, harm
):
    features = extract()
    DAMAGES[harm](tmp_path / "cache.npz")
    for computed in (len(features), 0):
        count()
        np.testing.assert_array_equal(extract(), features)
        assert count() == computed
        assert ("computed again: " in capsys.readouterr().out) == (computed > 0)


@pytest.mark.parametrize("file", ["bundled", "text", "arrays"])
def test_a_file_that_is_no_cache_of_features_stays_as_it_is(
    extract, count, monkeypatch, tmp_path, file
):
    path = tmp_path / "cache.npz"
    if file == "bundled":
        extract()
        monkeypatch.setattr(scenes.features, "BUNDLED_FEATURES", path)
    elif file == "text":
        path.write_text("a letter")
    else:
        np.savez(path, format=np.zeros(3), features=np.zeros(3), digest=["a"])
    before = path.read_bytes()
    count()
    with pytest.raises(ValueError, match=r"cache\.npz is no cache of features"):
        extract(base=small_base_model(1))
    assert path.read_bytes() == before
    assert count() == 0


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
    assert scenes.features.BUNDLED_FEATURES.stat().st_size < 19e6
    with np.load(scenes.features.BUNDLED_FEATURES, allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} == {"i", "U", "u"}


@pytest.mark.parametrize(
    "classes", [["no", "yes"], [f"Größe {i}, <b>" for i in range(200)]]
)
def test_a_file_of_features_keeps_any_classes(classes, tmp_path):
    images, rounded = (
        make_table(classes, classes),
        np.zeros((len(classes), 1280), "uint8"),
    )
    scenes.features._write_features(tmp_path / "features.npz", images, rounded, "trunk")
    read, _ = scenes.features.load_bundled_features(tmp_path / "features.npz")
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


def fill(path: Path, name: str, value: int | str) -> None:
    """Write a file again with an array that holds one value."""
    with np.load(path) as archive:
        array = archive[name]
    rewrite(path, **{name: np.full_like(array, value)})


@pytest.mark.parametrize("harm", [*DAMAGES, *MEANINGLESS])
def test_a_damaged_file_of_features_is_refused_or_read_right(harm, tmp_path):
    path = tmp_path / "features.npz"
    images = make_table(CLASSES, ["sea", "street", None])
    rounded = np.random.default_rng(0).integers(0, 256, (3, 1280)).astype("uint8")
    scenes.features._write_features(path, images, rounded, "trunk")
    scenes.features.load_bundled_features(path)
    DAMAGES[harm](path) if harm in DAMAGES else fill(path, *harm)
    with pytest.raises(ValueError, match=r"features\.npz"):
        scenes.features.load_bundled_features(path)
