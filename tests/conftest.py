"""
What the tests share: drawn photos, small models, disks that fill, and the real photos.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from numpy.random import default_rng
from numpy.testing import assert_array_equal
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import scenes  # isort: skip  (first: it keeps TensorFlow's logs out of the output)

import keras
import tensorflow as tf
from keras import layers

import scenes.classifier
from scenes import (
    base_model,
    chrome,
    dataset,
    evaluation,
    features,
    folders,
    plots,
    progress,
)
from scenes.base_model import IMAGE_SIZE, N_FEATURES

# The same cases in each run, and no time limit for one: CI machines stall.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("same")

CLASSES = ["buildings", "forest", "glacier", "mountain", "sea", "street"]


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """
    Return the probabilities of the committed model before it was trained again, on the
    validation photos, and the numbers of their classes.
    """
    file = ROOT / "results" / "validation_predictions.csv"
    table = pd.read_csv(file)
    selected = evaluation.compare_models(table).index[0]
    rows = table[table["model"] == selected]
    return rows[CLASSES].to_numpy(), rows["label"].map(CLASSES.index).to_numpy()


def find_browser() -> str | None:
    """Return the path of a Chrome or Chromium, None where there is none."""
    names = (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
        "chrome",
    )
    told = os.environ.get("BROWSER_PATH")
    return (
        shutil.which(told)
        if told
        else next(filter(None, map(shutil.which, names)), None)
    )


def pytest_configure(config: pytest.Config) -> None:
    given = os.environ.get("INTEL_PHOTOS")
    if given and not Path(given).is_dir():
        raise pytest.UsageError(
            f"INTEL_PHOTOS names {given}, which is no folder: mend or unset it"
        )
    # Started in the background (nohup, `pytest &`), a process ignores what the tests
    # send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Keras turns TensorFlow's arrays into numpy's in a way that numpy 2 finds old.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation:DeprecationWarning"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("photos") and not os.environ.get("INTEL_PHOTOS"):
        pytest.skip(
            "the environment variable INTEL_PHOTOS names no folder of real photos"
        )
    if item.get_closest_marker("browser") and not find_browser():
        pytest.skip("there is no Chrome or Chromium")


# --- Photos ---------------------------------------------------------------------------


def draw(seed: int, *, width: int = 40, height: int = 30) -> np.ndarray:
    """Return the pixels of a photo: 3 x 4 fields of random colours."""
    fields = default_rng(seed).integers(0, 256, (3, 4, 3)).astype("uint8")
    return np.array(
        Image.fromarray(fields).resize((width, height), Image.Resampling.NEAREST)
    )


@pytest.fixture(scope="session")
def drawn_once(tmp_path_factory):
    """
    Draw a data set in Kaggle's layout: 5 training and 4 test photos a class, 3 others.
    """
    root = tmp_path_factory.mktemp("drawn")
    seed = 0
    counts = {f"seg_train/seg_train/{label}": 5 for label in CLASSES}
    counts |= {f"seg_test/seg_test/{label}": 4 for label in CLASSES} | {
        "seg_pred/seg_pred": 3
    }
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw(seed)).save(root / folder / f"{number}.jpg")
            seed += 1
    return root


@pytest.fixture
def drawn(drawn_once, tmp_path):
    """Return the folder of a drawn data set that the test may change."""
    return Path(shutil.copytree(drawn_once, tmp_path / "photos"))


def read_table(photos: Path):
    """Return the table of the photos with digests; groups are of equal pixels."""
    images = folders.list_images(photos)
    digests, _ = dataset.digest_photos(images)
    return images.join(digests).assign(group=digests["digest"])


def make_table(labels, classes=CLASSES):
    """
    Return a table of training photos, all different, called 0.jpg, 1.jpg and so on.
    """
    digests = [f"{number:032}" for number in range(len(labels))]
    return pd.DataFrame(
        {
            "path": [f"{number}.jpg" for number in range(len(labels))],
            "label": pd.Categorical(labels, classes),
            "split": pd.Categorical(["train"] * len(labels), scenes.SPLITS),
            "file": None,
            "digest": digests,
            "group": digests,
            "problem": "",
        }
    )


@pytest.fixture(scope="module")
def table():
    """Return a table of four training photos a class."""
    return make_table(np.repeat(CLASSES, 4))


@pytest.fixture(scope="session")
def real_photos():
    """Return the folder of the real photos; only for tests marked `photos`."""
    return folders.find_photos()


# --- Models ---------------------------------------------------------------------------


class CountPhotos(layers.Layer):
    """
    Passes its input on and counts the photos in it, outside of the model's weights.
    """

    seen = tf.Variable(0, trainable=False, name="seen")

    def call(self, x):
        self.seen.assign_add(tf.shape(x)[0])
        return x

    def compute_output_shape(self, shape):
        return shape


def small_base_model(seed: int, *first: layers.Layer) -> keras.Model:
    """
    Return a model in the place of MobileNetV2 that tells photos apart and is fast.
    """
    photos = x = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    spread = keras.initializers.RandomNormal(stddev=2.0, seed=seed)
    dense = layers.Dense(N_FEATURES, activation="relu6", kernel_initializer=spread)
    for layer in (
        *first,
        layers.AveragePooling2D(112),
        layers.Flatten(),
        dense,
    ):
        x = layer(x)
    return keras.Model(photos, x)


def small_head(classes: int) -> keras.Sequential:
    """Return a head with dropout that tells the features of photos apart."""
    spread = keras.initializers.RandomNormal(stddev=0.05, seed=0)
    dense = layers.Dense(classes, activation="softmax", kernel_initializer=spread)
    return keras.Sequential([keras.Input((N_FEATURES,)), layers.Dropout(0.1), dense])


def spread_weights(layer: layers.Layer, rng: np.random.Generator) -> None:
    """
    Draw a convolution's weights as He does: Keras's own shrink what passes, layer by
    layer.
    """
    shape = layer.kernel.shape
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    inputs = shape[0] * shape[1] * (1 if depthwise else shape[2])
    layer.set_weights([rng.normal(0, np.sqrt(2 / inputs), shape)])


def small_network(seed: int) -> keras.Model:
    """
    Return the last layers of MobileNetV2, by kind and by name, on what a photo is in 7
    x 7.

    Frozen; BatchNormalization has statistics that matter; features spread over 0 to 6.
    """
    rng = default_rng(seed)
    photos = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = layers.AveragePooling2D(32)(photos)
    convolutions = {
        "block_15_project": layers.Conv2D(160, 1, use_bias=False),
        "block_16_expand": layers.Conv2D(24, 1, use_bias=False),
        "block_16_depthwise": layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        "block_16_project": layers.Conv2D(32, 1, use_bias=False),
        "Conv_1": layers.Conv2D(N_FEATURES, 1, use_bias=False),
    }
    for name, layer in convolutions.items():
        layer.name = name
        norm = layers.BatchNormalization(name=f"{name}_BN")
        x = norm(layer(x))
        spread_weights(layer, rng)
        gamma, variance = rng.uniform(0.8, 1.2, (2, *norm.gamma.shape))
        beta, mean = rng.normal(0, 0.1, (2, *norm.gamma.shape))
        norm.set_weights([gamma, beta, mean, variance])
        if not name.endswith("project"):
            x = layers.ReLU(6.0, name=f"{name}_relu")(x)
    model = keras.Model(photos, layers.GlobalAveragePooling2D()(x))
    model.trainable = False
    return model


@pytest.fixture(scope="session")
def base():
    """Return a small base model whose photos are counted in `CountPhotos.seen`."""
    return small_base_model(0, CountPhotos())


@pytest.fixture
def count(base):
    """
    Return a function that counts the photos through the base model since its last call.
    """
    seen = base.layers[1].seen

    def photos() -> int:
        number = int(seen.numpy())
        seen.assign(0)
        return number

    photos()
    return photos


@pytest.fixture(scope="session")
def random_base_model():
    """Return MobileNetV2 with random weights whose features spread over 0 to 6."""
    model = base_model.build_base_model(None)
    rng = default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            spread_weights(layer, rng)
    return model


@pytest.fixture(scope="session")
def imagenet_base_model():
    """Return the real base, from weights that Keras has downloaded before."""
    if not base_model.IMAGENET_WEIGHTS.exists():
        pytest.skip("the ImageNet weights are not in Keras's cache")
    return base_model.build_base_model("imagenet")


@pytest.fixture(scope="session")
def classifier():
    """Return a small classifier, photo in and probabilities out."""
    return scenes.classifier.build_classifier(
        small_base_model(0), small_head(6), CLASSES
    )


@pytest.fixture(scope="session")
def bundled():
    """Return the committed table and features of the labelled photos, as float32."""
    return features.load_bundled_features()


POLICIES = ["mixed_float16", "mixed_bfloat16", "float64"]


@contextlib.contextmanager
def cell_sets(policy):
    """Give what a reader's cell may set, and take it back."""
    keras.config.set_dtype_policy(policy)
    if policy == "float64":
        keras.config.set_floatx(policy)
    try:
        yield
        assert keras.config.dtype_policy().name == policy, "as the reader has set it"
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def assert_same_arrays(found, right):
    """Assert that two lists, as of weights, hold the same arrays, to the last bit."""
    for one, other in zip(found, right, strict=True):
        assert_array_equal(one, other)


