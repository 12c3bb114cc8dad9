"""
The base model is MobileNetV2, frozen, and its features are rounded by next to nothing.
"""

import re

import keras
import numpy as np
import pytest
from conftest import assert_same_arrays
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal

from scenes import base_model, heads, settings

FLOATS = st.floats(0, 6, width=32)


def half_step(features: np.ndarray) -> np.ndarray:
    """
    Return how far rounding may move features: half of a step of 1/255 behind the root.
    """
    half = np.sqrt(6) / 510
    return half * (2 * np.sqrt(features) + half)


# --- The base model -------------------------------------------------------------------


def test_the_base_model_maps_photos_to_1280_frozen_features(random_base_model):
    assert random_base_model.input_shape == (None, 224, 224, 3)
    assert random_base_model.output_shape == (None, 1280)
    assert not random_base_model.trainable_weights
    photos = default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    before = random_base_model.get_weights()
    features = random_base_model(photos, training=True).numpy()
    assert_array_equal(features, random_base_model(photos, training=False))
    assert_same_arrays(random_base_model.get_weights(), before)
    assert 0 <= features.min() < features.max() <= 6


def test_the_base_model_takes_its_weights_from_a_file(random_base_model, tmp_path):
    random_base_model.save_weights(tmp_path / "own.weights.h5")
    again = base_model.build_base_model(tmp_path / "own.weights.h5")
    assert_same_arrays(again.get_weights(), random_base_model.get_weights())


def test_a_part_of_the_imagenet_weights_is_named_with_what_to_do(
    random_base_model, tmp_path, monkeypatch
):
    """As a download leaves them that is killed."""
    path = tmp_path / "own.weights.h5"
    monkeypatch.setattr(base_model, "IMAGENET_WEIGHTS", path)
    base_model.check_imagenet_weights()  # they are not there yet
    random_base_model.save_weights(path)
    base_model.check_imagenet_weights()
    path.write_bytes(path.read_bytes()[:-500])
    told = rf"^{re.escape(str(path))} is damaged \(.*\): delete it, and"
    with pytest.raises(ValueError, match=told):
        base_model.check_imagenet_weights()


# --- The rounding ---------------------------------------------------------------------


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_rounding_moves_a_feature_by_at_most_half_a_step(values):
    features = np.array(values, "float32")
    rounded = base_model.round_features(features)
    restored = base_model.restore_features(rounded)
    assert (rounded.dtype, restored.dtype) == (np.uint8, np.float32)
    assert (np.abs(restored - features) <= half_step(features) + 1e-6).all()
    assert_array_equal(base_model.round_features(restored), rounded)


def test_rounding_is_finest_near_zero_and_keeps_the_ends():
    restored = base_model.restore_features(np.arange(256, dtype="uint8"))
    steps = np.diff(restored)
    assert (restored[0], restored[255]) == (0, 6)
    beyond = np.array([-0.1, 6.1], "float32")
    assert base_model.round_features(beyond).tolist() == [0, 255]
    assert (np.diff(steps) > 0).all()
    assert steps[0] < 1e-4 < 0.04 < steps[-1] < 0.05


def test_rounding_moves_the_test_accuracy_by_at_most_a_fifth_of_a_point(bundled):
    """
    Train the head on the rounded features and on unrounded ones: 2 of 1000 may change.

    What rounding took away is not in `features.npz`. It is put back by chance here:
    each feature is moved to a random place within the step that would be rounded to it.
    So this shows that no digit behind the rounding matters; the test of real photos
    below shows that the true features lie within these steps.
    """
    images, rounded = bundled
    train = np.flatnonzero(images["split"] == "train")[::4]
    test = np.flatnonzero(images["split"] == "test")
    rows = np.concatenate([train, test])
    y, rounded = images["label"].cat.codes.to_numpy()[rows], rounded[rows]
    root = np.sqrt(rounded / 6) * 255
    root += default_rng(0).uniform(-0.5, 0.5, root.shape).astype("float32")
    unrounded = 6 * (np.clip(root, 0, 255) / 255) ** 2
    unrounded[rounded == 0] = 0  # most zeros are the ReLU's
    assert np.abs(unrounded - rounded).max() > 0.01
    options = settings.HeadOptions(
        learning_rate=0.001, dropout=0.1, weight_decay=1e-4, epochs=3
    )
    n, accuracies = len(train), []
    for features in (rounded, unrounded):
        head = heads.train_head(features[:n], y[:n], options)
        predicted = head(features[n:]).numpy().argmax(axis=1)
        accuracies.append(np.mean(predicted == y[n:]))
    assert min(accuracies) > 0.88
    assert abs(accuracies[0] - accuracies[1]) <= 0.002


