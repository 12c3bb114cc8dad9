"""The head is dropout and a dense softmax with L2, and trains as Keras trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from search import make_photos

import scenes
import scenes.features
import scenes.grid_search
import scenes.heads

N, EPOCHS = 100, 8
SETTING = {"learning_rate": 0.005, "dropout": 0.3, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def photos():
    return make_photos(N)


@pytest.fixture(scope="module")
def trained(photos):
    """Return head and history of a training whose last batch is a partial one."""
    return scenes.heads.train_head(
        *photos, **SETTING, validation=photos, epochs=EPOCHS, batch_size=64, seed=3
    )


def entropy_and_accuracy(weights, features, labels):
    """Return the mean cross-entropy and the accuracy of a dense softmax, by NumPy."""
    kernel, bias = (w.astype("float64") for w in weights)
    scores = features.astype("float64") @ kernel + bias
    scores -= scores.max(axis=1, keepdims=True)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    right = chances.argmax(axis=1) == labels
    return -np.log(chances[np.arange(len(labels)), labels]).mean(), right.mean()


# --- build_head -----------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 6, 37])
def test_a_head_gives_a_probability_for_each_class_by_a_dense_softmax(photos, n_classes):
    head = scenes.heads.build_head(n_classes, dropout=0.5, weight_decay=0.01)
    chances = head.predict(photos[0], verbose=0)
    assert chances.shape == (N, n_classes)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    kernel, bias = head.get_weights()
    scores = np.exp(photos[0] @ kernel + bias)
    np.testing.assert_allclose(chances, scores / scores.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_head_penalizes_the_squared_weights_but_not_the_bias():
    head = scenes.heads.build_head(6, dropout=0.0, weight_decay=0.01)
    kernel, bias = head.get_weights()
    head.set_weights([kernel, bias + 100])
    assert sum(map(float, head.losses)) == pytest.approx(0.01 * np.square(kernel).sum(), rel=1e-5)


def test_a_head_drops_its_share_of_the_features_in_training_only():
    dropout = scenes.heads.build_head(6, dropout=0.3, weight_decay=0.0).layers[0]
    ones = np.ones((200, scenes.N_FEATURES), "float32")
    np.testing.assert_array_equal(dropout(ones, training=False), ones)
    dropped = np.asarray(dropout(ones, training=True))
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.7, rtol=1e-6)


# --- train_head -----------------------------------------------------------------------


def test_the_history_has_a_row_for_each_epoch_from_1(trained):
    _, history = trained
    assert list(history.columns) == ["epoch", *scenes.METRICS]
    assert list(history["epoch"]) == list(range(1, EPOCHS + 1))
    assert np.isfinite(history.to_numpy()).all()


def test_validation_figures_are_those_of_the_head_at_the_end_of_the_epoch(trained, photos):
    head, history = trained
    entropy, accuracy = entropy_and_accuracy(head.get_weights(), *photos)
    penalty = SETTING["weight_decay"] * np.square(head.get_weights()[0]).sum()
    assert history["val_accuracy"].iloc[-1] == pytest.approx(accuracy, abs=1e-6)
    assert history["val_loss"].iloc[-1] == pytest.approx(entropy + penalty, abs=1e-4)


def test_a_head_learns(trained):
    _, history = trained
    assert history["loss"].is_monotonic_decreasing
    assert history["val_accuracy"].iloc[-1] > 0.9


def test_without_validation_the_same_training_has_no_validation_columns(trained, photos):
    head, history = scenes.heads.train_head(
        *photos, **SETTING, epochs=EPOCHS, batch_size=64, seed=3
    )
    assert list(history.columns) == ["epoch", "loss", "accuracy"]
    for weights, same in zip(head.get_weights(), trained[0].get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same)


def test_the_seed_decides_the_weights(trained, photos):
    arguments = {**SETTING, "validation": photos, "epochs": EPOCHS, "batch_size": 64}
    head, history = scenes.heads.train_head(*photos, **arguments, seed=np.int64(3))
    np.testing.assert_array_equal(head.get_weights()[0], trained[0].get_weights()[0])
    assert history.equals(trained[1])
    other, _ = scenes.heads.train_head(*photos, **arguments, seed=4)
    assert np.abs(other.get_weights()[0] - head.get_weights()[0]).max() > 0.01


def test_a_batch_larger_than_the_data_is_one_batch_of_all(photos):
    """One step from the initial weights, whose loss is also computed by NumPy."""
    setting = {**SETTING, "dropout": 0.0, "epochs": 1, "seed": 5}
    larger, history = scenes.heads.train_head(*photos, **setting, batch_size=10**6)
    whole, same = scenes.heads.train_head(*photos, **setting, batch_size=N)
    np.testing.assert_array_equal(larger.get_weights()[0], whole.get_weights()[0])
    assert history.equals(same)

    keras.utils.set_random_seed(5)
    initial = scenes.heads.build_head(
        6, dropout=0.0, weight_decay=SETTING["weight_decay"]
    ).get_weights()
    entropy, accuracy = entropy_and_accuracy(initial, *photos)
    penalty = SETTING["weight_decay"] * np.square(initial[0]).sum()
    assert history["loss"].item() == pytest.approx(entropy + penalty, abs=1e-4)
    assert history["accuracy"].item() == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("after", ["a batch", "validation"])
def test_a_training_that_was_stopped_leaves_nothing_to_the_next(after, photos, monkeypatch):
    features, labels = photos
    arguments = {**SETTING, "epochs": 2, "batch_size": 64, "seed": 3}
    whole = scenes.heads.train_head(*photos, **arguments, validation=photos)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    hook = {"a batch": "on_train_batch_end", "validation": "on_test_batch_end"}[after]
    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.CallbackList, hook, stop)
        with pytest.raises(KeyboardInterrupt):
            scenes.heads.train_head(*photos, **arguments, validation=(features[:9], labels[:9]))
    again = scenes.heads.train_head(*photos, **arguments, validation=photos)
    assert again[1].equals(whole[1])
    for weights, same in zip(again[0].variables, whole[0].variables, strict=True):
        np.testing.assert_array_equal(weights, same)


def test_heads_of_the_same_setting_are_trained_by_one_model_and_stay_apart(photos):
    arguments = {**SETTING, "epochs": 1, "batch_size": 64}
    scenes.heads._compiled.cache_clear()
    first, _ = scenes.heads.train_head(*photos, **arguments, seed=1)
    before = first.get_weights()
    second, _ = scenes.heads.train_head(*photos, **arguments, seed=2)
    assert scenes.heads._compiled.cache_info().misses == 1
    for weights, same, others in zip(
        first.get_weights(), before, second.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weights, same)
        assert np.abs(weights - others).max() > 0


# --- Data that cannot be trained on ---------------------------------------------------


def with_value(array, value):
    array = array.copy()
    array[3] = value
    return array


DATA_FAULTS = {
    "NaN in the features": (
        lambda x, y: (with_value(x, np.nan), y),
        "features hold NaN or infinity, first in row 3",
    ),
    "infinity in the features": (
        lambda x, y: (with_value(x, np.inf), y),
        "features hold NaN or infinity, first in row 3",
    ),
    "a feature beyond float32": (
        lambda x, y: (with_value(x.astype("float64"), 1e300), y),
        "features hold NaN or infinity, first in row 3",
    ),
    "too few features": (
        lambda x, y: (x[:, :-1], y),
        r"features have the shape \(100, 1279\); it must be \(n, 1280\)",
    ),
    "the features of one photo": (
        lambda x, y: (x[0], y),
        r"features have the shape \(1280,\); it must be \(n, 1280\)",
    ),
    "no photos": (
        lambda x, y: (x[:0], y[:0]),
        r"features have the shape \(0, 1280\); it must be \(n, 1280\), n from 1",
    ),
    "a label too few": (
        lambda x, y: (x, y[:-1]),
        r"labels have the shape \(99,\); it must be \(100,\)",
    ),
    "labels in two dimensions": (
        lambda x, y: (x, y[:, None]),
        r"labels have the shape \(100, 1\); it must be \(100,\)",
    ),
    "a missing label": (lambda x, y: (x, with_value(y, -1)), "labels hold -1; they must be "),
    "half a label": (
        lambda x, y: (x, with_value(y.astype("float64"), 1.5)),
        "labels hold 1.5; they must be ",
    ),
    "a label that is NaN": (
        lambda x, y: (x, with_value(y.astype("float64"), np.nan)),
        "labels hold nan; they must be ",
    ),
    "an infinite label": (
        lambda x, y: (x, with_value(y.astype("float64"), np.inf)),
        "labels hold inf; they must be ",
    ),
    "names of classes": (
        lambda x, y: (x, np.array(["sea", "street"])[y % 2]),
        "labels hold 'sea'; they must be ",
    ),
}


@pytest.fixture
def doors(photos, tmp_path, monkeypatch):
    """Return functions that take features and labels, and fail when the work begins."""

    def work(*arguments, **options):
        pytest.fail("the work has begun")

    monkeypatch.setattr(keras.Model, "fit", work)
    csv = tmp_path / "new" / "grid_search.csv"
    return {
        "train_head": lambda x, y: scenes.heads.train_head(x, y, **SETTING, epochs=1),
        "train_head's validation": lambda x, y: scenes.heads.train_head(
            *photos, **SETTING, validation=(x, y), epochs=1
        ),
        "grid_search": lambda x, y: scenes.grid_search.grid_search(
            x,
            y,
            learning_rates=[0.001],
            dropouts=[0.1],
            weight_decays=[0.0],
            epochs=1,
            folds=2,
            csv=csv,
        ),
    }


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("fault", DATA_FAULTS)
@pytest.mark.parametrize("door", ["train_head", "train_head's validation", "grid_search"])
def test_impossible_data_are_refused_before_any_work(door, fault, doors, photos, tmp_path):
    make, message = DATA_FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        doors[door](*make(*photos))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("door", ["train_head", "grid_search"])
def test_each_class_needs_a_photo_to_train_on(door, doors, photos):
    features, labels = photos
    without_2 = labels != 2
    message = r"labels go up to 5 but never hold 2; give each class a photo, or leave it out"
    with pytest.raises(ValueError, match=message):
        doors[door](features[without_2], labels[without_2])
    with pytest.raises(ValueError, match="labels hold one class only"):
        doors[door](features, np.zeros_like(labels))


def test_validation_photos_are_of_the_classes_that_train(doors, photos):
    features, labels = photos
    with pytest.raises(ValueError, match="labels hold 6; they must be 0 to 5"):
        doors["train_head's validation"](features, with_value(labels, 6))


def test_validation_photos_need_not_be_of_all_classes(photos):
    features, labels = photos
    some = labels < 2
    head, history = scenes.heads.train_head(
        *photos, **SETTING, validation=(features[some], labels[some]), epochs=1
    )
    assert head.output_shape == (None, 6)
    assert np.isfinite(history["val_loss"]).all()


@pytest.mark.parametrize("n_classes", [2, 37])
def test_a_head_learns_as_many_classes_as_the_labels_count(n_classes):
    features, labels = make_photos(300, n_classes=n_classes)
    head, history = scenes.heads.train_head(
        features, labels.astype("int8"), **SETTING, epochs=EPOCHS, batch_size=32
    )
    assert head.output_shape == (None, n_classes)
    assert history["accuracy"].iloc[-1] > 0.9


def test_rounded_features_and_others_are_not_mixed():
    features, labels = make_photos(20)
    rounded = scenes.features.round_features(features)
    setting = {"learning_rate": 0.001, "dropout": 0.5, "weight_decay": 0.01, "epochs": 1}
    with pytest.raises(ValueError, match=r"training are uint8, those for validation float32"):
        scenes.heads.train_head(rounded, labels, **setting, validation=(features, labels))


def test_a_batch_of_rounded_features_is_restored_to_the_same_numbers_as_the_table():
    steps = np.arange(256, dtype="uint8")[None]
    restored = tf.function(scenes.heads.restored)(steps)
    np.testing.assert_array_equal(restored, scenes.features.restore_features(steps))
