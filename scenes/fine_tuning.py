"""
Fine-tuning (section 8): the upper layers of the base model train, too.

An interrupted training resumes after its last finished epoch. Knows nothing of grids.
"""

import errno
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops

import scenes
from scenes import base_model, features, files, heads, photos, progress, settings

# A few hundred images make few steps an epoch, and five such epochs can make the model
# worse than its own head. So there are more epochs until there are so many steps, but
# not so many that a dozen images are learned by heart.
MIN_STEPS, MAX_EPOCHS = 400, 60
STEPS_A_MINUTE = (
    240  # with half of the layers, on two CPU cores; only to announce the time
)


def fine_tune(
    images: pd.DataFrame,
    base: keras.Model,
    head: keras.Model,
    *,
    first_layer: str,
    learning_rate: float,
    weight_decay: float = 0.01,
    label_smoothing: float,
    epochs: int,
    batch_size: int = 32,
    class_weight: str | None = None,
    seed: int = 0,
    cache: str | Path,
) -> tuple[keras.Model, keras.Model, pd.DataFrame]:
    """
    Return the base model and the head, trained together from `first_layer` on.

    The layers below `first_layer` are frozen, so their activations are data, as the
    features are for the head: they are computed once for each image and its horizontal
    flip, and each epoch trains the upper layers on one of the two, drawn at random.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with digests. Those of the split 'train' train; those
        of 'validation', if there are any, are evaluated after each epoch. The head has
        an output for each category of its labels.
    base, head : keras.Model
        What `build_base_model` and `train_head` return; they stay as they are.
    first_layer : str
        The first layer that trains, one of `base_model.FIRST_LAYERS`.
    learning_rate : float
        Its peak: it rises for a tenth of the steps and then falls to 0 along a cosine.
    weight_decay : float
        Of AdamW (Loshchilov & Hutter, 2019), on all weights but biases.
    label_smoothing : float
        The share of each label that is spread over all classes (Szegedy et al., 2016).
    epochs : int
        At least; small training sets take more, see `count_epochs`.
    batch_size : int
    class_weight : {None, 'balanced'}
        'balanced' weights each class by the inverse of its frequency in the training
        set, in the loss and in the accuracies.
    seed : int
        Of the order of the images, the flips and the dropout masks; it becomes the
        global seed of Keras.
    cache : path
        The folder for the activations (some 50 KB an image) and for the
        state after the last finished epoch, from which the next call with the same
        arguments goes on; when all are finished, it returns at once. Nothing in it is
        needed afterwards.

    Returns
    -------
    base, head : keras.Model
        Trained copies, for `build_classifier`.
    history : DataFrame
        One row for each epoch: `epoch` (from 1), `loss` (with label smoothing and L2),
        `accuracy`, and with validation photos `val_loss`, `val_accuracy`.

    Raises
    ------
    ValueError
        An argument is impossible, or files cannot be read; all are named.
    OSError
        The disk has no room for the activations.
    RuntimeError
        Another process does the same training in the same cache.

    Notes
    -----
    BatchNormalization stays in inference mode: with the statistics of ImageNet, and
    frozen. (In a model built by Keras's functional API it is not enough to call a layer
    with `training=False`: `fit` overrides that. A frozen BatchNormalization layer is
    safe.)
    """
    options = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
    }
    options |= {
        "label_smoothing": label_smoothing,
        "batch_size": batch_size,
        "epochs": epochs,
    }
    options |= {"class_weight": class_weight, "first_layer": first_layer}
    settings.check(**options)
    images = images[images["split"].isin(["train", "validation"])]
    labels, weights, training, validation = _targets(images, head, class_weight)
    steps = -(-len(training) // batch_size)
    epochs = count_epochs(steps, epochs)
    name = _fingerprint(images, base, head, options | {"epochs": epochs})
    checkpoint = _Checkpoint(
        Path(cache, f"fine-tuning-{name}.npz"), with_val=len(validation) > 0
    )
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(int(seed))  # Keras refuses whole numbers of NumPy
    base, head = (_copy_model(model) for model in (base, head))
    lower, model = _cut(base, head, first_layer)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    optimizer = _adamw(learning_rate, weight_decay, steps=epochs * steps)
    model.compile(optimizer, loss, weighted_metrics=["accuracy"], jit_compile=False)
    with files.locked(checkpoint.path):
        if left := range(checkpoint.restore(model), epochs):
            data = (_activations(images, lower, Path(cache)), labels, weights)
            held_out = (data[0][validation, 0], labels[validation], weights[validation])
            batches = _batches(*data, training, batch_size, seed, left)
            _fit(model, batches, held_out, checkpoint, left, steps)
    return base, head, checkpoint.table()


def count_epochs(steps: int, epochs: int) -> int:
    """
    Return how many epochs of so many steps a training takes: `epochs`, or more if it is
    short.

    More until there are `MIN_STEPS` steps in all, but not more than `MAX_EPOCHS`
    epochs.
    """
    return max(epochs, min(MAX_EPOCHS, -(-MIN_STEPS // steps)))


def _targets(images, head, class_weight):
    """
    Return one-hot labels, sample weights, and the rows for training and validation.
    """
    training, validation = (
        np.flatnonzero(images["split"] == split) for split in ("train", "validation")
    )
    if not len(training) or images["label"].isna().any():
        raise ValueError(
            "images must hold photos of the split 'train', all with a label"
        )
    photos.refuse_unreadable(images)
    n_classes, outputs = len(images["label"].cat.categories), head.output_shape[-1]
    if n_classes != outputs:
        raise ValueError(
            f"{n_classes} classes need a head of {n_classes} outputs, not {outputs}"
        )
    y = images["label"].cat.codes.to_numpy()
    weights = heads.class_weights(y[training], class_weight, n_classes)[y]
    return np.eye(n_classes, dtype="float32")[y], weights, training, validation


def _fingerprint(images, base, head, options):
    """Return what tells one training from another: all that its result depends on."""
    dropout, penalty = head.layers[0].rate, head.layers[-1].kernel_regularizer.l2
    given = [images["digest"], images["split"] == "train", images["label"].cat.codes]
    given += [
        options,
        float(dropout),
        float(penalty),
        *base.get_weights(),
        *head.get_weights(),
    ]
    return files.fingerprint(scenes.VERSIONS, given)


def _cut(base, head, first_layer):
    """
    Return the layers below `first_layer`, and a model of those from it on and the head.
    """
    entrance = base.get_layer(first_layer).input
    lower, upper = keras.Model(base.input, entrance), keras.Model(entrance, base.output)
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return lower, keras.Sequential([keras.Input(entrance.shape[1:]), upper, head])


def _fit(model, batches, held_out, checkpoint, left, steps):
    """Train the epochs that are left, of so many steps each."""
    done, epochs, minutes = (
        left.start,
        left.stop,
        math.ceil(len(left) * steps / STEPS_A_MINUTE),
    )
    print(
        f"Fine-tuning: {epochs} epochs of {steps} batches, about "
        f"{minutes} min on two CPU cores."
    )
    options = {"epochs": epochs, "initial_epoch": done, "steps_per_epoch": steps}
    options |= {"validation_data": held_out if len(held_out[0]) else None}
    with progress.bar(epochs * steps, "Fine-tuning", "batch") as bar:
        bar.update(done * steps)
        moving = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: bar.update()
        )
        callbacks = [moving, checkpoint]
        model.fit(batches, **options, shuffle=False, verbose=0, callbacks=callbacks)


def _adamw(learning_rate, weight_decay, *, steps):
    """
    Return AdamW whose learning rate rises for a tenth of the steps and then falls to 0.
    """
    warm_up = -(-steps // 10)
    warm_up_options = {"warmup_target": learning_rate, "warmup_steps": warm_up}
    decay_steps = max(1, steps - warm_up)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps, **warm_up_options
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def _copy_model(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _activations(images, lower, cache):
    """
    Compute, or load from disk, the lower layers' activations for each image and its
    flip.

    An array of float16, shape (n, 2, height, width, channels). The file's name holds a
    hash of all that it depends on and one of its content: a damaged file is computed
    again.
    """
    photo = keras.Input(lower.input_shape[1:])
    folded = base_model.fold_batch_norm(lower)
    views = ops.stack([folded(photo), folded(ops.flip(photo, axis=2))], axis=1)
    both = keras.Model(photo, ops.cast(views, "float16"))
    name = files.fingerprint(scenes.VERSIONS, images["digest"], lower.get_weights())
    with files.locked(cache / "activations.npy"):
        kept = list(cache.glob(f"activations-{'[0-9a-f]' * 16}-{'[0-9a-f]' * 16}.npy"))
        kept = [
            path
            for path in kept
            if files.begins_with(path, b"NUMPY", b"'descr': '<f2'")
        ]
        for path in kept:
            if path.stem == f"activations-{name}-{files.file_digest(path)}":
                return np.load(path, mmap_mode="r")
        for path in kept:
            path.unlink()  # damaged, or of other images or layers
        return np.load(_write_activations(images, both, cache, name), mmap_mode="r")


def _write_activations(images, both, cache, name):
    """Write the activations block by block, and return the path of the file."""
    shape, failed = (len(images), *both.output_shape[1:]), []
    if (size := 2 * math.prod(shape)) > shutil.disk_usage(cache).free:
        what = (
            f"{cache} has no room for activations of {size / 2**20:,.0f} MB: make room"
        )
        raise OSError(
            errno.ENOSPC, f"{what}, or choose another cache or a higher first_layer"
        )
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    showing = progress.bar(len(images), "Photos through the lower layers", "photo")
    with files.unfinished(cache / "activations.npy") as beside:
        with open(beside, "wb") as file, showing as bar:
            np.lib.format.write_array_header_1_0(file, header)
            for _, block in features.send_through(both, images, 32, failed):
                file.write(block)
                bar.update(len(block))
        photos.refuse(failed)
        path = cache / f"activations-{name}-{files.file_digest(beside)}.npy"
        files.move(beside, path)
        return path


def _batches(activations, labels, weights, rows, batch_size, seed, epochs):
    """
    Yield the batches of these epochs.

    The order and the views of an epoch depend on its number and the seed alone, so that
    a training that goes on sees the batches that it would have seen without the
    interruption.
    """
    for epoch in epochs:
        rng = np.random.default_rng([seed, epoch])
        order, views = rng.permutation(rows), rng.integers(2, size=len(rows))
        for start in range(0, len(rows), batch_size):
            batch, view = (
                numbers[start : start + batch_size] for numbers in (order, views)
            )
            yield (
                activations[batch, view].astype("float32"),
                labels[batch],
                weights[batch],
            )


class _Checkpoint(keras.callbacks.Callback):
    """
    Keeps all that the last finished epoch leaves in one file.

    Keras's BackupAndRestore writes weights and epoch into two files, which a kill can
    leave of different epochs, and keeps neither the history nor how far dropout has
    drawn.
    """

    def __init__(self, path, *, with_val):
        super().__init__()
        self.path, self.metrics, self.history = (
            path,
            scenes.METRICS[: 4 if with_val else 2],
            [],
        )

    def _state(self, model):
        draws = [v for v in model.variables if v.name == "seed_generator_state"]
        variables = [*model.weights, *model.optimizer.variables, *draws]
        return {f"variable_{i}": variable for i, variable in enumerate(variables)}

    def restore(self, model):
        """
        Put the model into the state that was kept, and return the epochs that are done.
        """
        if not self.path.exists():
            return 0
        model.optimizer.build(model.trainable_variables)
        state = self._state(model)
        try:
            schema = {k: (np.dtype(v.dtype), tuple(v.shape)) for k, v in state.items()}
            schema["history"] = (np.float64, ("epochs", len(self.metrics)))
            arrays = files.read_arrays(self.path, schema)
        except ValueError as error:
            print(f"The fine-tuning begins again: {error}")
            return 0
        for name, variable in state.items():
            variable.assign(arrays[name])
        self.history = arrays["history"].tolist()
        return len(self.history)

    def table(self):
        """Return the history: a row for each epoch, counted from 1."""
        history = pd.DataFrame(self.history, columns=self.metrics)
        history.insert(0, "epoch", np.arange(1, len(history) + 1))
        return history

    def on_epoch_end(self, epoch, logs=None):
        self.history.append([float(logs[name]) for name in self.metrics])
        state = {k: ops.convert_to_numpy(v) for k, v in self._state(self.model).items()}
        files.write_arrays(self.path, state | {"history": np.array(self.history)})
