"""
The base model: every fact of MobileNetV2, and how its features are rounded.

No other room names the network, its sizes or its layers.
"""

import os
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.activations import linear

IMAGE_SIZE = 224  # pixels a side: the size at which the ImageNet weights were trained
SCALING = {"scale": 1 / 127.5, "offset": -1}  # of pixels, from 0 ... 255 to -1 ... 1
N_FEATURES = 1280  # channels of MobileNetV2's last layer before the classifier
MAX_FEATURE = (
    6  # the bound of ReLU6, behind which the features lie; most of them are below 1
)
# On disk, features are rounded to these 256 steps, finer near 0, so that one takes a
# byte.
STEPS = (MAX_FEATURE * (np.arange(256) / 255) ** 2).astype("float32")
FIRST_LAYERS = (
    *(f"block_{i}_expand" for i in range(1, 17)),
    "Conv_1",
)  # may be the first to train
# A user without a home keeps the `~`; Path.expanduser would raise an error.
KERAS_HOME = Path(os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras")))
_FILE = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{IMAGE_SIZE}_no_top.h5"
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
IMAGENET_WEIGHTS = KERAS_HOME / "models" / _FILE  # where Keras keeps them


_SHAPES = 0x67D5C80  # the CRC-32 of the sorted shapes of its weights


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
    options = {
        "include_top": False,
        "pooling": "avg",
        "weights": weights and str(weights),
    }
    try:
        model = keras.applications.MobileNetV2((IMAGE_SIZE, IMAGE_SIZE, 3), **options)
    except OSError as error:  # h5py names no file
        file = IMAGENET_WEIGHTS if weights == "imagenet" else weights
        what = (
            f"the weights in {file} cannot be read, as after "
            f"a download that was cut off"
        )
        raise ValueError(f"{what} ({error}); delete it, and run again") from error
    model.trainable = False
    return model


def check_weights(file: str | Path) -> None:
    """
    Return nothing if a file holds the weights of the base model, as their shapes say.

    Parameters
    ----------
    file : path
        An HDF5 file in any layout that Keras writes. No network is built.

    Raises
    ------
    ValueError
        Its arrays have other shapes.
    OSError
        It cannot be read, or is no HDF5 file.
    """
    if Path(file).suffix not in (".h5", ".hdf5"):
        raise ValueError("Keras knows weights files by the ending .h5")
    with h5py.File(file) as content:
        shapes = sorted(_find_shapes(content))
    if zlib.crc32(repr(shapes).encode()) != _SHAPES:
        raise ValueError(f"its {len(shapes)} arrays have other shapes")


def _find_shapes(group):
    """Yield the shapes of the arrays of an HDF5 file, but for an optimizer's."""
    for name, part in group.items():
        if isinstance(part, h5py.Dataset):
            yield part.shape
        elif not name.startswith("optimizer"):
            yield from _find_shapes(part)


def scale(images: tf.Tensor) -> tf.Tensor:
    """Return images of 0 ... 255 as the network takes them, from -1 to 1."""
    return keras.applications.mobilenet_v2.preprocess_input(images)


def round_features(features: np.ndarray) -> np.ndarray:
    """
    Return the index in `STEPS` of the step whose square root is nearest, as uint8.
    """
    features = np.clip(features, 0, MAX_FEATURE).astype(
        "float64"
    )  # float32 would round, too
    return np.round(255 * np.sqrt(features / MAX_FEATURE)).astype("uint8")


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
        A functional model; it stays as it is.

    Returns
    -------
    keras.Model
        Frozen, and equal to `model` in inference up to float precision. All layers but
        the BatchNormalization keep their names.

    Raises
    ------
    ValueError
        A BatchNormalization does not directly follow a Conv2D or DepthwiseConv2D, or
        the output of that convolution is also used elsewhere.
    """
    conv_of = {}  # the convolution, by the id of its output, until that is used
    norm_of = {}  # the name of the BatchNormalization after it, by the same id
    outputs = {id(tensor) for tensor in model.outputs}

    def call(layer, *inputs, **options):
        original = model.get_layer(layer.name)
        if isinstance(layer, keras.layers.BatchNormalization):
            conv = conv_of.pop(id(inputs[0]), None)
            if conv is None or id(original.input) in outputs:
                raise ValueError(_cannot_fold(layer.name))
            norm_of[id(inputs[0])] = layer.name
            layer.build(inputs[0].shape)
            layer.set_weights(original.get_weights())
            config = conv.get_config() | {"use_bias": True}
            folded_conv = type(conv).from_config(config)
            output = folded_conv(conv.input)
            folded_conv.set_weights(_fold(conv, layer))
            return output
        for tensor in keras.tree.flatten(inputs):
            if id(tensor) in norm_of:
                raise ValueError(_cannot_fold(norm_of[id(tensor)]))
            conv_of.pop(id(tensor), None)
        output = layer(*inputs, **options)
        layer.set_weights(original.get_weights())
        if isinstance(layer, _CONVOLUTIONS) and layer.activation is linear:
            conv_of[id(output)] = layer
        return output

    folded = keras.models.clone_model(
        model, clone_function=_clone_in_float32, call_function=call
    )
    folded.trainable = False
    return folded


def _cannot_fold(name):
    return (
        f"{name} cannot be folded: it must directly follow a convolution whose output "
        "nothing else uses"
    )


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
    kernel, bias = np.asarray(conv.kernel, "float64"), conv.bias if conv.use_bias else 0
    scale = (norm.gamma if norm.scale else 1) / np.sqrt(
        norm.moving_variance + norm.epsilon
    )
    scale = np.asarray(scale, "float64")
    channels = (
        kernel.shape[2:] if isinstance(conv, keras.layers.DepthwiseConv2D) else -1
    )
    shift = np.asarray(bias - norm.moving_mean) * scale + (
        norm.beta if norm.center else 0
    )
    return [kernel * scale.reshape(channels), np.asarray(shift)]
