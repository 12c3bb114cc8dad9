"""
Features (section 3): the base model's features of an image, computed once.

An image is known by its pixels: its features are not computed again. Trains nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd

import scenes
from scenes import base_model, files, photos, progress, settings, store

BLOCK_BATCHES = 32  # of photos go through the base model in one task
BUNDLED_FEATURES = Path(__file__).parents[1] / "features.npz"
KIND = "features"  # of the entries of the store
_FEATURES = np.uint8, ("n", base_model.N_FEATURES)  # rounded
_BLOCK = {"digest": ("U", ("n",)), "features": _FEATURES}


def extract_features(
    images: pd.DataFrame,
    base: keras.Model,
    *,
    cache: str | Path,
    batch_size: int = 32,
) -> np.ndarray:
    """
    Return the features of the photos, each sent through the base model once.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with the columns `path`, `file` and `digest`.
    base : keras.Model
        The model of `build_base_model`.
    cache : path
        The folder that keeps the features from run to run. Photos are known by their
        pixels: only those that this base model has not seen before are computed. Of
        interrupted work, all finished tasks are kept.
    batch_size : int
        Photos that go through the base model together.

    Returns
    -------
    ndarray of float32, shape (n, n_features)
        Row i belongs to `images.iloc[i]`. On disk a feature is a byte: it is rounded to
        256 steps. All callers get the restored numbers.

    Raises
    ------
    ValueError
        Photos are unreadable; ten of them are named. Or one has changed since it was
        digested.

    Notes
    -----
    A task is a block of 32 batches. The tasks run one after the other, or where
    `joblib.parallel_config` says; all machines find the photos at the same path.
    """
    settings.check(batch_size=batch_size)
    photos.refuse_unreadable(images)
    fingerprint = files.fingerprint(scenes.VERSIONS, base.get_weights())
    entry = store.Entry(cache, KIND, fingerprint)
    known = {}  # the rounded features of a photo, by its digest
    for part in entry.parts():
        block = entry.get(_BLOCK, part)
        if block is not None:
            known.update(zip(block["digest"], block["features"], strict=True))
    is_known = images["digest"].isin(known)
    missing = images[~is_known].drop_duplicates("digest")
    for block in _extract(missing, base, batch_size):
        part = files.fingerprint(block["digest"])
        entry.put(block, part)
        known.update(zip(block["digest"], block["features"], strict=True))
    shape = len(images), base_model.N_FEATURES
    rounded = np.zeros(shape, np.uint8)
    for row, digest in enumerate(images["digest"]):
        rounded[row] = known[digest]
    return base_model.restore_features(rounded)


def _extract(images, base, batch_size):
    """Yield the digests and rounded features of blocks of photos, as the blocks end."""
    if images.empty:
        return
    folded = base_model.fold_batch_norm(base)
    size = BLOCK_BATCHES * batch_size
    calls = []
    for start in range(0, len(images), size):
        block = images[start : start + size]
        calls.append((folded, block, batch_size))
    with progress.bar(len(images), "Photos through the base model", "photo") as bar:
        for block in progress.run(extract_block, calls):
            yield block
            bar.update(len(block["digest"]))


def extract_block(
    model: keras.Model, images: pd.DataFrame, batch_size: int
) -> dict[str, np.ndarray]:
    """
    Return `digest` (n,) and rounded `features` (n, n_features) of a block of photos.

    It is a task that any process can do. The parameters are those of `send_through`.
    """
    batches = send_through(model, images, batch_size)
    rounded = [base_model.round_features(batch) for batch in batches]
    return {
        "digest": images["digest"].to_numpy(dtype=str),
        "features": np.concatenate(rounded),
    }


def send_through(
    model: keras.Model, images: pd.DataFrame, batch_size: int
) -> Iterator[np.ndarray]:
    """
    Yield what a model gives for photos, batch by batch; they are read ahead of it.

    Parameters
    ----------
    model : keras.Model
        It takes what the base model takes.
    images : DataFrame
        The photos, with the columns `path`, `file` and `digest`.
    batch_size : int

    Raises
    ------
    ValueError
        A photo has changed since it was digested, or the model gives NaN.
    """
    # On some processors, the activation makes a number of NaN.
    for weight in model.get_weights():
        _check_finite(weight)
    rows = list(images.itertuples())
    for batch in progress.read_ahead(_read, rows, batch_size):
        # Scaled here: in the model's graph it would be fused with a layer, and round
        # otherwise.
        resized = photos.resize_photos(batch)
        scaled = base_model.scale(resized)
        block = model.predict_on_batch(scaled)
        _check_finite(block)
        yield block


def _check_finite(values):
    """Raise an error if weights, or what a model gives, hold NaN or infinity."""
    if not np.isfinite(values).all():
        what = "the base model gives NaN or infinity"
        raise ValueError(f"{what}; its weights are damaged")


def _read(row):
    """Return a photo at the network's size if it is larger, and if it is unchanged."""
    photo = photos.read_photo(row.file)
    if photos.photo_digest(photo) != row.digest:
        raise ValueError(f"{row.path} has changed while the notebook ran; run it again")
    return photos.shrink_photo(photo)