# --- Batch normalization folded -------------------------------------------------------


def convolutions() -> keras.Model:
    """
    Return convolutions with groups, a multiplier or another epsilon.
    """
    x = image = keras.Input((9, 9, 3))
    norm, relu = layers.BatchNormalization, layers.ReLU(6.0)
    x = relu(norm()(layers.Conv2D(4, 3, use_bias=False)(x)))
    x = norm(epsilon=0.1)(
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    )
    y = norm()(layers.Conv2D(8, 1, groups=2, use_bias=False)(x))
    return keras.Model(image, layers.Add()([layers.Conv2D(8, 1)(x), y]))


def randomize(model: keras.Model) -> keras.Model:
    """
    Return the model with random weights; Keras's own make batch normalization the
    identity.
    """
    rng = default_rng(0)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.get_weights()]
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for shape in shapes])
        else:
            inputs = 9 if isinstance(layer, layers.DepthwiseConv2D) else 0
            spread = [np.sqrt(2 / (inputs or np.prod(shape[:-1]))) for shape in shapes]
            layer.set_weights(
                [rng.normal(0, *pair) for pair in zip(spread, shapes, strict=True)]
            )
    return model


def test_a_copy_has_weights_of_its_own_and_computes_in_float32():
    """Of models of both kinds; the layers keep their names."""
    keras.config.set_dtype_policy("mixed_float16")
    functional = randomize(convolutions())
    sequential = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    keras.config.set_dtype_policy("float32")
    for model in (functional, sequential):
        before = model.get_weights()
        copy = base_model.copy_model(model)
        assert type(copy) is type(model)
        assert [x.name for x in copy.layers[1:]] == [x.name for x in model.layers[1:]]
        assert {x.compute_dtype for x in copy.layers} == {"float32"}
        assert_same_arrays(copy.get_weights(), before)
        copy.set_weights([weight + 1 for weight in before])
        assert_same_arrays(model.get_weights(), before)


@pytest.mark.parametrize("kind", ["small", "random", "imagenet"])
def test_folded_is_unfolded_to_float_precision(kind, request):
    if kind == "imagenet":
        model = request.getfixturevalue("imagenet_base_model")
    else:
        model = convolutions() if kind == "small" else base_model.build_base_model(None)
        randomize(model)
    before = model.get_weights()
    folded = base_model.fold_batch_norm(model)
    images = (
        default_rng(1).uniform(-1, 1, (4, *model.input_shape[1:])).astype("float32")
    )
    cuts = ["block_1_expand", "block_10_expand", "Conv_1"] if kind != "small" else []
    answers = []
    for m in (model, folded):
        tensors = [*(m.get_layer(name).input for name in cuts), m.output]
        answers.append(keras.Model(m.input, tensors)(images, training=False))
    for right, found in zip(*answers, strict=True):
        assert np.std(right) > 0.01
        most = 1e-4 * np.abs(right).max()
        assert_allclose(found, right, rtol=0, atol=most)
    assert not any(isinstance(x, layers.BatchNormalization) for x in folded.layers)
    assert not folded.trainable_weights
    assert_same_arrays(model.get_weights(), before)


UNFOLDABLE = {
    "no convolution": lambda x, y, norm: norm(layers.Dense(3)(x)),
    "an activation inside": lambda x, y, norm: norm(
        layers.Conv2D(3, 1, activation="relu")(x)
    ),
    "no convolution at all": lambda x, y, norm: norm(x),
    "something between": lambda x, y, norm: norm(layers.ReLU()(y)),
    "another reader": lambda x, y, norm: layers.Add()([norm(y), y]),
    "an earlier reader": lambda x, y, norm: layers.Add()([layers.ReLU()(y), norm(y)]),
    "two of them": lambda x, y, norm: layers.Add()(
        [norm(y), layers.BatchNormalization(name="norm_2")(y)]
    ),
    "an output of the model": lambda x, y, norm: [norm(y), y],
}
TOLD = "norm cannot be folded: it must directly follow a convo|names should be unique"


@pytest.mark.parametrize("fault", UNFOLDABLE)
def test_what_cannot_be_folded_is_refused(fault):
    image = keras.Input((8, 8, 3))
    norm, y = (
        layers.BatchNormalization(name="norm"),
        layers.Conv2D(3, 1, use_bias=False)(image),
    )
    model = keras.Model(image, UNFOLDABLE[fault](image, y, norm))
    with pytest.raises(ValueError, match=TOLD):
        base_model.fold_batch_norm(model)
