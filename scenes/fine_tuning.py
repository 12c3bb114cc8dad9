"""
Fine-tuning (section 8): the upper layers of the base model train, too.

An interrupted training resumes after its last finished epoch. Knows nothing of grids.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from sklearn.utils.class_weight import compute_sample_weight

import scenes
from scenes import base_model, features, files, photos, progress, settings, store

# A few hundred images make few steps an epoch, and five such epochs can make the model
# worse than its own head. So there are more epochs until there are so many steps, but
# not so many that a dozen images are learned by heart.
MIN_STEPS, MAX_EPOCHS = 400, 60
# Through half of the layers on two CPU cores; only to announce the time.
IMAGES_A_MINUTE = 7500
KIND = "fine-tuning"  # of the checkpoints in the store
ACTIVATIONS = "activations"  # in the store
KEPT_CHECKPOINTS = 12  # of 24 MB each: those of some four runs
KEPT_HOURS = 24  # none is dropped that a run may still resume from


@scenes.float32()
def fine_tune(
    images: pd.DataFrame,
    base: keras.Model,
    head: keras.Model,
    options: settings.FineTuningOptions,
    *,
    cache: str | Path,
) -> tuple[keras.Model, keras.Model, pd.DataFrame]:
    """
    Return the base model and the head, trained together, and the history.

    The layers below `options.first_layer` are frozen, so their activations are data, as
    the features are for the head: they are computed once for each image and its
    horizontal flip, and each epoch trains the upper layers on one of the two, drawn at
    random.

    Parameters
    ----------
    images : DataFrame
        The table of the photos, with `file` and digests. Those of the split 'train'
        train; those of 'validation', if there are any, are evaluated after each epoch.
        The head has an output for each category of the labels.
    base, head : keras.Model
        What `build_base_model` and `train_head` return; they stay as they are.
    options : FineTuningOptions
        The seed becomes the global seed of Keras. Class weights are computed from each
        split; they weight its loss and accuracy: a balanced one is what it is called.
    cache : path
        The folder for the activations (some 50 KB an image) and for the state after the
        last finished epoch, from which the next call with the same arguments goes on;
        when all are finished, it returns at once. Nothing in it is needed afterwards.

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
        Files cannot be read; ten of them are named.
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
    is_used = images["split"].isin(["train", "validation"])
    images = images[is_used]
    data = _read_targets(images, head, options.class_weight)
    n_images = len(data.training_rows)
    epochs, batch_size = plan_epochs(n_images, options.epochs, options.batch_size)
    options = dataclasses.replace(options, epochs=epochs, batch_size=batch_size)
    steps = math.ceil(n_images / batch_size)
    fingerprint = _fingerprint(images, base, head, options)
    entry = store.Entry(cache, KIND, fingerprint)
    keras.utils.set_random_seed(options.seed)
    base, head = base_model.copy_model(base), base_model.copy_model(head)
    lower, model = cut(base, head, options.first_layer)
    compile_model(model, options, steps=epochs * steps)
    metrics = scenes.METRICS if len(data.validation_rows) else scenes.METRICS[:2]
    checkpoint = _Checkpoint(entry, model, metrics)
    with entry.lock():
        done = checkpoint.restore()
        if done < epochs:
            activations = compute_activations(images, lower, cache)
            _fit(model, data, activations, options, steps, checkpoint, done)
    return base, head, checkpoint.table()


def plan_epochs(n_images: int, epochs: int, batch_size: int) -> tuple[int, int]:
    """
    Return the number of epochs and the batch size of a training of so many images.

    They are those that are given, unless these make fewer than `MIN_STEPS` steps. Then
    the batches are half as large, and there are more epochs until there are so many
    steps, but not more than `MAX_EPOCHS`. (Batches of the full size would take 1.7 x as
    long for as many steps, and make no better models: tools/BENCHMARK.md.)
    """
    if epochs * math.ceil(n_images / batch_size) < MIN_STEPS:
        batch_size = math.ceil(batch_size / 2)
        steps = math.ceil(n_images / batch_size)
        enough = math.ceil(MIN_STEPS / steps)
        epochs = max(epochs, min(MAX_EPOCHS, enough))
    return epochs, batch_size


