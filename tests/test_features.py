"""The features are right, computed once, kept, and never read wrong from a damaged file."""

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
from conftest import CLASSES, damage, draw, read_table, small_base_model, zip_edges
from PIL import Image
from test_base_model import half_step
from test_photos import ODD_PHOTOS, UNREADABLE

import scenes
import scenes.base_model
import scenes.features
import scenes.files
import scenes.folders
import scenes.heads
import scenes.photos
import scenes.tasks

ROOT = Path(__file__).parents[1]


def by_hand(photo: np.ndarray, base: keras.Model) -> np.ndarray:
    """Return the features of one photo as Keras's own pieces compute them."""
    shrinks = max(photo.shape[:2]) > scenes.base_model.IMAGE_SIZE
    resized = tf.image.resize(photo, (224, 224), antialias=shrinks)
    scaled = keras.applications.mobilenet_v2.preprocess_input(resized[tf.newaxis])
    return base(scaled, training=False).numpy()[0]


@pytest.fixture
def extract(drawn, base, tmp_path):
    """Return a function that reads the drawn photos as the notebook does, with a cache."""

    def run(images: pd.DataFrame | None = None, base: keras.Model = base, **options: object):
        images = read_table(drawn) if images is None else images
        options = {"cache": tmp_path / "cache.npz", "batch_size": 8, **options}
        return scenes.features.extract_features(images, drawn, base, **options)

    return run


# --- Photos through the base model ---------------------------------------------------------


def test_features_equal_the_base_models_within_the_rounding(drawn, random_base_model, extract):
    """Of photos that grow, that shrink, and that have the right size already."""
    folder = drawn / "seg_train" / "seg_train" / "sea"
    sizes = {"a": (224, 224), "b": (300, 100), "c": (90, 280), "d": (500, 400), "e": (150, 150)}
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype("uint8")
        mixed = (draw(seed, width=width, height=height) * 0.7 + noise * 0.3).astype("uint8")
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
    again = scenes.folders.list_images(real_photos).merge(sample[["path"]], on="path")
    again = again.join(scenes.photos.digest_photos(again, real_photos))
    expected = sample.set_index("path").loc[again["path"]]
    assert list(again["digest"]) == list(expected["digest"])
    cache = tmp_path / "cache.npz"
    rows = images.index[images["path"].isin(again["path"])]
    computed = scenes.features.extract_features(
        again, real_photos, imagenet_base_model, cache=cache
    )
    steps = [scenes.base_model.round_features(f).astype(int) for f in (computed, features[rows])]
    assert np.abs(steps[0] - steps[1]).max() <= 1
    for path, row in list(zip(again["path"], features[rows], strict=True))[:6]:
        right = by_hand(scenes.photos.read_photo(real_photos / path), imagenet_base_model)
        assert (np.abs(row - right) <= 1.1 * half_step(right) + 1e-4).all()


@pytest.mark.parametrize("kind", ODD_PHOTOS)
def test_an_odd_photo_gives_the_features_of_its_pixels(kind, base, tmp_path):
    write, right, tolerance = ODD_PHOTOS[kind]
    write(tmp_path / f"{kind}.jpg")
    images = pd.DataFrame({"path": [f"{kind}.jpg"]})
    for name, categories in {"label": CLASSES, "split": scenes.SPLITS}.items():
        images[name] = pd.Categorical([categories[0]], categories)
    images = images.join(scenes.photos.digest_photos(images, tmp_path))
    features = scenes.features.extract_features(
        images, tmp_path, base, cache=tmp_path / "cache.npz"
    )
    expected = by_hand(right.astype("float32"), base)
    assert expected.max() > 0
    np.testing.assert_allclose(features[0], expected, atol=0.05 + 0.1 * tolerance)


