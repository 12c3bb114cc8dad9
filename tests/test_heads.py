"""The head is dropout and a dense softmax with L2, and trains as Keras trains."""

import functools
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from search import make_photos, make_unequal
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight

import scenes
import scenes.base_model
import scenes.grid_search
import scenes.heads
import scenes.side_by_side

pytestmark = pytest.mark.quick

N, EPOCHS = 100, 8
build_head = functools.partial(scenes.heads.build_head, scenes.base_model.N_FEATURES)


SETTING = {"learning_rate": 0.005, "dropout": 0.3, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def photos():
    return make_photos(N)


@pytest.fixture(scope="module")
def trained(photos):
    """Return head and history of a training whose last batch is a partial one."""
    return scenes.heads.train_head(
        *photos, **SETTING, validation_data=photos, epochs=EPOCHS, batch_size=64, seed=3
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
    head = build_head(n_classes, dropout=0.5, weight_decay=0.01)
    chances = head.predict(photos[0], verbose=0)
    assert chances.shape == (N, n_classes)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    kernel, bias = head.get_weights()
    scores = np.exp(photos[0] @ kernel + bias)
    np.testing.assert_allclose(chances, scores / scores.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_head_penalizes_the_squared_weights_but_not_the_bias():
    head = build_head(6, dropout=0.0, weight_decay=0.01)
    kernel, bias = head.get_weights()
    head.set_weights([kernel, bias + 100])
    assert sum(map(float, head.losses)) == pytest.approx(0.01 * np.square(kernel).sum(), rel=1e-5)


def test_a_head_drops_its_share_of_the_features_in_training_only():
    dropout = build_head(6, dropout=0.3, weight_decay=0.0).layers[0]
    ones = np.ones((200, scenes.base_model.N_FEATURES), "float32")
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
    arguments = {**SETTING, "validation_data": photos, "epochs": EPOCHS, "batch_size": 64}
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
        scenes.base_model.N_FEATURES, 6, dropout=0.0, weight_decay=SETTING["weight_decay"]
    ).get_weights()
    entropy, accuracy = entropy_and_accuracy(initial, *photos)
    penalty = SETTING["weight_decay"] * np.square(initial[0]).sum()
    assert history["loss"].item() == pytest.approx(entropy + penalty, abs=1e-4)
    assert history["accuracy"].item() == pytest.approx(accuracy, abs=1e-6)


# --- Class weights --------------------------------------------------------------------


def test_class_weights_are_those_of_scikit_learn():
    y = np.repeat([0, 1, 2], [6, 3, 1])
    for class_weight in (None, "balanced"):
        weights = scenes.heads.class_weights(y, class_weight, 3)
        np.testing.assert_allclose(
            weights, compute_class_weight(class_weight, classes=np.arange(3), y=y), rtol=1e-6
        )
    absent = scenes.heads.class_weights(y, "balanced", 4)
    np.testing.assert_allclose(absent, [10 / 24, 10 / 12, 10 / 4, 0], rtol=1e-6)


@pytest.fixture(scope="module")
def unequal():
    """Return training and validation photos of unequal classes, in other proportions."""
    X, y = make_unequal(200)
    return (X[:80], y[:80]), (X[80:], y[80:])


def test_class_weights_train_as_those_of_a_plain_fit(unequal):
    """Keras weights the training set; the validation set has the same weights of classes."""
    train, (X_val, y_val) = unequal
    options = {"epochs": 3, "batch_size": 32}
    head, history = scenes.heads.train_head(
        *train, **SETTING, **options, validation_data=unequal[1], class_weight="balanced", seed=3
    )
    keras.utils.set_random_seed(3)
    plain = build_head(6, dropout=SETTING["dropout"], weight_decay=SETTING["weight_decay"])
    plain.compile(
        keras.optimizers.Adam(SETTING["learning_rate"]),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    weights = compute_class_weight("balanced", classes=np.arange(6), y=train[1])
    weighted = {"class_weight": dict(enumerate(weights))}
    weighted["validation_data"] = X_val, y_val, weights[y_val]
    expected = plain.fit(*train, **options, **weighted, verbose=0).history
    for name in scenes.METRICS:
        np.testing.assert_allclose(history[name], expected[name], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(head.get_weights()[0], plain.get_weights()[0], atol=1e-6)


def test_balanced_weights_give_balanced_accuracy_and_learn_rare_classes(unequal):
    """If the validation set has the proportions of the training set: here it is the same."""
    train, _ = unequal
    options = {**SETTING, "validation_data": train, "epochs": 2, "batch_size": 32, "seed": 3}
    recalls = {}
    for class_weight in (None, "balanced"):
        head, history = scenes.heads.train_head(*train, **options, class_weight=class_weight)
        recalls[class_weight] = balanced_accuracy_score(
            train[1], head.predict(train[0], verbose=0).argmax(axis=1)
        )
    assert history["val_accuracy"].iloc[-1] == pytest.approx(recalls["balanced"], abs=1e-6)
    assert recalls["balanced"] > recalls[None]


# --- Data that cannot be trained on ---------------------------------------------------


def with_value(array, value):
    array = array.copy()
    array[3] = value
    return array


DATA_FAULTS = {
    "NaN": (lambda X, y: (with_value(X, np.nan), y), "X holds NaN or infinity, first in row 3"),
    "infinity": (lambda X, y: (with_value(X, np.inf), y), "X holds NaN or infinity"),
    "beyond float32": (lambda X, y: (with_value(X.astype("float64"), 1e300), y), "X holds NaN"),
    "one image": (lambda X, y: (X[0], y), r"X has the shape \(1280,\) and y \(100,\)"),
    "no images": (lambda X, y: (X[:0], y[:0]), r"X has the shape \(0, 1280\) and y \(0,\)"),
    "a label too few": (lambda X, y: (X, y[:-1]), r"and y \(99,\); they must be \(n, n_features\)"),
    "labels in two dimensions": (lambda X, y: (X, y[:, None]), r"and y \(100, 1\)"),
    "a missing label": (lambda X, y: (X, with_value(y, -1)), "y holds -1 to 5; it must hold"),
    "half a label": (lambda X, y: (X, with_value(y.astype("float64"), 1.5)), "y holds 0.0 to 5.0"),
    "names": (lambda X, y: (X, np.array(["sea", "street"])[y % 2]), "y holds 'sea' to 'street'"),
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
            *photos, **SETTING, validation_data=(x, y), epochs=1
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
    message = r"y holds 5 class\(es\) and never 2; there must be two or more"
    with pytest.raises(ValueError, match=message):
        doors[door](features[without_2], labels[without_2])
    with pytest.raises(ValueError, match=r"y holds 1 class\(es\) and never 1"):
        doors[door](features, np.zeros_like(labels))


def test_validation_photos_are_of_the_classes_that_train(doors, photos):
    features, labels = photos
    with pytest.raises(ValueError, match=r"y holds 0 to 6; .*, 0 to 5"):
        doors["train_head's validation"](features, with_value(labels, 6))


def test_validation_photos_need_not_be_of_all_classes(photos):
    features, labels = photos
    some = labels < 2
    head, history = scenes.heads.train_head(
        *photos, **SETTING, validation_data=(features[some], labels[some]), epochs=1
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


# --- Side by side, in a file of its own -----------------------------------------------


def test_a_copy_of_side_by_side_runs_its_example_alone(tmp_path):
    """The example of its docstring, in a folder that holds nothing but the file."""
    shutil.copy(scenes.side_by_side.__file__, tmp_path)
    example = textwrap.dedent(scenes.side_by_side.__doc__.split(":\n\n")[1])
    example += "\nassert history['val_head_accuracy'][-1].shape == (2, 4)"
    example += "\nassert history['val_head_accuracy'][-1].max() > 0.8"
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", example], **options)
    assert done.returncode == 0, done.stderr
    assert "[[0." in done.stdout
