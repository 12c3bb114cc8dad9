"""
The classifier (sections 7 and 11): trunk and head as one saved model, and its predictions.

A loaded file runs no code. Trains nothing.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops

import scenes
from scenes import files, photos, settings, tasks


def build_classifier(trunk: keras.Model, head: keras.Model) -> keras.Model:
    """
    Join trunk and head: photos in, probabilities out.

    Returns
    -------
    keras.Model
        Maps photos (n, height, width, 3) of any size, 0 to 255, to probabilities (n, 6) in
        the order of `CLASSES`. Resizing and scaling are layers of it.
    """
    photos = keras.Input((None, None, 3), name="photos")
    x = keras.layers.Resizing(scenes.IMAGE_SIZE, scenes.IMAGE_SIZE, antialias=True)(photos)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    return keras.Model(photos, head(trunk(x, training=False)), name="intel_classifier")


def average_mirrored(classifier: keras.Model) -> keras.Model:
    """Return a classifier that averages what another says of a photo and its mirror image."""
    photos = keras.Input((None, None, 3), name="photos")
    views = [classifier(photos), classifier(ops.flip(photos, axis=2))]
    return keras.Model(photos, keras.layers.Average()(views), name=classifier.name)


def save_classifier(classifier: keras.Model, path: str | Path) -> None:
    """Save the model as one `.keras` file, which is replaced as a whole."""
    with files.replacing(Path(path)) as beside:
        classifier.save(beside)


def load_classifier(path: str | Path) -> keras.Model:
    """
    Load a saved model in Keras's safe mode, which runs no code of the file.

    Raises
    ------
    ValueError
        The file is damaged or no Keras model.
    """
    try:
        files.check_zip(path)
        classifier = keras.saving.load_model(path, compile=False, safe_mode=True)
        if classifier.output_shape != (None, len(scenes.CLASSES)):
            raise ValueError(f"it gives {classifier.output_shape}, not a number for each class")
        if not all(np.isfinite(weight).all() for weight in classifier.get_weights()):
            raise ValueError("its weights hold NaN or infinity")
        return classifier
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, json, h5py and Keras raise each their own
        raise ValueError(f"{path} is no saved classifier: {error}. Train it again") from error


def predict(
    classifier: keras.Model, source: str | Path | Sequence[str | Path], *, batch_size: int = 32
) -> pd.DataFrame:
    """
    Predict photos.

    Parameters
    ----------
    classifier : keras.Model
        The model of `build_classifier` or `load_classifier`.
    source : path or sequence of paths
        A photo, a folder of photos, or a list of photos, of any size and mode.
    batch_size : int
        Photos of the same size go through the model together, at most so many.

    Returns
    -------
    DataFrame
        One row for each photo: `path`, `label` (the most probable class) and a column of
        probabilities for each class.

    Raises
    ------
    ValueError
        Files cannot be read; all are named.
    FileNotFoundError
        The folder or list holds no photo.
    """
    settings.check(batch_size=batch_size)
    if isinstance(source, (str, os.PathLike)):
        root = Path(source)
        paths = sorted(filter(photos.is_photo, root.iterdir())) if root.is_dir() else [root]
    else:
        paths = [Path(path) for path in source]
    if not paths:
        raise FileNotFoundError(f"there is no photo in {source}")
    failed, probabilities = [], []

    def read() -> Iterator[np.ndarray]:
        for path in paths:
            try:
                yield photos.read_photo(path)
            except ValueError as error:
                failed.append(str(error))

    with tasks.progress(len(paths), "Predicting", "photo") as bar:
        for _, same_size in itertools.groupby(read(), key=np.shape):
            while batch := list(itertools.islice(same_size, batch_size)):
                if not failed:
                    probabilities.append(classifier.predict_on_batch(np.stack(batch)))
                bar.update(len(batch))
    photos.refuse(failed)
    table = pd.DataFrame(np.concatenate(probabilities), columns=scenes.CLASSES)
    table.insert(0, "path", [path.as_posix() for path in paths])
    table.insert(
        1, "label", pd.Categorical(table[list(scenes.CLASSES)].idxmax(axis=1), scenes.CLASSES)
    )
    return table
