"""
Features (section 3): the base model's features of an image, computed once.

An image is known by its pixels: its features are not computed again. Trains nothing.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import scenes
from scenes import base_model, files, photos, progress, settings

BLOCK_BATCHES = 32  # of photos go through the base model in one task
BUNDLED_FEATURES = Path(__file__).parents[1] / "features.npz"


def extract_features(
    images: pd.DataFrame,
    base: keras.Model,
    *,
    cache: str | Path,
    batch_size: int = 32,
) -> np.ndarray:
    """
    Send each photo through the base model once.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with the columns `path`, `file` and `digest`.
    base : keras.Model
        The model of `build_base_model`.
    cache : path
        An .npz file that keeps the features from run to run, in the format of
        `features.npz`. Photos are known by their pixels: only those that are not in it,
        or not computed by this base model, are computed; if there are any, it then
        holds the rows of `images`. Of interrupted work, all finished tasks are kept.
    batch_size : int
        Photos that go through the base model together.

    Returns
    -------
    ndarray of float32, shape (n, n_features)
        Row i belongs to `images.iloc[i]`. On disk a feature is a byte: it is rounded to
        256 steps, which moves the test accuracy by less than 0.2 points. All callers
        get the restored numbers.

    Raises
    ------
    ValueError
        Files cannot be read or have changed since they were digested; all are named. Or
        `cache` is a file that no call of this function has written.

    Notes
    -----
    A task is a block of 32 batches. joblib runs them one after the other, or spreads
    them over what `joblib.parallel_config` names; all machines find the photos at the
    same path.
    """
    settings.check(batch_size=batch_size)
    photos.refuse_unreadable(images)
    base_digest = files.digest(*(weight.tobytes() for weight in base.get_weights()))
    cache = Path(cache)
    with files.locked(cache):
        known, rounded = _read_cache(cache, base_digest)
        missing = images[~images["digest"].isin(known)].drop_duplicates("digest")
        digests, parts, failed = [known], [rounded], []
        try:
            for rows, block, problems in _extract(missing, base, batch_size):
                digests.append(missing["digest"].to_numpy(dtype=str)[rows])
                parts.append(block)
                failed += problems
        finally:
            place = {digest: row for row, digest in enumerate(np.concatenate(digests))}
            rounded = np.concatenate(parts)
            finished = images[images["digest"].isin(place)]
            rounded = rounded[finished["digest"].map(place).to_numpy(dtype=int)]
            if len(missing):
                _write_features(cache, finished, rounded, base_digest)
        photos.refuse(failed)
        return base_model.restore_features(rounded)


def _extract(images, base, batch_size):
    """
    Yield (rows, their rounded features, problems) block by block, as the blocks end.
    """
    size = BLOCK_BATCHES * batch_size
    starts = range(0, len(images), size)
    blocks = [images.iloc[start : start + size] for start in starts]
    folded = base_model.fold_batch_norm(base) if len(images) else base
    calls = [(rows[["path", "file", "digest"]], batch_size) for rows in blocks]
    with progress.bar(len(images), "Photos through the base model", "photo") as bar:
        done = progress.run_tasks(
            _extract_block, folded, calls, bar, [*map(len, blocks)]
        )
        for number, (rows, rounded, problems) in done:
            yield starts[number] + rows, rounded, problems


def _extract_block(base, images, batch_size):
    """
    Return (rows, their rounded features, problems) of one block: a task for any
    process.
    """
    rows, failed = [np.zeros(0, int)], []
    rounded = [np.zeros((0, base_model.N_FEATURES), "uint8")]
    for numbers, features in send_through(base, images, batch_size, failed):
        rows.append(numbers)
        rounded.append(base_model.round_features(features))
    return np.concatenate(rows), np.concatenate(rounded), failed


def send_through(
    model: keras.Model, images: pd.DataFrame, batch_size: int, failed: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Yield (rows, what a model gives for these photos) batch by batch, read ahead of it.
    """

    paths, photo_files, digests = (
        list(images[name]) for name in ("path", "file", "digest")
    )

    def read(row):
        photo = photos.read_photo(photo_files[row])
        if photos.photo_digest(photo) != digests[row]:
            raise ValueError(
                f"{paths[row]} has changed while the notebook ran; run it again"
            )
        return photos.shrink_photo(photo)

    tf.config.experimental.enable_op_determinism()
    # On some processors, the activation makes a number of NaN.
    whole = all(np.isfinite(weight).all() for weight in model.get_weights())
    run = _compile(model)
    for batch in filter(
        None, progress.run_ahead(read, range(len(images)), batch_size, failed)
    ):
        resized = photos.resize_photos([photo for _, photo in batch])
        # Not in the model's graph, where it would be fused with a layer, and round
        # otherwise.
        block = run(base_model.scale(resized)).numpy()
        if not (whole and np.isfinite(block).all()):
            raise ValueError(
                "the base model gives NaN or infinity; its weights are damaged"
            )
        yield np.array([row for row, _ in batch]), block