def test_odd_names_are_kept_from_the_table_to_the_cache(drawn, extract, tmp_path):
    folder = drawn / "seg_train" / "seg_train" / "sea"
    names = ["with spaces.jpg", "it's.jpg", '"quoted".jpg', "🏔.jpg", "two\nlines.jpg", "%s {0}.jpg"]
    for seed, name in enumerate(names):
        Image.fromarray(draw(1000 + seed)).save(folder / name)
    images = read_table(drawn)
    assert np.isfinite(extract(images)).all()
    kept, _ = scenes.features.load_bundled_features(tmp_path / "cache.npz")
    assert list(kept["path"]) == list(images["path"])
    assert set(names) <= set(kept["path"].str.rsplit("/", n=1).str[-1])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unreadable_photos_are_all_listed_in_one_error_before_the_work(drawn, extract, count):
    folder = drawn / "seg_train" / "seg_train" / "sea"
    for kind, (write, _) in UNREADABLE.items():
        write(folder / f"{kind}.jpg")
    (folder / "vanished.jpg").write_bytes(b"there when the folder is listed")
    images = scenes.folders.list_images(drawn)
    (folder / "vanished.jpg").unlink()
    images = images.join(scenes.photos.digest_photos(images, drawn))
    bad = images[images["digest"] == ""]
    assert len(bad) == len(UNREADABLE) - 1  # the folder is no photo at all
    with pytest.raises(ValueError, match=f"^{len(bad)} photo.s. cannot be read") as caught:
        extract(images)
    lines = (scenes.photos.printable(f"{row.path}: {row.problem}") for row in bad.itertuples())
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
    np.testing.assert_array_equal(extract(images), extract(images, cache=drawn / "new.npz"))
    assert count() == 3 + len(images)


def test_a_base_model_that_gives_nan_is_refused(extract):
    broken = small_base_model(0)
    kernel, bias = broken.layers[-1].get_weights()
    broken.layers[-1].set_weights([kernel, np.where(np.arange(1280) == 7, np.nan, bias)])
    with pytest.raises(ValueError, match="base model gives NaN"):
        extract(base=broken)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_no_feature(extract, batch_size, tmp_path):
    other = extract(batch_size=batch_size, cache=tmp_path / "other.npz")
    np.testing.assert_array_equal(other, extract())