def describe_time(sizes: Sequence[int], epochs: int) -> str:
    """
    Return one line on how long trainings of so many photos each take.

    `epochs` are those of the options, `sizes` the numbers of photos.
    """
    batch_size = settings.FineTuningOptions.batch_size
    seen = 0
    for n_images in sizes:
        epochs_of_size, _ = plan_epochs(n_images, epochs, batch_size)
        seen += epochs_of_size * n_images
    minutes = math.ceil(seen / IMAGES_A_MINUTE)
    return (
        f"Fine-tuning: up to {len(sizes)} trainings, about {minutes} min on two CPU "
        f"cores (less if resumed)."
    )


def forget_checkpoints(cache: str | Path) -> None:
    """
    Delete the oldest checkpoints; `KEPT_CHECKPOINTS`, those of the last day and those
    in use stay.
    """
    store.prune(cache, KIND, keep=KEPT_CHECKPOINTS, hours=KEPT_HOURS)


@dataclasses.dataclass(frozen=True)
class _Targets:
    """One-hot labels (n, classes), weights (n,), and the rows of both splits."""

    labels: np.ndarray
    weights: np.ndarray
    training_rows: np.ndarray
    validation_rows: np.ndarray


def _read_targets(images, head, class_weight):
    """Return the targets of a table of photos, or say why they cannot train a head."""
    training_rows = np.flatnonzero(images["split"] == "train")
    if not len(training_rows) or images["label"].isna().any():
        raise ValueError("images must hold photos of the split 'train', all labelled")
    photos.refuse_unreadable(images)
    n_classes, outputs = len(images["label"].cat.categories), head.output_shape[-1]
    if n_classes != outputs:
        raise ValueError(
            f"{n_classes} classes need a head of {n_classes} outputs, not {outputs}"
        )
    y = images["label"].cat.codes.to_numpy()
    validation_rows = np.flatnonzero(images["split"] == "validation")
    weights = np.zeros(len(y), "float32")
    for rows in (training_rows, validation_rows):
        if len(rows):
            weights[rows] = compute_sample_weight(class_weight, y[rows])
    return _Targets(
        labels=np.eye(n_classes, dtype="float32")[y],
        weights=weights,
        training_rows=training_rows,
        validation_rows=validation_rows,
    )


def _fingerprint(images, base, head, options):
    """Return the fingerprint of a training: of all that its result depends on."""
    dropout = float(head.layers[0].rate)
    penalty = float(head.layers[-1].kernel_regularizer.l2)
    return files.fingerprint(
        scenes.VERSIONS,
        images["digest"],
        images["split"] == "train",
        images["label"].cat.codes,
        dataclasses.asdict(options),
        dropout,
        penalty,
        base.get_weights(),
        head.get_weights(),
    )


def cut(
    base: keras.Model, head: keras.Model, first_layer: str
) -> tuple[keras.Model, keras.Model]:
    """
    Return the layers below `first_layer`, and a model of those from it on and the head.

    All layers of the second but BatchNormalization are trainable.
    """
    entrance = base.get_layer(first_layer).input
    lower = keras.Model(base.input, entrance)
    upper = keras.Model(entrance, base.output)
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    activations = keras.Input(entrance.shape[1:])
    return lower, keras.Sequential([activations, upper, head])


def compile_model(
    model: keras.Model, options: settings.FineTuningOptions, *, steps: int
) -> None:
    """
    Compile a model with AdamW, whose learning rate rises and then falls to 0.

    It rises for a tenth of the steps and falls along a cosine. Biases have no weight
    decay.
    """
    warm_up = math.ceil(steps / 10)
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warm_up),
        warmup_target=options.learning_rate,
        warmup_steps=warm_up,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=options.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=options.label_smoothing)
    model.compile(optimizer, loss, weighted_metrics=["accuracy"], jit_compile=False)


