"""
Features (section 3): the frozen trunk, and what it makes of a photo, once.

*Trunk* is what Keras calls the base model, others the backbone: MobileNetV2 without its
classifier. A photo that is known by its pixels is not computed again. Trains nothing.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import scenes
from scenes import files, photos, settings, tasks

BLOCK_BATCHES = 32  # of photos go through the trunk in one task
BUNDLED_FEATURES = Path(__file__).parents[1] / "features.npz"


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
    settings.check(weights=weights)
    trunk = keras.applications.MobileNetV2(
        input_shape=(scenes.IMAGE_SIZE, scenes.IMAGE_SIZE, 3),
        include_top=False,
        pooling="avg",
        weights=None if weights is None else str(weights),
    )
    trunk.trainable = False
    return trunk


def prepare_photo(photo: tf.Tensor) -> tf.Tensor:
    """Resize and scale a photo as the saved classifier does."""
    size = (scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)
    # Antialiasing changes nothing where a photo grows, as those of this data set do, but
    # takes 1.5 ms; where it shrinks, it keeps fine patterns from turning into noise.
    resized = tf.cond(
        tf.reduce_max(tf.shape(photo)) <= scenes.IMAGE_SIZE,
        lambda: tf.image.resize(photo, size),
        lambda: tf.image.resize(photo, size, antialias=True),
    )
    return keras.applications.mobilenet_v2.preprocess_input(resized)


def round_features(features: np.ndarray) -> np.ndarray:
    """
    Round features, 0 to 6 behind the trunk's ReLU6, to 256 steps that are finer near 0.

    The square root spends the steps where the numbers are: most features are below 1.
    """
    features = np.clip(features, 0, 6).astype("float64")  # else its own errors round, too
    return np.round(255 * np.sqrt(features / 6)).astype("uint8")


def restore_features(rounded: np.ndarray) -> np.ndarray:
    table = 6 * (np.arange(256) / 255) ** 2
    return table.astype("float32")[rounded]


def weights_digest(model: keras.Model) -> str:
    return files.digest(*(weight.tobytes() for weight in model.get_weights()))


def extract_features(
    images: pd.DataFrame,
    folder: str | Path,
    trunk: keras.Model,
    *,
    cache: str | Path,
    batch_size: int = 32,
) -> np.ndarray:
    """
    Send each photo through the trunk once.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with digests.
    folder : path
        The folder that the table's paths are relative to.
    trunk : keras.Model
        The model of `build_trunk`.
    cache : path
        An .npz file that keeps the features from run to run, in the format of
        `features.npz`. Photos are known by their pixels: only those that are not in it,
        or not computed by this trunk, are computed; if there are any, it then holds the
        rows of `images`. What is done is kept when the work is interrupted.
    batch_size : int
        Photos that go through the trunk together.

    Returns
    -------
    ndarray of float32, shape (n, 1280)
        Row i belongs to `images.iloc[i]`. Rounded to 256 steps, as the cache keeps them
        (17 MB for all photos; it moves the test accuracy by less than 0.2 points). Memory
        grows by the output and a bounded number of batches.

    Raises
    ------
    ValueError
        Files cannot be read or have changed since they were digested; all are named.

    Notes
    -----
    A task is a block of 32 batches. joblib runs them one after the other, or spreads them
    over what `joblib.parallel_config` names; all machines find the photos at the same path.
    """
    settings.check(batch_size=batch_size)
    photos.refuse_unreadable(images)
    cache, trunk_digest = Path(cache), weights_digest(trunk)
    with files.locked(cache):
        known, rounded = _read_cache(cache, trunk_digest)
        missing = images[~images["digest"].isin(known)].drop_duplicates("digest")
        size = BLOCK_BATCHES * batch_size
        blocks = [missing.iloc[start : start + size] for start in range(0, len(missing), size)]
        folder = str(Path(folder).resolve())
        # Lists, since Dask keeps the only copy of a larger object on one machine, which may die.
        calls = [
            (trunk, list(block["path"]), list(block["digest"]), folder, batch_size)
            for block in blocks
        ]
        digests, parts, failed = [known], [rounded], []
        try:
            with tasks.progress(len(missing), "Photos through the trunk", "photo") as bar:
                for number, result in tasks.run_tasks(
                    _extract_block, calls, bar, [*map(len, blocks)]
                ):
                    rows, block, problems, stopped = result
                    parts.append(block)
                    digests.append(blocks[number]["digest"].to_numpy()[rows])
                    failed += problems
                    if stopped:
                        raise stopped
        finally:
            place = {digest: row for row, digest in enumerate(np.concatenate(digests))}
            rounded = np.concatenate(parts)
            finished = images[images["digest"].isin(place)]
            rows = finished["digest"].map(place).to_numpy(dtype=int)
            if len(missing):
                _write_features(cache, finished, rounded[rows], trunk_digest)
        photos.refuse(failed)
        return restore_features(rounded[rows])


def _extract_block(
    trunk: keras.Model,
    paths: list[str],
    digests: list[str],
    folder: str,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray, list[str], BaseException | None]:
    """
    Return (rows, their rounded features, problems, what stopped it before its end).

    That, an interrupt perhaps, is for the caller to raise, who first keeps what is done.
    """
    batches, failed, stopped = (
        [(np.zeros(0, int), np.zeros((0, scenes.N_FEATURES), "uint8"))],
        [],
        None,
    )
    try:
        for rows, features in send_through(trunk, paths, digests, folder, batch_size, failed):
            batches.append((rows, round_features(features)))
    except (Exception, KeyboardInterrupt) as error:
        stopped = error
    rows, rounded = map(np.concatenate, zip(*batches, strict=True))
    return rows, rounded, failed, stopped


def send_through(
    trunk: keras.Model,
    paths: Sequence[str],
    digests: Sequence[str],
    folder: str | Path,
    batch_size: int,
    failed: list[str],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows, what the trunk gives for them) batch by batch."""

    def read(row: np.int64) -> np.ndarray:
        try:
            photo = photos.read_photo(Path(folder, paths[row]))
            if photos.photo_digest(photo) == digests[row]:
                return photo
            failed.append(f"{paths[row]} has changed while the notebook ran; run it again")
        except ValueError as error:
            failed.append(str(error))
        return np.zeros((1, 1, 0), "uint8")  # no channels: filtered out below

    def load(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        photo = tf.numpy_function(read, [row], tf.uint8, stateful=False)
        photo.set_shape((None, None, None))
        return row, photo

    def prepare(row: tf.Tensor, photo: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return row, prepare_photo(tf.ensure_shape(photo, (None, None, 3)))

    batches = (
        tf.data.Dataset.range(len(paths))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .filter(lambda row, photo: tf.shape(photo)[-1] == 3)
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(2)
    )
    # On some processors, ReLU6 makes a number of NaN.
    whole = all(np.isfinite(weight).all() for weight in trunk.get_weights())
    strategy = tf.distribute.get_strategy()  # with one device, all below is a plain loop
    run = _compile(trunk, strategy)
    for rows, batch in strategy.experimental_distribute_dataset(batches):
        rows, block = (
            np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])
            for value in (rows, run(batch))
        )
        if not (whole and np.isfinite(block).all()):
            raise ValueError("the trunk gives NaN or infinity; its weights are damaged")
        yield rows, block


