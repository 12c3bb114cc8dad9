"""
The base model: all that is known of MobileNetV2, and how its features are kept.

Another network would change this room only.
"""

import os
from pathlib import Path

import keras
import numpy as np

IMAGE_SIZE = 224  # pixels a side: the size at which the ImageNet weights were trained
N_FEATURES = 1280  # channels of MobileNetV2's last layer before the classifier
# Features lie from 0 to 6, behind the trunk's ReLU6, most of them below 1. Kept, they are
# rounded to these 256 steps, which are finer near 0, and a feature takes one byte.
STEPS = (6 * (np.arange(256) / 255) ** 2).astype("float32")
FIRST_LAYERS = (*(f"block_{i}_expand" for i in range(1, 17)), "Conv_1")  # may be the first to train
KERAS_HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
IMAGENET_WEIGHTS = (
    KERAS_HOME
    / "models"
    / (f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{IMAGE_SIZE}_no_top.h5")
)  # where Keras keeps them


def build_trunk(weights: str | Path | None = "imagenet") -> keras.Model:
    """
    Build MobileNetV2 without its classifier, frozen.

    Parameters
    ----------
    weights : str, path or None
        'imagenet', the path of a weights file, or None for random weights.

    Returns
    -------
    keras.Model
        Maps photos (n, 224, 224, 3), scaled to -1 ... 1, to features (n, 1280), 0 ... 6.
        Not trainable, so that BatchNormalization runs in inference mode in training too.
    """
    try:
        trunk = keras.applications.MobileNetV2(
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
    trunk.trainable = False
    return trunk


def round_features(features: np.ndarray) -> np.ndarray:
    """Return the number of the step, in `STEPS`, whose square root is nearest, as uint8."""
    features = np.clip(features, 0, 6).astype("float64")  # else its own errors round, too
    return np.round(255 * np.sqrt(features / 6)).astype("uint8")


def restore_features(rounded: np.ndarray) -> np.ndarray:
    """Return rounded features as float32: what their steps stand for."""
    return STEPS[rounded]