# --- The bundled features -------------------------------------------------------------


_BUNDLED = {
    "format": ("i", ()),
    "base_model": ("U", ()),
    "classes": ("U", ("k",)),
    "path": ("U", ("n",)),
    "label": (np.int16, ("n",)),
    "split": (np.int8, ("n",)),
    "digest": ("U", ("n",)),
    "group": ("U", ("n",)),
    "features": _FEATURES,
}


def save_features(
    path: str | Path, images: pd.DataFrame, X: np.ndarray, base: keras.Model
) -> None:
    """
    Write the table of photos and their features as one file, a byte a feature.

    Parameters
    ----------
    path : path
        It ends in .npz.
    images : DataFrame
        The table of the labelled photos, with digests and groups.
    X : ndarray, shape (n, n_features)
        What `extract_features` returns for them.
    base : keras.Model
        The model that computed them, whose digest is recorded.
    """
    weights = [weight.tobytes() for weight in base.get_weights()]
    digest = files.digest(*weights)
    label = images["label"].cat
    split = images["split"].cat
    arrays = {
        "format": np.array(scenes.FEATURES_FORMAT),
        "base_model": np.array(digest),
        "classes": label.categories.to_numpy(dtype=str),
        "path": images["path"].to_numpy(dtype=str),
        "label": label.codes.to_numpy("int16"),
        "split": split.codes.to_numpy("int8"),
        "digest": images["digest"].to_numpy(dtype=str),
        "group": images["group"].to_numpy(dtype=str),
        "features": base_model.round_features(X),
    }
    files.write_arrays(path, arrays, compressed=True)


def load_bundled_features(
    path: str | Path = BUNDLED_FEATURES,
) -> tuple[pd.DataFrame, np.ndarray]:
    """
    Return the table of the labelled photos and their features, for runs without photos.

    Returns
    -------
    images : DataFrame
        As from `list_images` and `digest_photos`, with the `group` of look-alikes (of
        `dataset.group_images`); `file` is missing.
    X : ndarray of float32, shape (n, n_features)
        Row i belongs to `images.iloc[i]`, as from `extract_features`.

    Raises
    ------
    ValueError
        The file is damaged or of another format.
    """
    data = files.read_arrays(path, _BUNDLED)
    images = pd.DataFrame({"path": data["path"]})
    try:
        images["label"] = pd.Categorical.from_codes(data["label"], data["classes"])
        images["split"] = pd.Categorical.from_codes(data["split"], scenes.SPLITS)
    except ValueError as error:
        raise ValueError(f"{path} holds {error}; fetch it again") from error
    lacks_split = images["split"].isna().any()
    if data["format"] != scenes.FEATURES_FORMAT or lacks_split:
        raise ValueError(f"{path} is of another version; fetch it again")
    images["file"] = None
    images["digest"] = data["digest"]
    images["group"] = data["group"]
    images["problem"] = ""
    return images, base_model.restore_features(data["features"])
