"""
The base model: every fact of MobileNetV2, and how its features are rounded.

No other room names the network, its sizes or its layers.
"""

import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

IMAGE_SIZE = 224  # pixels a side: the size at which the ImageNet weights were trained
SCALING = {"scale": 1 / 127.5, "offset": -1}  # of pixels, from 0 ... 255 to -1 ... 1
N_FEATURES = 1280  # channels of MobileNetV2's last layer before the classifier
MAX_FEATURE = 6  # the bound of ReLU6, behind which the features lie; most of them are below 1
# On disk, features are rounded to these 256 steps, finer near 0, so that one takes a byte.
STEPS = (MAX_FEATURE * (np.arange(256) / 255) ** 2).astype("float32")
FIRST_LAYERS = (*(f"block_{i}_expand" for i in range(1, 17)), "Conv_1")  # may be the first to train
KERAS_HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
IMAGENET_WEIGHTS = (
    KERAS_HOME
    / "models"
    / (f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{IMAGE_SIZE}_no_top.h5")
)  # where Keras keeps them


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
        Maps images (n, 224, 224, 3), scaled to -1 ... 1, to features (n, 1280), 0 ... 6.
        Not trainable, so that BatchNormalization runs in inference mode in training too.
    """
    try:
        model = keras.applications.MobileNetV2(
            input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
            include_top=False,
            pooling="avg",
            weights=None if weights is None else str(weights),
        )
    except OSError as error:  # h5py names no file
        file = IMAGENET_WEIGHTS if weights == "imagenet" else weights
        raise ValueError(
            f"the weights in {file} cannot be read, as after a download that was cut off "
            f"({error}); delete it, and run again"
        ) from error
    model.trainable = False
    return model


def scale(images: tf.Tensor) -> tf.Tensor:
    """Return images of 0 ... 255 as the network takes them, from -1 to 1."""
    return keras.applications.mobilenet_v2.preprocess_input(images)


def round_features(features: np.ndarray) -> np.ndarray:
    """Return the index in `STEPS` of the step whose square root is nearest, as uint8."""
    features = np.clip(features, 0, MAX_FEATURE).astype("float64")  # float32 would round, too
    return np.round(255 * np.sqrt(features / MAX_FEATURE)).astype("uint8")


def restore_features(rounded: np.ndarray) -> np.ndarray:
    """Return the values of rounded features, as float32."""
    return STEPS[rounded]
