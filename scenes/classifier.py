"""
The classifier (sections 8, 9 and 11): base model and head as one saved model;
predictions.

The file alone says what its classes are, and loading it runs no code. Trains nothing.
"""

import contextlib
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops

import scenes
from scenes import base_model, files, folders, photos, progress

BATCH_SIZE = 32  # photos that go through the model together
Source = str | Path | Sequence[str | Path]  # photos and folders of photos


@scenes.float32()
def build_classifier(
    base: keras.Model,
    head: keras.Model,
    classes: Sequence[str],
    *,
    temperature: float = 1.0,
    threshold: float = 0.0,
) -> keras.Model:
    """
    Join base model and head: photos in, labels and probabilities out.

    Parameters
    ----------
    base, head : keras.Model
        What `build_base_model` and `train_head`, or `fine_tune`, return.
    classes : sequence of str
        The class of each number that the head gives; they become part of the model.
    temperature : float
        The logarithms of the probabilities are divided by it (Guo et al., 2017): above
        1, the model is less confident; the label stays.
    threshold : float
        Photos whose highest probability is below it are `unsure`.

    Returns
    -------
    keras.Model
        Maps photos (n, height, width, 3) of any size, 0 to 255, to a dict:
        `probabilities` (n, classes), `label` (n,), the name of the most probable class,
        and `unsure` (n,). Resizing and scaling are layers of it.
    """
    view = keras.Input(base.input_shape[1:], name="view")
    folded = base_model.fold_batch_norm(base)
    head = base_model.copy_model(head)
    features = folded(view, training=False)
    one_pass = keras.Model(view, head(features), name="one_pass")
    photo = keras.Input((None, None, 3), name="photos")
    # Keras's Resizing takes itself to be in training where nothing is said, and passes
    # this on: a plain call of the model would draw dropout.
    resizing = keras.layers.Resizing(*view.shape[1:3], antialias=True, name="resizing")
    resized = resizing(photo, training=False)
    scaling = keras.layers.Rescaling(**base_model.SCALING, name="scaling")
    scaled = scaling(resized)
    log_probabilities = ops.log(one_pass(scaled))
    # Two constants of the file stand in layers, where they can be read back by name.
    cooling = keras.layers.Rescaling(1 / temperature, name="temperature")
    softmax = keras.layers.Softmax(name="probabilities")
    probabilities = softmax(cooling(log_probabilities))
    margin = keras.layers.Rescaling(1.0, offset=-threshold, name="margin")
    # StringLookup wants a token that is no class; no folder can be called "/".
    lookup = keras.layers.StringLookup(
        vocabulary=list(classes),
        num_oov_indices=0,
        oov_token="/",
        invert=True,
        name="label",
    )
    predicted = ops.argmax(probabilities, axis=-1)
    confidence = ops.max(probabilities, axis=-1)
    outputs = {
        "probabilities": probabilities,
        "label": lookup(predicted),
        "unsure": margin(confidence) < 0,
    }
    return keras.Model(photo, outputs, name="photo_classifier")


def classes_of(model: keras.Model) -> list[str]:
    """Return the classes of a classifier, in the order of its probabilities."""
    names = model.get_layer("label").get_vocabulary()
    return [str(name) for name in names]


def save_classifier(classifier: keras.Model, path: str | Path) -> None:
    """Save the model as one `.keras` file, which is replaced as a whole."""
    with files.replacing(path) as beside:
        classifier.save(beside)


def load_classifier(path: str | Path) -> keras.Model:
    """
    Load a saved model in Keras's safe mode, which runs no code of the file.

    Raises
    ------
    ValueError
        The file is damaged, no classifier of `build_classifier`, or saved by a newer
        Keras that this one cannot read.
    """
    try:
        files.check_zip(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        given = model.output if isinstance(model.output, dict) else {}
        if set(given) != {"probabilities", "label", "unsure"}:
            raise ValueError("it is a model of another kind")
        n_classes = len(classes_of(model))
        if given["probabilities"].shape != (None, n_classes):
            raise ValueError("its classes are not those of its probabilities")
        for weight in model.get_weights():
            if not np.isfinite(weight).all():
                raise ValueError("its weights hold NaN or infinity")
        return model
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, json, h5py and Keras raise each their own
        said = f"{path} is no saved classifier"
        saved_by = _saved_by(path)
        if saved_by != keras.__version__:
            said += (
                f" for Keras {keras.__version__}; install Keras "
                f"{saved_by}, which saved it"
            )
        raise ValueError(f"{said}: {error}. The notebook trains another one") from error


def _saved_by(path):
    """
    Return the version of Keras that saved a model: this one, unless the file says
    another.
    """
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))["keras_version"]
    return keras.__version__


def predict(model: keras.Model, source: Source) -> pd.DataFrame:
    """
    Return the predictions of photos, all of which have to be readable.

    Parameters and table are those of `predict_readable`.

    Raises
    ------
    ValueError
        Files or folders cannot be read, or hold no photo; ten of them are named.
    FileNotFoundError
        `source` is an empty list.
    """
    table, problems = predict_readable(model, source)
    photos.refuse(problems)
    return table