@functools.lru_cache(1)
def _compile(trunk: keras.Model, strategy: tf.distribute.Strategy) -> Callable:
    """Return the trunk's graph, which takes seconds to build, once for all blocks."""
    return tf.function(
        lambda batch: strategy.run(trunk, args=(batch,), kwargs={"training": False}),
        reduce_retracing=True,
    )


def _read_cache(cache: Path, trunk_digest: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digests and rounded features of the cache, none where it is of no use."""
    none = np.array([], dtype=str), np.zeros((0, scenes.N_FEATURES), "uint8")
    if not cache.exists():
        return none
    try:
        images, rounded, made_by = _read_features(cache)
    except ValueError as error:
        print(f"The features are computed again: {error}")
        return none
    if made_by != trunk_digest:
        print(f"The features are computed again: {cache} is of other weights")
        return none
    first = ~images["digest"].duplicated().to_numpy()
    return images["digest"].to_numpy(dtype=str)[first], rounded[first]


def _write_features(
    path: Path, images: pd.DataFrame, rounded: np.ndarray, trunk_digest: str
) -> None:
    columns = {
        "format": np.array(scenes.FORMAT),
        "trunk": np.array(trunk_digest),
        "path": images["path"].to_numpy(dtype=str),
        "label": images["label"].cat.codes.to_numpy(dtype="int8"),
        "split": images["split"].cat.codes.to_numpy(dtype="int8"),
        "digest": images["digest"].to_numpy(dtype=str),
        "features": rounded,
    }
    files.write_arrays(path, columns)


def _read_features(path: Path) -> tuple[pd.DataFrame, np.ndarray, str]:
    """Read and check a file of features: the table, the rounded features, the trunk."""
    column = ("n",)
    schema = {
        "format": ("i", ()),
        "trunk": ("U", ()),
        "path": ("U", column),
        "label": ("i", column),
        "split": ("i", column),
        "digest": ("U", column),
        "features": (np.uint8, ("n", scenes.N_FEATURES)),
    }
    data = files.read_arrays(path, schema)
    n = len(data["path"])
    good = (
        data["format"] == scenes.FORMAT
        and (n == 0 or (data["label"].min() >= -1 and data["label"].max() < len(scenes.CLASSES)))
        and (n == 0 or (data["split"].min() >= 0 and data["split"].max() < len(scenes.SPLITS)))
    )
    if not good:
        raise ValueError(
            f"{path} is not a file of features in format {scenes.FORMAT}; make it again"
        )
    images = pd.DataFrame(
        {
            "path": data["path"],
            "label": pd.Categorical.from_codes(data["label"], categories=scenes.CLASSES),
            "split": pd.Categorical.from_codes(data["split"], categories=scenes.SPLITS),
            "digest": data["digest"],
            "problem": "",
        }
    )
    return images, data["features"], str(data["trunk"])


def load_bundled_features(
    path: str | Path = BUNDLED_FEATURES,
) -> tuple[pd.DataFrame, np.ndarray]:
    """
    Load the table of the labelled photos and their features, for runs without photos.

    Returns
    -------
    images : DataFrame
        As from `list_images` and `digest_photos`.
    features : ndarray of float32, shape (n, 1280)
        Row i belongs to `images.iloc[i]`; rounded as `extract_features` does.

    Raises
    ------
    ValueError
        The file is damaged or of another format.
    """
    images, rounded, _ = _read_features(Path(path))
    return images, restore_features(rounded)
