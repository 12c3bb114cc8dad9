"""The head is dropout and a dense softmax with L2, and trains as Keras trains."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import (
    CLASSES,
    POLICIES,
    assert_same_arrays,
    cell_sets,
    small_base_model,
    small_head,
)
from numpy.testing import assert_allclose
from search import SMALL, fit_plainly, make_photos, make_unequal

from scenes import base_model, classifier, grid_search, heads
from scenes.settings import HeadOptions

pytestmark = pytest.mark.quick

N = 100
OPTIONS = HeadOptions(
    learning_rate=0.005,
    dropout=0.3,
    weight_decay=0.01,
    epochs=8,
    batch_size=64,  # the last batch is a partial one
    seed=3,
)


@pytest.fixture(scope="module")
def photos():
    return make_photos(N)


@pytest.fixture(scope="module")
def trained(photos):
    return heads.train_head(*photos, OPTIONS)


def assert_same_weights(head, other):
    assert_same_arrays(head.get_weights(), other.get_weights())


def build_head(n_classes):
    shape = base_model.N_FEATURES, n_classes
    return heads.build_head(*shape, dropout=0.3, weight_decay=0.01)


@pytest.mark.parametrize("n_classes", [2, 37])
def test_a_head_is_dropout_and_a_dense_softmax_with_a_penalty(photos, n_classes):
    """The squared weights are penalized, the bias is not."""
    head = build_head(n_classes)
    dropout, _ = head.layers
    assert dropout.rate == 0.3
    kernel, bias = head.get_weights()
    head.set_weights([kernel, bias + np.arange(n_classes)])
    assert sum(map(float, head.losses)) == pytest.approx(
        0.01 * np.square(kernel).sum(), rel=1e-5
    )
    scores = np.exp(photos[0] @ kernel + np.arange(n_classes))
    expected = scores / scores.sum(axis=1, keepdims=True)
    assert_allclose(head.predict(photos[0], verbose=0), expected, atol=1e-5)


def accuracy(head, photos):
    X, y = photos
    return np.mean(head.predict(X, verbose=0).argmax(axis=1) == y)


def test_a_head_learns_and_the_same_seed_gives_the_same_weights(trained, photos):
    assert accuracy(trained, photos) > 0.9
    again = heads.train_head(*photos, replace(OPTIONS, seed=np.int64(3)))
    assert_same_weights(again, trained)


def test_another_seed_gives_other_weights(trained, photos):
    other = heads.train_head(*photos, replace(OPTIONS, seed=4))
    assert np.abs(other.get_weights()[0] - trained.get_weights()[0]).max() > 0.01


def test_heads_of_one_kind_share_a_graph_and_of_the_last_kind_alone(photos):
    graph_of = heads._graph_of
    graph_of.cache_clear()
    for changed in ({"seed": 5}, {"epochs": 1}, {"dropout": 0.5}, {"dropout": 0.3}):
        heads.train_head(*photos, replace(OPTIONS, **{"epochs": 2} | changed))
    found = graph_of.cache_info()
    assert (found.hits, found.misses, found.currsize) == (1, 3, 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_it_computes_in_float32_whatever_a_cell_has_set(policy, trained, photos):
    """And leaves it as it was; a classifier that is built is float32, too."""
    heads._graph_of.cache_clear()
    parts = small_base_model(0), small_head(6)
    with cell_sets(policy):
        keras.config.set_floatx("float64")
        head = heads.train_head(*photos, OPTIONS)
        built = classifier.build_classifier(*parts, CLASSES)
        assert keras.config.floatx() == "float64"
    assert_same_weights(head, trained)
    assert built.output["probabilities"].dtype == "float32"
    layers = [*head.layers, built.get_layer("scaling"), built.get_layer("temperature")]
    assert {layer.compute_dtype for layer in layers} == {"float32"}


def test_a_batch_larger_than_the_data_is_one_batch_of_all(photos):
    larger, whole = (
        heads.train_head(*photos, replace(OPTIONS, epochs=1, batch_size=size))
        for size in (10**6, N)
    )
    assert_same_weights(larger, whole)


@pytest.mark.parametrize("n_classes", [2, 37])
def test_a_head_learns_as_many_classes_as_the_labels_count(n_classes):
    features, labels = make_photos(300, n_classes=n_classes)
    options = replace(OPTIONS, batch_size=32)
    head = heads.train_head(features, labels.astype("int8"), options)
    assert head.output_shape == (None, n_classes)
    assert accuracy(head, (features, labels)) > 0.9


# --- Class weights --------------------------------------------------------------------


def test_class_weights_train_as_those_of_a_plain_fit():
    photos = make_unequal(200)
    weighted = {"class_weight": "balanced", "epochs": 3, "batch_size": 24}
    head = heads.train_head(*photos, replace(OPTIONS, **weighted))
    keras.utils.set_random_seed(OPTIONS.seed)
    plain = build_head(6)
    fit_plainly(plain, photos, photos, learning_rate=OPTIONS.learning_rate, **weighted)
    assert_allclose(head.get_weights()[0], plain.get_weights()[0], atol=1e-6)


# --- Data that cannot be trained on ---------------------------------------------------


def with_value(array, value):
    array = array.copy()
    array[3] = value
    return array


DATA_FAULTS = {
    "NaN": (
        lambda X, y: (with_value(X, np.nan), y),
        "X holds NaN or infinity, first in row 3",
    ),
    "beyond float32": (
        lambda X, y: (with_value(X.astype("float64"), 1e300), y),
        "X holds NaN",
    ),
    "one image": (lambda X, y: (X[0], y), r"X \(1280,\) and y \(100,\) must"),
    "no images": (lambda X, y: (X[:0], y[:0]), r"X \(0, 1280\) and y \(0,\) must"),
    "a label too few": (
        lambda X, y: (X, y[:-1]),
        r"and y \(99,\) must be \(n, n_features\)",
    ),
    "a missing label": (
        lambda X, y: (X, with_value(y, -1)),
        "y holds -1 to 5; it must hold",
    ),
    "names": (
        lambda X, y: (X, np.array(["sea", "street"])[y % 2]),
        "y holds 'sea' to 'street'",
    ),
}


@pytest.fixture
def doors(photos, tmp_path, monkeypatch):
    """Return functions that take features and labels, and fail when the work begins."""

    def work(*arguments, **options):
        pytest.fail("the work has begun")

    monkeypatch.setattr(keras.Model, "fit", work)
    train = heads.train_head
    files = {"cache": tmp_path / "new", "csv": tmp_path / "new.csv"}
    search = grid_search.grid_search
    return {
        "train_head": lambda X, y: train(X, y, OPTIONS),
        "grid_search": lambda X, y: search(X, y, SMALL, [], **files),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 1.0),
        ("epochs", 0),
        ("class_weight", "equal"),
        ("learning_rate", "1"),
    ],
)
def test_impossible_options_are_refused_by_name_when_they_are_made(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; it must be "):
        replace(OPTIONS, **{name: value})


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("fault", DATA_FAULTS)
@pytest.mark.parametrize("door", ["train_head", "grid_search"])
def test_impossible_data_are_refused_before_any_work(
    door, fault, doors, photos, tmp_path
):
    make, message = DATA_FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        doors[door](*make(*photos))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("door", ["train_head", "grid_search"])
def test_each_class_needs_a_photo_to_train_on(door, doors, photos):
    features, labels = photos
    with pytest.raises(ValueError, match="y never holds class 2, which needs an image"):
        doors[door](features[labels != 2], labels[labels != 2])
    with pytest.raises(ValueError, match="y never holds class 1"):
        doors[door](features, np.zeros_like(labels))


def test_the_bar_ends_with_all_epochs(photos, bars):
    heads.train_head(*photos, OPTIONS)
    assert [bar.n for bar in bars] == [8]