def predict_readable(
    model: keras.Model, source: Source
) -> tuple[pd.DataFrame, list[str]]:
    """
    Return the predictions of the photos that can be read, and why others cannot.

    Each photo is brought to the network's size first, so that memory does not grow with
    their pixels.

    Parameters
    ----------
    model : keras.Model
        The model of `build_classifier` or `load_classifier`.
    source : path or sequence of paths
        Photos of any size and mode, and folders, which are walked; what is skipped
        there is said in one line on standard error.

    Returns
    -------
    table : DataFrame
        One row for each photo: `path`, `label` (the most probable class), `unsure`,
        `confidence` (the probability of that class), and a column of probabilities for
        each class.
    problems : list of str
        A message for each name that cannot be read.

    Raises
    ------
    FileNotFoundError
        `source` is an empty list.
    """
    paths, problems = _list_photos(source)
    classes = classes_of(model)
    kept, unsure = [], []
    batches = [np.zeros((0, len(classes)), "float32")]  # of probabilities
    with progress.bar(len(paths), "Predicting", "photo") as bar:
        for batch in progress.read_ahead(_read, paths, BATCH_SIZE):
            readable = []
            for path, photo, problem in batch:
                if problem:
                    problems.append(problem)
                else:
                    kept.append(path.as_posix())
                    readable.append(photo)
            if readable:
                resized = photos.resize_photos(readable)
                answer = model.predict_on_batch(resized)
                batches.append(answer["probabilities"])
                unsure.extend(answer["unsure"])
            bar.update(len(batch))
    probabilities = np.concatenate(batches)
    predicted = probabilities.argmax(axis=1)
    table = pd.DataFrame(
        {
            "path": pd.Series(kept, dtype=str),
            "label": pd.Categorical.from_codes(predicted, classes),
            "unsure": np.array(unsure, dtype=bool),
            "confidence": probabilities.max(axis=1),
        }
    )
    of_classes = pd.DataFrame(probabilities, columns=classes)
    return table.join(of_classes), problems


def _read(path):
    """Return a path, its photo in few pixels, and why it cannot be read."""
    try:
        return path, photos.shrink_photo(photos.read_photo(path)), ""
    except ValueError as error:
        return path, None, str(error)


def _list_photos(source):
    """Return the photos that are named or in folders that are, and the problems."""
    if isinstance(source, str | os.PathLike):
        source = [source]
    paths, skipped, problems = [], [], []
    for name in source:
        try:
            inside, others = _expand(name)
            if not inside:
                raise ValueError("there is no photo in it")
            paths += inside
            skipped += others
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(f"'{photos.printable(name)}' cannot be read: {reason}")
    if line := folders.describe_skipped(skipped):
        print(line, file=sys.stderr)
    if not paths and not problems:
        raise FileNotFoundError("there is no photo in an empty list")
    return paths, problems


def _expand(name):
    """Return the photo, or the photos of a folder, and what is skipped."""
    if not str(name):
        raise ValueError("the name is empty")
    path = files.expand_home(name)
    if path.is_fifo():  # reading it might never end
        raise ValueError("it is a pipe, not a file")
    if path.is_dir():
        return folders.sort_files(path)
    return [path], []


def activation_maps(model: keras.Model, paths: Sequence[str | Path]) -> np.ndarray:
    """
    Return how much each place of a photo adds to the score of each class.

    Parameters
    ----------
    model : keras.Model
        A classifier with a base model of `build_base_model`.
    paths : sequence of paths

    Returns
    -------
    ndarray of float32, shape (n, 7, 7, classes)

    Notes
    -----
    The base model averages over 7 x 7 places and the head multiplies by a matrix, so
    that one may multiply first (class activation maps; Zhou et al., 2016). The split is
    exact: the mean of a class's map, plus its bias, is its score before the
    temperature. It says where a score comes from, not why.
    """
    _, base, head = model.get_layer("one_pass").layers
    pooling = base.layers[-1]
    places = keras.Model(base.input, pooling.input)
    scaling = model.get_layer("scaling")
    kernel = head.layers[-1].kernel
    maps = []
    # One photo at a time: a model that is called keeps the outputs of all layers to the
    # end.
    for path in paths:
        photo = photos.read_photo(path)
        resized = photos.resize_photos([photo])
        activations = places(scaling(resized))
        maps.append(ops.matmul(activations, kernel))
    return np.concatenate(maps)


def export(model: keras.Model, path: str | Path, *, int8: bool = False) -> None:
    """
    Write the model for phones (LiteRT, `.tflite`), and its classes beside it (`.txt`).

    Parameters
    ----------
    model : keras.Model
        A classifier.
    path : path
        Its name ends in `.tflite`.
    int8 : bool
        Keep the weights in 8 bits, by dynamic-range quantization (2.5 MB in place of
        8.9).

    Notes
    -----
    The exported model takes one photo at the network's size, float32, RGB from 0 to
    255, and gives the probabilities in the order of the classes' file. The app resizes:
    the whole photo, turned as EXIF says, not cropped, by bilinear interpolation with
    half-pixel centres, and with antialiasing where the photo shrinks. LiteRT has
    neither words nor antialiasing.
    """
    path = Path(path)
    resized = model.get_layer("scaling").input
    probabilities = model.get_layer("probabilities").output
    behind = keras.Model(resized, probabilities)
    photo = keras.Input(resized.shape[1:], batch_size=1, name="photo")
    exported = keras.Model(photo, behind(photo))
    options = {"optimizations": [tf.lite.Optimize.DEFAULT]} if int8 else {}
    with files.replacing(path) as beside:
        exported.export(beside, format="litert", verbose=False, **options)
    names = "\n".join(classes_of(model))
    with files.replacing(path.with_suffix(".txt")) as beside:
        beside.write_text(f"{names}\n", encoding="utf-8")