@functools.lru_cache(1)
def _compile(model):
    """Return the model's graph, which takes seconds to build, once for all blocks."""
    return tf.function(
        lambda batch: model(batch, training=False), reduce_retracing=True
    )


def _read_cache(cache, base_digest):
    """
    Return the digests and rounded features of the cache, none where it is of no use.
    """
    none = np.array([], dtype=str), np.zeros((0, base_model.N_FEATURES), "uint8")
    if not cache.exists():
        return none
    ours = files.begins_with(cache, b"format.npy", b"classes.npy")  # of any version
    if not ours or cache.resolve() == BUNDLED_FEATURES.resolve():
        raise ValueError(
            f"{cache} is no cache of features, and is not replaced; choose another"
        )
    try:
        images, rounded, made_by = _read_features(cache)
    except ValueError as error:
        print(f"The features are computed again: {error}")
        return none
    if made_by != base_digest:
        print(f"The features are computed again: {cache} is of other weights")
        return none
    return images["digest"].to_numpy(dtype=str), rounded


def _write_features(path, images, rounded, base_digest):
    columns = {
        "format": np.array(scenes.FEATURES_FORMAT),
        "base_model": np.array(base_digest),
        "classes": np.array(list(images["label"].cat.categories), dtype=str),
        "path": images["path"].to_numpy(dtype=str),
        "label": images["label"].cat.codes.to_numpy(dtype="int16"),
        "split": images["split"].cat.codes.to_numpy(dtype="int8"),
        "digest": images["digest"].to_numpy(dtype=str),
        "features": rounded,
    }
    files.write_arrays(path, columns, compressed=True)


def _read_features(path):
    """
    Read and check a file of features: the table, the rounded features, the base model.
    """
    schema = {
        "format": ("i", ()),
        "base_model": ("U", ()),
        "classes": ("U", ("k",)),
        "path": ("U", ("n",)),
        "label": (np.int16, ("n",)),
        "split": (np.int8, ("n",)),
        "digest": ("U", ("n",)),
        "features": (np.uint8, ("n", base_model.N_FEATURES)),
    }
    data = files.read_arrays(path, schema)
    codes = {"label": (-1, len(data["classes"])), "split": (0, len(scenes.SPLITS))}
    layout = scenes.FEATURES_FORMAT
    good = data["format"] == layout and len(set(data["classes"])) == len(
        data["classes"]
    )
    for name, (low, high) in codes.items():
        good &= bool(((data[name] >= low) & (data[name] < high)).all())
    if not good:
        raise ValueError(f"{path} holds no features in format {layout}; make it again")
    labels = pd.Categorical.from_codes(data["label"], categories=data["classes"])
    splits = pd.Categorical.from_codes(data["split"], categories=scenes.SPLITS)
    images = pd.DataFrame({"path": data["path"], "label": labels, "split": splits})
    images = images.assign(file=None, digest=data["digest"], problem="")
    return images, data["features"], str(data["base_model"])


def load_bundled_features(
    path: str | Path = BUNDLED_FEATURES,
) -> tuple[pd.DataFrame, np.ndarray]:
    """
    Load the table of the labelled photos and their features, for runs without photos.

    Returns
    -------
    images : DataFrame
        As from `list_images` and `digest_photos`, without photos: `file` is missing.
    X : ndarray of float32, shape (n, n_features)
        Row i belongs to `images.iloc[i]`, as from `extract_features`.

    Raises
    ------
    ValueError
        The file is damaged or of another format.
    """
    images, rounded, _ = _read_features(Path(path))
    return images, base_model.restore_features(rounded)
