"""
The base model: every fact of MobileNetV2, and how its features are rounded.

No other room names the network, its sizes or its layers.
"""

import collections
import itertools
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.activations import linear
from keras.layers import Conv2D, DepthwiseConv2D

IMAGE_SIZE = 224  # pixels a side: the size at which the ImageNet weights were trained
SCALING = {"scale": 1 / 127.5, "offset": -1}  # of pixels, from 0 ... 255 to -1 ... 1
N_FEATURES = 1280  # channels of MobileNetV2's last layer before the classifier
MAX_FEATURE = 6  # the bound of ReLU6, up to which features lie; most are below 1
# Channels before, between and behind the blocks that expand them.
_CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
# On disk, features are rounded to these 256 steps, finer near 0, so that one takes a
# byte.
STEPS = (MAX_FEATURE * (np.arange(256) / 255) ** 2).astype("float32")
# May be the first to train.
FIRST_LAYERS = (*(f"block_{i}_expand" for i in range(1, 17)), "Conv_1")
# A user without a home keeps the `~`; Path.expanduser would raise an error.
KERAS_HOME = Path(os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras")))
_FILE = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{IMAGE_SIZE}_no_top.h5"
IMAGENET_WEIGHTS = KERAS_HOME / "models" / _FILE  # where Keras keeps them


def build_base_model(weights: str | Path | None = "imagenet") -> keras.Model:
    """
    Return MobileNetV2 without its classifier, frozen.

    Parameters
    ----------
    weights : str, path or None
        'imagenet', the path of a weights file, or None for random weights.

    Returns
    -------
    keras.Model
        Maps images (n, 224, 224, 3), scaled to -1 ... 1, to features (n, 1280), 0 ...
        6. Not trainable, so that BatchNormalization runs in inference mode in training
        too.
    """
    model = keras.applications.MobileNetV2(
        (IMAGE_SIZE, IMAGE_SIZE, 3),
        include_top=False,
        pooling="avg",
        weights=weights and str(weights),
    )
    model.trainable = False
    return model


def check_imagenet_weights() -> None:
    """
    Return nothing if the ImageNet weights that Keras keeps are whole, or not there.

    A download that is killed leaves a part of them.

    Raises
    ------
    ValueError
        They are damaged; the message names their file.
    """
    if not IMAGENET_WEIGHTS.exists():
        return
    try:
        check_weights(IMAGENET_WEIGHTS)
    except (OSError, ValueError) as error:
        what = f"{IMAGENET_WEIGHTS} is damaged ({error})"
        raise ValueError(f"{what}: delete it, and run again") from error


def check_weights(file: str | Path) -> None:
    """
    Return nothing if a file holds arrays of the shapes that the base model's have.

    Keras compares their order or names when it loads them; here, no network is built.

    Parameters
    ----------
    file : path
        An HDF5 file in any layout that Keras writes.

    Raises
    ------
    ValueError
        It holds an array too many or too few; the first is named.
    OSError
        It cannot be read, or is no HDF5 file.
    """
    found = {}

    def add(name, part):
        if isinstance(part, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = part.shape

    with h5py.File(file) as content:
        content.visititems(add)
    counts = collections.Counter(found.values())
    expected = collections.Counter(_shapes())
    surplus = counts - expected
    for name, shape in found.items():
        if shape in surplus:
            what = f"its array {name} of the shape {shape}"
            raise ValueError(f"{what} is one more than the base model has")
    missing = expected - counts
    if missing:
        raise ValueError(f"it lacks an array of the shape {min(missing)}")


def _shapes():
    """Return the shapes of all weights of the base model."""
    kernels = [(3, 3, 3, 32), (3, 3, 32, 1), (1, 1, 32, 16)]
    for before, after in itertools.pairwise(_CHANNELS):
        wide = 6 * before
        kernels += [(1, 1, before, wide), (3, 3, wide, 1), (1, 1, wide, after)]
    kernels.append((1, 1, after, N_FEATURES))
    # A BatchNormalization follows each; a depthwise one has its channels last but one.
    normalized = []
    for _, _, before, after in kernels:
        channels = before if after == 1 else after
        normalized.append((channels,))
    return kernels + 4 * normalized


def scale(images: tf.Tensor) -> tf.Tensor:
    """Return images of 0 ... 255 as the network takes them, from -1 to 1."""
    return keras.applications.mobilenet_v2.preprocess_input(images)


def round_features(features: np.ndarray) -> np.ndarray:
    """
    Return the index in `STEPS` of the step whose square root is nearest, as uint8.
    """
    clipped = np.clip(features, 0, MAX_FEATURE)
    exact = clipped.astype("float64")  # float32 would round, too
    roots = np.sqrt(exact / MAX_FEATURE)
    return np.round(255 * roots).astype("uint8")


def restore_features(rounded: np.ndarray) -> np.ndarray:
    """Return the values of rounded features, as float32."""
    return STEPS[rounded]


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """
    Return a model in which convolutions do the work of batch normalization.

    With fixed statistics, BatchNormalization is a scale and a shift per channel. Folded
    into the kernel and the bias of the convolution before it, they cost no time.

    Parameters
    ----------
    model : keras.Model
        A functional model, whose convolutions have no bias; it stays as it is.

    Returns
    -------
    keras.Model
        Frozen, and equal to `model` in inference up to float precision. All layers but
        the BatchNormalization keep their names.

    Raises
    ------
    ValueError
        A BatchNormalization does not directly follow a Conv2D or DepthwiseConv2D; or
        the output of that convolution is also used elsewhere, so that Keras finds two
        layers of its name.
    """
    convolutions = {}  # without an activation, by the id of their output

    def call(layer, *inputs, **options):
        original = model.get_layer(layer.name)
        if isinstance(layer, keras.layers.BatchNormalization):
            conv = convolutions.get(id(inputs[0]))
            if conv is None:
                what = f"{layer.name} cannot be folded"
                raise ValueError(f"{what}: it must directly follow a convolution")
            layer.build(inputs[0].shape)
            layer.set_weights(original.get_weights())  # in float32
            config = conv.get_config() | {"use_bias": True}
            folded_conv = type(conv).from_config(config)
            output = folded_conv(conv.input)
            folded_conv.set_weights(_fold(conv, layer))
            return output
        output = layer(*inputs, **options)
        layer.set_weights(original.get_weights())
        is_convolution = isinstance(layer, Conv2D | DepthwiseConv2D)
        if is_convolution and layer.activation is linear:
            convolutions[id(output)] = layer
        return output

    folded = keras.models.clone_model(
        model, clone_function=_clone_in_float32, call_function=call
    )
    folded.trainable = False
    return folded


def _clone_in_float32(layer):
    """Return a copy of a layer that computes in float32, whatever Keras's policy."""
    config = layer.get_config() | {"dtype": "float32"}
    return type(layer).from_config(config)


def copy_model(model: keras.Model) -> keras.Model:
    """Return a copy of a functional or sequential model that computes in float32."""
    copy = keras.models.clone_model(model, clone_function=_clone_in_float32)
    copy.set_weights(model.get_weights())
    return copy


def _fold(conv, norm):
    """Return kernel and bias of a convolution that normalizes its output itself."""
    (kernel,) = conv.get_weights()
    gamma, beta, mean, variance = norm.get_weights()
    scale = gamma / np.sqrt(variance + norm.epsilon)
    scale = scale.astype("float64")
    channels = kernel.shape[2:] if isinstance(conv, DepthwiseConv2D) else -1
    return [kernel * scale.reshape(channels), beta - mean * scale]