@pytest.mark.parametrize("reader", ["extract_features", "predict"])
def test_memory_grows_neither_with_the_photos_nor_with_their_pixels(reader, base, tmp_path):
    """The peak of a process that takes 12 photos of 12 megapixels: 36 MB each when decoded."""
    pixels = draw(0, width=4000, height=3000)
    Image.fromarray(pixels).save(tmp_path / "0.png", compress_level=1)
    for number in range(1, 12):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    command = [sys.executable, "-c", MEMORY, reader, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    one, all_of_them = map(int, done.stdout.splitlines()[-1].split())
    assert all_of_them - one < 200  # MB


MEMORY = """
import os, resource, sys
from pathlib import Path
import pandas as pd
from conftest import CLASSES, small_head, small_base_model
from scenes import classifier, features, photos

reader, folder = sys.argv[1], Path(sys.argv[2])
paths, base = sorted(folder.glob("*.png")), small_base_model(0)
digest = photos.photo_digest(photos.read_photo(paths[0]))
model = classifier.build_classifier(base, small_head(6), CLASSES)
peaks = []
for n in (2, 12):
    if reader == "predict":
        assert len(classifier.predict(model, paths[:n])) == n
    else:
        list(features.send_through(base, paths[:n], [digest] * n, folder, 32, []))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print()
print(*peaks)
"""


def test_photos_read_ahead_of_the_base_model_are_bounded(drawn, base, monkeypatch):
    """So memory grows by the output alone, though the base model be slower than the reading."""
    lock, read, done, ahead = threading.Lock(), [0], [0], []
    read_photo = scenes.photos.read_photo

    def counted_read(path):
        with lock:
            read[0] += 1
            ahead.append(read[0] - done[0])
        return read_photo(path)

    monkeypatch.setattr(scenes.photos, "read_photo", counted_read)
    images = pd.concat([read_table(drawn)] * 4)
    paths, digests = list(images["path"]), list(images["digest"])
    read[0] = 0
    ahead.clear()
    for rows, _ in scenes.features.send_through(base, paths, digests, drawn, 8, []):
        time.sleep(0.02)
        done[0] += len(rows)
    assert read[0] == done[0] == len(images) > 200
    assert max(ahead) <= 3 * 8


# --- The cache ------------------------------------------------------------------------


def test_a_second_run_computes_nothing(extract, count):
    features = extract()
    assert count() == 6 * 9 + 3
    np.testing.assert_array_equal(extract(), features)
    assert count() == 0


def test_only_a_photo_whose_file_changed_is_computed_again(drawn, extract, count):
    images = read_table(drawn)
    features = extract(images)
    count()
    Image.fromarray(draw(999)).save(drawn / images["path"].iloc[7])
    again = extract()
    assert count() == 1
    same = np.arange(len(images)) != 7
    np.testing.assert_array_equal(again[same], features[same])
    assert np.abs(again[7] - features[7]).max() > 0.1


def test_a_photo_is_known_by_its_pixels_not_by_its_name_or_format(drawn, extract, count):
    features = extract()
    count()
    path = drawn / "seg_test" / "seg_test" / "sea" / "2.jpg"
    Image.fromarray(scenes.photos.read_photo(path)).save(path.with_suffix(".png"))
    path.unlink()
    np.testing.assert_array_equal(extract(), features)
    assert count() == 0


def test_copies_go_through_the_base_model_once(drawn, extract, count):
    folder = drawn / "seg_train" / "seg_train" / "sea"
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    images = read_table(drawn)
    features = extract(images)
    assert count() == len(images) - 1
    rows = images["path"].str.contains(r"seg_train/sea/(?:0|copy)\.").to_numpy()
    np.testing.assert_array_equal(*features[rows])


def test_rows_follow_the_table_whatever_its_order(drawn, extract, count):
    images = read_table(drawn)
    features = extract(images)
    count()
    order = np.random.default_rng(0).permutation(len(images))[:30]
    np.testing.assert_array_equal(extract(images.iloc[order]), features[order])
    assert count() == 0


def test_the_cache_holds_the_table_in_the_format_of_the_bundled_features(drawn, extract, tmp_path):
    images = read_table(drawn)
    features = extract(images)
    kept, X = scenes.features.load_bundled_features(tmp_path / "cache.npz")
    np.testing.assert_array_equal(X, features)
    pd.testing.assert_frame_equal(kept, images, check_dtype=False)


@pytest.mark.parametrize("batches", [1, 3])
def test_what_was_done_before_an_interrupt_is_kept(
    extract, count, monkeypatch, tmp_path, drawn, batches
):
    monkeypatch.setattr(scenes.features, "BLOCK_BATCHES", 1)
    right = extract(cache=drawn / "uninterrupted.npz")
    total = count()
    progress, left = scenes.tasks.progress, iter(range(batches))

    def interrupting(*args):
        bar = progress(*args)
        update = bar.update

        def interrupt_in_the_middle(n=1):
            update(n)
            if next(left, None) == batches - 1:
                signal.raise_signal(signal.SIGINT)  # what Jupyter's stop button sends

        if "base model" in args[1]:
            bar.update = interrupt_in_the_middle
        return bar

    monkeypatch.setattr(scenes.tasks, "progress", interrupting)
    with pytest.raises(KeyboardInterrupt):
        extract()
    kept, X = scenes.features.load_bundled_features(tmp_path / "cache.npz")
    assert len(kept) >= 8 * batches
    rows = read_table(drawn)["path"].isin(kept["path"]).to_numpy()
    np.testing.assert_array_equal(X, right[rows])
    count()
    np.testing.assert_array_equal(extract(), right)
    assert count() == total - len(kept)


def test_a_second_run_at_the_same_time_is_refused(extract, tmp_path):
    with (
        scenes.files.locked(tmp_path / "cache.npz"),
        pytest.raises(RuntimeError, match=r"another run is writing .*cache\.npz; wait"),
    ):
        extract()
    assert len(extract()) > 0


def test_a_cache_of_other_weights_is_computed_again_with_a_word(extract, count, base, capsys):
    features = extract()
    other = extract(base=small_base_model(1))
    assert "computed again" in capsys.readouterr().out
    assert np.abs(other - features).max() > 0.1
    count()
    np.testing.assert_array_equal(extract(), features)
    assert count() == len(features)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def rewrite(path: Path, /, **changed: np.ndarray | None) -> None:
    """Write the arrays of a file again, some of them changed, or left out if None."""
    with np.load(path, allow_pickle=True) as archive:
        arrays = {**archive, **changed}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def make_format_2(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {"trunk" if k == "base_model" else k: v for k, v in archive.items()}
    np.savez(path, **arrays | {"format": np.array(2)})


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        flip,
        make_format_2,
        lambda path: rewrite(path, format=np.array(scenes.FORMAT + 1)),
        lambda path: rewrite(path, digest=None),
    ],
    ids=["cut off", "bit flipped", "format 2", "other version", "array missing"],
)
def test_a_damaged_cache_is_computed_again_with_a_word(extract, count, capsys, tmp_path, harm):
    features = extract()
    harm(tmp_path / "cache.npz")
    count()
    np.testing.assert_array_equal(extract(), features)
    assert count() == len(features)
    assert "The features are computed again: " in capsys.readouterr().out
    np.testing.assert_array_equal(extract(), features)
    assert count() == 0


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
        np.savez(path, features=np.zeros(3), digest=["a"])
    before = path.read_bytes()
    count()
    with pytest.raises(
        ValueError, match=r"cache\.npz is no cache of features, and is not replaced"
    ):
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