# --- Files ----------------------------------------------------------------------------


class Payload:
    """An object whose pickle, when it is loaded, makes a file."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


@pytest.fixture
def small_disk(tmp_path):
    """
    Mount a disk of 96 KB and return its folder and a function that makes it read-only.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("a small disk can only be mounted by root")

    def make_read_only() -> None:
        subprocess.run(
            ["mount", "-o", "remount,ro", str(folder)], timeout=30, check=True
        )

    yield folder, make_read_only
    subprocess.run(["umount", "-l", str(folder)], timeout=30, check=True)


def damage(
    good: bytes, rng: np.random.Generator, edges: list[int] | None = None
) -> bytes:
    """
    Return a file's bytes, cut off somewhere or with one to eight of them changed.

    Where `edges` are given, half of the changed bytes lie in the 60 behind one of them,
    so that not all hits are in the large arrays.
    """
    if rng.random() < 0.3:
        return good[: rng.integers(len(good))]
    bad = bytearray(good)
    for _ in range(rng.integers(1, 9)):
        place = rng.integers(len(good))
        if edges and rng.random() < 0.5:
            place = min(rng.choice(edges) + rng.integers(60), len(good) - 1)
        bad[place] ^= rng.integers(1, 256)
    return bytes(bad)


def flip(path: Path, place: int | None = None) -> None:
    """Change a bit of a file, of the byte in its middle if no place is given."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def zip_edges(good: bytes) -> list[int]:
    """Return where the headers of a zip file begin."""
    marks = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
    return [i for i in range(len(good)) if good[i : i + 4] in marks]


@pytest.fixture
def printed(capsys):
    """Return a function that returns what was printed since its last call."""
    return lambda: capsys.readouterr().out


@pytest.fixture
def shown(monkeypatch):
    """Return the list of what `plots.show` shows; no browser is started for it."""
    outputs = []
    monkeypatch.setattr(plots, "get_ipython", lambda: True)
    monkeypatch.setattr(plots, "display", lambda data, raw: outputs.append(data))
    monkeypatch.setattr(chrome, "draw", lambda figure: (None, "No Chrome."))
    return outputs


@pytest.fixture
def bars(monkeypatch):
    """Return the list of the progress bars that are drawn from now on."""
    drawn, bar = [], progress.bar

    def draw_bar(*arguments):
        drawn.append(bar(*arguments))
        return drawn[-1]

    monkeypatch.setattr(progress, "bar", draw_bar)
    return drawn