def compute_activations(
    images: pd.DataFrame, lower: keras.Model, cache: str | Path
) -> np.ndarray:
    """
    Return the lower layers' activations for each image and its flip, from the cache.

    Returns
    -------
    ndarray of float16, shape (n, 2, height, width, channels)
        Mapped from disk.
    """
    given = [scenes.VERSIONS, images["digest"], lower.get_weights()]
    entry = store.Entry(cache, ACTIVATIONS, files.fingerprint(given))
    with entry.lock():
        activations = entry.map()
        if activations is None:
            photo = keras.Input(lower.input_shape[1:])
            folded = base_model.fold_batch_norm(lower)
            flipped = ops.flip(photo, axis=2)
            views = ops.stack([folded(photo), folded(flipped)], axis=1)
            both = keras.Model(photo, ops.cast(views, "float16"))
            shape = (len(images), *both.output_shape[1:])
            blocks = _send_through(both, images)
            activations = entry.put_blocks(shape, "<f2", blocks)
    return activations


def _send_through(model, images):
    """Yield the activations of photos block by block, and show how far they are."""
    with progress.bar(len(images), "Photos through the lower layers", "photo") as bar:
        for block in features.send_through(model, images, 32):
            yield block
            bar.update(len(block))


def _fit(model, data, activations, options, steps, checkpoint, done):
    """Train the epochs that are left, of so many steps each."""
    epochs = options.epochs
    held_out = data.validation_rows
    validation_data = None
    if len(held_out):
        validation_data = (
            activations[held_out, 0],
            data.labels[held_out],
            data.weights[held_out],
        )
    batches = _draw_batches(activations, data, options, range(done, epochs))
    with progress.bar(epochs * steps, "Fine-tuning", "batch") as bar:
        bar.update(done * steps)
        move = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: bar.update()
        )
        model.fit(
            batches,
            epochs=epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            validation_data=validation_data,
            shuffle=False,
            verbose=0,
            callbacks=[move, checkpoint],
        )


def _draw_batches(activations, data, options, epochs):
    """
    Yield the batches of these epochs: activations, one-hot labels and weights.

    The order and the views of an epoch depend on its number and the seed alone, so that
    a training that goes on sees the batches that it would have seen without the
    interruption.
    """
    rows, size = data.training_rows, options.batch_size
    for epoch in epochs:
        rng = np.random.default_rng([options.seed, epoch])
        order = rng.permutation(rows)
        views = rng.integers(2, size=len(rows))
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            view = views[start : start + size]
            images = activations[batch, view].astype("float32")
            yield images, data.labels[batch], data.weights[batch]


class _Checkpoint(keras.callbacks.Callback):
    """
    Keeps all that the last finished epoch leaves, as one entry of the store.

    Keras's BackupAndRestore writes weights and epoch into two files, which a kill can
    leave of different epochs, and keeps neither the history nor how far dropout has
    drawn.
    """

    def __init__(self, entry, model, metrics):
        super().__init__()
        self._entry, self._trained = entry, model
        self._metrics, self._history = metrics, []
        model.optimizer.build(model.trainable_variables)

    def _state(self):
        """Return all variables by name: of weights, optimizer and dropout's draws."""
        model = self._trained
        draws = [v for v in model.variables if v.name == "seed_generator_state"]
        variables = [*model.weights, *model.optimizer.variables, *draws]
        return {f"variable_{i}": variable for i, variable in enumerate(variables)}

    def restore(self):
        """Put the model into the state that was kept, and return the epochs done."""
        state = self._state()
        schema = {"history": (np.float64, ("epochs", len(self._metrics)))}
        for name, variable in state.items():
            schema[name] = (np.dtype(variable.dtype), tuple(variable.shape))
        arrays = self._entry.get(schema)
        if arrays is None:
            return 0
        for name, variable in state.items():
            variable.assign(arrays[name])
        self._history = arrays["history"].tolist()
        return len(self._history)

    def table(self):
        """Return the history: a row for each epoch, counted from 1."""
        history = pd.DataFrame(self._history, columns=self._metrics)
        history.insert(0, "epoch", np.arange(1, len(history) + 1))
        return history

    def on_epoch_end(self, epoch, logs=None):
        self._history.append([float(logs[name]) for name in self._metrics])
        state = self._state()
        arrays = {name: ops.convert_to_numpy(v) for name, v in state.items()}
        arrays["history"] = np.array(self._history)
        self._entry.put(arrays)