@pytest.mark.parametrize("classes", [["no", "yes"], [f"Größe {i}, <b>" for i in range(200)]])
def test_a_file_of_features_keeps_any_classes(classes, tmp_path):
    images = pd.DataFrame({"path": [f"{c}/a.jpg" for c in classes], "label": classes})
    images["label"] = pd.Categorical(images["label"], classes)
    images["split"] = pd.Categorical(["train"] * len(classes), scenes.SPLITS)
    images = images.assign(digest=[f"{i:032x}" for i in range(len(classes))], problem="")
    rounded = np.zeros((len(classes), 1280), "uint8")
    scenes.features._write_features(tmp_path / "features.npz", images, rounded, "trunk")
    read, _ = scenes.features.load_bundled_features(tmp_path / "features.npz")
    pd.testing.assert_frame_equal(read, images, check_dtype=False, check_categorical=False)
    assert list(read["label"].cat.categories) == classes


def test_missing_bundled_features_are_an_error_of_their_own(tmp_path):
    with pytest.raises(FileNotFoundError):
        scenes.features.load_bundled_features(tmp_path / "none.npz")


# --- Damaged files --------------------------------------------------------------------

ROWS = 3


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """Return the path of a file of features with three rows, its bytes, table and features."""
    path = tmp_path_factory.mktemp("small") / "features.npz"
    images = pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in range(ROWS)],
            "label": pd.Categorical(["sea", "street", None], CLASSES),
            "split": pd.Categorical(["train", "test", "prediction"], scenes.SPLITS),
            "digest": [f"{i:032x}" for i in range(ROWS)],
        }
    )
    rounded = np.random.default_rng(0).integers(0, 256, (ROWS, 1280)).astype("uint8")
    scenes.features._write_features(path, images, rounded, "trunk")
    return path, path.read_bytes(), *scenes.features.load_bundled_features(path)


def read_or_refuse(path: Path, images: pd.DataFrame, features: np.ndarray) -> bool:
    """Return whether a file is refused; if it is not, it must hold what it held."""
    try:
        read, restored = scenes.features.load_bundled_features(path)
    except ValueError as error:
        assert path.name in str(error)  # noqa: PT017
        return True
    pd.testing.assert_frame_equal(read, images)
    np.testing.assert_array_equal(restored, features)
    return False


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_file_of_features_is_refused_or_read_right(small_file, tmp_path, seed):
    """200 cases: cut off anywhere, or with bytes changed in the arrays and the headers."""
    _, good, images, features = small_file
    rng, edges = np.random.default_rng(seed), zip_edges(good)
    path = tmp_path / "features.npz"
    refused = 0
    for _ in range(100):
        path.write_bytes(damage(good, rng, edges))
        refused += read_or_refuse(path, images, features)
    assert refused > 70


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_cache_never_changes_the_features(
    small_file, tmp_path, monkeypatch, capsys, seed
):
    """500 cases through `extract_features`, in which only the base model's work is left out."""
    _, good, images, features = small_file
    asked = []

    def compute(base, paths, digests, photos, batch_size, failed):
        asked.append(len(digests))
        rows = [list(images["digest"]).index(digest) for digest in digests]
        yield np.arange(len(digests)), features[rows]

    monkeypatch.setattr(scenes.features, "send_through", compute)
    monkeypatch.setattr(scenes.features, "weights_digest", lambda base: "trunk")
    monkeypatch.setattr(scenes.base_model, "fold_batch_norm", lambda base: base)
    rng, edges = np.random.default_rng(100 + seed), zip_edges(good)
    cache, refused = tmp_path / "cache.npz", 0
    for _ in range(100):
        cache.write_bytes(damage(good, rng, edges))
        try:
            read = scenes.features.extract_features(images, tmp_path, None, cache=cache)
            np.testing.assert_array_equal(read, features)
        except ValueError as error:
            assert "is no cache of features" in str(error)  # noqa: PT017
            refused += 1
    computed = sum(n > 0 for n in asked)
    assert computed + refused > 70
    assert refused < 20
    assert capsys.readouterr().out.count("computed again") == computed


@pytest.mark.parametrize(
    ("name", "value"),
    [("label", -2), ("label", 6), ("split", -1), ("split", 4), ("classes", "sea"), ("format", 1)],
)
def test_values_that_mean_nothing_are_refused(small_file, tmp_path, name, value):
    """What `files.read_arrays` cannot know; its own tests are those of types, shapes, pickles."""
    path = tmp_path / "features.npz"
    path.write_bytes(small_file[1])
    with np.load(path) as archive:
        wrong = np.full_like(archive[name], value)
    rewrite(path, **{name: wrong})
    assert read_or_refuse(path, *small_file[2:])
